"""Looking at compiled code: what Inductor wrote, what it moves and holds, and what the allocator did."""
