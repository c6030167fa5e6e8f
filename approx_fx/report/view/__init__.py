"""The report as one HTML file, as pictures for papers, as text."""
