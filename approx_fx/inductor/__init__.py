"""Compiling one half with Inductor: lowerings of our ops, graph passes, fusion choices, options, a table of patches."""
