"""Recurrent layers as ops over a layer's whole time, whose saved gates are stacked and can be coded.

Compilers call these ops as they are; those of `ops/` are lowered by their references, which would unroll a loop.
"""
