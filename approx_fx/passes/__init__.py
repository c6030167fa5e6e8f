"""Changing the joint graph: one pass a file, the list of them in `pipeline`, one constructor of new nodes."""
