"""Changing the joint graph: one constructor of nodes, insertion of quantize and dequantize, cloning, inlining, checks."""
