"""The loss in chunks: finds what is computed row by row between a large product, such as logits, and a loss, and its
gradient, so that a few rows at a time are computed, and no full copy exists."""
