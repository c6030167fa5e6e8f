"""Measure training steps: systems side by side in separate processes, live bytes, and predicted timelines."""
