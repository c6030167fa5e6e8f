"""Measure, on the data of a real step, how far what the backward will read is from what it would read exactly."""
