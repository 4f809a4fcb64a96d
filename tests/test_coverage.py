"""Intervals hold the truth as often as they say: 1,000 samples a cell."""

import re

import pytest
from coverage_table import CELLS, PAGE, SAMPLES, table

ERROR = 0.007
"""The standard error of a share of 0.95 in 1,000 samples."""


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CELLS)), ids=[f"{cell.name}, {cell.size}" for cell in CELLS])
def test_an_interval_holds_the_truth_as_often_as_it_says(number):
    cell = CELLS[number]
    share, count = cell.coverage()
    assert count >= SAMPLES / 2
    assert cell.least - ERROR <= share <= cell.most + ERROR
    row = re.search(rf"\| {re.escape(cell.name)} \| {cell.size} \| ([\d.]+) % \|", PAGE.read_text(encoding="utf-8"))
    assert row and float(row[1]) == pytest.approx(100 * share, abs=0.3), "the page shows other numbers"


def test_the_table_has_a_row_for_every_cell():
    names = [(cell.name, cell.size) for cell in CELLS]
    assert len(set(names)) == len(names) == table([(0.95, 1)] * len(CELLS)).count("95.0 %")
