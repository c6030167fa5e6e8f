"""Measuring: systems side by side in separate processes, live bytes, timelines predicted from generated code."""
