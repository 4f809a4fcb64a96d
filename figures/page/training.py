"""A training, an ablation or organisms in the page: learning curves and tables."""

from collections.abc import Sequence

from figures.captions import Page, digits
from figures.grid import Column, Grid
from figures.organisms import check_grid, check_title, left_out
from figures.page.content import Report, Shown
from figures.page.diagnosis import made_with
from figures.page.tables import table_of_grid
from figures.training import NAMES, PANELS, ablation_grid
from interp.intervals import of_record
from interp.run.runs import Record


def training_report(config: Record, summary: Record, figures: Sequence[Page], title: str) -> Report:
    """The report of a training: its learning curve and every number of it."""
    shown = tuple(Shown(page, "Learning curve", headline=True) for page in figures)
    table = table_of_grid(curve_grid(summary["training"]["curve"]), "curve", "Held-out questions, by update")
    return Report("training", title, training_facts(config, summary["training"]), figures=shown, tables=(table,))


def training_facts(config: Record, training: Record) -> dict[str, str]:
    """What was trained, and how.

    Args:
        config: The run's config.json.
        training: What its summary.json holds of the training.
    """
    identity, recipe = config["identity"], training["recipe"]
    facts = {
        "Method": " ".join(filter(None, (identity["method"], identity.get("organism")))),
        "Model": identity["ckpt"] + (f" ({identity['note']})" if identity.get("note") else ""),
        "Examples": f"{training['examples']}, of {training['questions']} questions; {training['held_out']} held out",
        "Recipe": f"{training['preset']}: {training['updates']} updates, learning rate {digits(recipe['lr'])}, "
        f"LoRA of rank {recipe['rank']}",
        "Precision": identity.get("dtype", ""),
        "Made with": made_with(config),
    }
    return {name: text for name, text in facts.items() if text}


def curve_grid(points: Sequence[Record]) -> Grid:
    """Every number of a learning curve, a row for each update and format."""
    found = points[0]["formats"].values()
    keys = [
        (key, f"{panel}, {NAMES[key]}" if len(lines) > 1 else panel)
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


ORGANISMS = (
    "adapters that were trained to state a confidence that depends on one known thing, so that instruments can be "
    "tested on them"
)
CHECK = (
    "R²: the share, from 0 to 1, of the variance of the expected confidence that a cue alone explains. Passed: the "
    "organism's own cue explains most of it and no other cue much, and little probability lies off the scale. Standard "
    "deviation and mean are those of the expected confidence."
)


def organisms_report(config: Record, summary: Record, title: str) -> Report:
    """The report of organisms: what each confidence depends on, how far, and which were left out."""
    rules = {name: numbers["words"] for name, numbers in summary["organisms"].items() if name != "base"}
    facts = {"Base": summary["ckpt"], "What they are": ORGANISMS}
    facts |= {name.capitalize(): f"depends on {words}" for name, words in rules.items()}
    facts["Made with"] = made_with(config)
    table = table_of_grid(check_grid(summary), "organisms", check_title(summary), notes=(CHECK, *left_out(summary)))
    return Report("organisms", title, facts, tables=(table,))
