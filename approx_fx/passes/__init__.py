"""Graph passes, one per file; `pipeline` lists them in their order, and `node_builder` constructs new nodes."""
