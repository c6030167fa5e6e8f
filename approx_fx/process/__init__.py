"""What a compile sets in the process it runs in, beyond torch: the allocator's thresholds, the recursion limit."""
