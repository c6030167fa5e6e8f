"""What a partition saves, as data, as text and as a prediction of the peak; pages and pictures in `view`."""
