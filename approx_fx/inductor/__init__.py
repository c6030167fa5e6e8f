"""Compiling a half with Inductor: lowerings of our ops, passes over its graph, choices, options, a table of patches."""
