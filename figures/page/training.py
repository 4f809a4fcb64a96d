"""A training, an ablation or organisms in the page: learning curves and tables."""

from collections.abc import Sequence

from figures.captions import Page
from figures.grid import Column, Grid
from figures.organisms import check_grid, check_title, left_out
from figures.page.content import Report, Shown
from figures.page.tables import table_of_grid
from figures.training import NAMES, PANELS, ablation_grid
from interp.intervals import of_record
from interp.run.runs import Record


def training_report(config: Record, summary: Record, figures: Sequence[Page], title: str) -> Report:
    """The report of a training: its learning curve and every number of it."""
    identity = config["identity"]
    facts = {"Method": identity["method"], "Model": f"{identity['ckpt']} {identity.get('note') or ''}".strip()}
    shown = tuple(Shown(page, "Learning curve", headline=True) for page in figures)
    table = table_of_grid(curve_grid(summary["training"]["curve"]), "curve", "Held-out questions, by update")
    return Report("training", title, facts, figures=shown, tables=(table,))


def curve_grid(points: Sequence[Record]) -> Grid:
    """Every number of a learning curve, a row for each update and format."""
    found = points[0]["formats"].values()
    keys = [
        (key, f"{panel}, {NAMES[key]}")
        for panel, lines in PANELS.items()
        for key in lines
        if all(key in numbers for numbers in found)
    ]
    rows = [
        ((str(point["update"]), form), tuple(of_record(numbers[key]) for key, _ in keys))
        for point in points
        for form, numbers in point["formats"].items()
    ]
    columns = tuple(Column(key, heading, scale=1.0, places=None) for key, heading in keys)
    return Grid(("update", "format"), columns, tuple(rows))


def ablation_report(summary: Record, figures: Sequence[Page], title: str) -> Report:
    """The report of an ablation: its figure and its table."""
    shown = tuple(Shown(page, "ADVICE with the terms that each row names", headline=True) for page in figures)
    table = table_of_grid(ablation_grid(summary), "ablation", "Calibration of every row")
    return Report("ablation", title, {"Base": summary["base"]}, figures=shown, tables=(table,))


def organisms_report(summary: Record, title: str) -> Report:
    """The report of organisms: how far each confidence depends on each cue, and which were left out."""
    table = table_of_grid(check_grid(summary), "organisms", check_title(summary), notes=left_out(summary))
    return Report("organisms", title, {"Base": summary["ckpt"]}, tables=(table,))
