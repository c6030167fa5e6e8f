"""Process-wide settings that a compile changes outside torch: malloc's thresholds and Python's recursion limit."""
