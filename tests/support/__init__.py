"""Networks, captured graphs, strategies of hypothesis, processes and browsers for the tests."""
