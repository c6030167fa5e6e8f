"""Measuring: systems side by side in processes of their own, live bytes, timelines read off generated code."""
