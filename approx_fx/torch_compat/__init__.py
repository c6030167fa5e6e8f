"""Wrappers around private interfaces of torch that are only called, never patched; one file for each interface."""
