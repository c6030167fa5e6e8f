"""Recurrent layers as ops over a layer's whole time, whose saved gates are stacked and can be coded."""
