"""Commands around approx_fx, which are not part of the installed package: training, plots, measurements.

The files here are the commands; `lib` holds the code they share, `reproduce` is the command
`python -m tools.reproduce` with the paper's experiments. What the commands write lies in `docs/results`. All that run
a step do it by the harness of the package, `approx_fx.bench`.
"""
