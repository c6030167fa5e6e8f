"""What to keep and how: the minimum cut of the joint graph in encoded bytes, and the rules that shape it."""
