"""What tools/bench.py and tools/gpu.py share: arithmetic of results, pages, plots, and the search for a batch."""
