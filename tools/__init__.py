"""Commands around approx_fx, which are not part of the installed package: training, plots, measurements.

The files here are the commands. `lib` and `measuring` hold the code they share, `reproduce` is the command
`python -m tools.reproduce` with the paper's experiments, `results` holds what the commands wrote.
"""
