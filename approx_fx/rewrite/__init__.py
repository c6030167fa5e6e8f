"""Changing the joint graph: one constructor of nodes, quantize and dequantize, cloning, inlining, checks."""
