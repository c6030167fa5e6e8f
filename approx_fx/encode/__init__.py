"""How a kept value is stored: one encoding a file, and the table that picks one."""
