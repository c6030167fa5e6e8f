"""Drawings of the report: one HTML file, pictures for papers, and text."""
