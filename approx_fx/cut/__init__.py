"""What to keep: the minimum cut of the joint graph in encoded bytes, and the rules that shape it."""
