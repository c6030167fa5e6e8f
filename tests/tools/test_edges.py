"""tools/edges.py: what a step of several graphs holds is what the report says, and hardly more than one graph's."""

from __future__ import annotations

import json

import pytest

from tools.edges import PAGE, RESULTS, WAYS, Line, run, table

LOSS = 4  # bytes of the loss itself


@pytest.mark.slow
def test_buckets_that_are_really_crossed() -> None:
    """A model of 77 MB in two processes: DDP's usual buckets are of 25 MB."""
    for one, usual, small, whole, breaks in run(["one graph", "ddp", "ddp, 1 MiB", "ddp, 1 MiB, whole", "breaks"]):
        assert (one.graphs, whole.graphs, breaks.graphs) == (1, 1, 3) and small.graphs > usual.graphs > 1
        for line in (one, usual, small, whole, breaks):
            assert line.held == line.saved + LOSS
            assert line.cosine > 0.99
        assert usual.held <= 1.1 * one.held
        assert breaks.held <= 1.1 * one.held
        assert whole.held <= 1.01 * one.held
        assert small.held <= 1.75 * one.held  # a border is coded by both of its sides, and there are 25


def test_the_committed_table() -> None:
    data = json.loads(RESULTS.read_text())
    lines = [Line(**line) for line in data["ranks"][0]]
    assert [line.way for line in lines] == list(WAYS)
    assert table(lines, data) in PAGE.read_text()
