"""The report of what a partition saves: as data, as text, with a predicted peak; HTML and pictures are in `view`."""
