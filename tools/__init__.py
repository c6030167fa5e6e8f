"""Training, plots and measurements around approx_fx; not part of the installed package."""
