"""Encodings: how a saved tensor is stored, one kind per file, and the list from which one is chosen."""
