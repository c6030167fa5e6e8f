"""Code that the commands in tools/ share: data sets, training runs, result files, tables and pictures."""
