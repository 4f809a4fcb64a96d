"""The estimate of a dry run as a table on the terminal: a row for each part, then time, memory and disk in all."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from interp.plain import visible
from interp.run.dryrun import DryRun, Part, peak_memory

COLUMNS = ("", "whole", "on record", "measured now", "each", "whole run", "left")
WIDTH = 110


def printed_dry_run(dry: DryRun, folder: Path) -> None:
    """Prints the table, a line each for time, memory and disk, and how to go on.

    Args:
        dry: What was measured.
        folder: The directory that keeps the measured part of the run.
    """
    console = Console(highlight=False, width=WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, title in enumerate(COLUMNS):
        table.add_column(title, justify="right" if number else "left")
    table.add_row("start", "", "", "", "", span(dry.start), span(dry.start))
    for part in dry.parts.values():
        table.add_row(*map(_literal, cells(part)))
    console.print(table)
    closing = f"What was measured is kept in {folder}; the same command without --dry-run goes on from there."
    for line in (*sentences(dry), closing):
        console.print(_literal(line), soft_wrap=True)


def cells(part: Part) -> tuple[str, ...]:
    """The row of one part; a dash where nothing was measured from which to estimate."""
    name = part.name if part.times == 1 else f"{part.name} ({part.times:.0f} times)"
    counts = (f"{part.whole:.0f}", f"{part.kept + part.measured}", f"{part.measured}")
    if not part.chunks:
        return (name, *counts, "–", "–", "–" if part.unknown else span(0.0))
    return (name, *counts, span(part.rate), span(part.seconds), span(part.left))


def sentences(dry: DryRun) -> list[str]:
    """Time, memory and disk of the whole."""
    minimum = "at least " if any(part.unknown for part in dry.parts.values()) else ""
    records = sum(part.written for part in dry.parts.values())
    disk = {"records": records} | dry.disk
    return [
        f"Time: {minimum}{span(dry.seconds)} for the whole run, {span(dry.left)} for what is left with another start.",
        f"Memory, at most: {', '.join(f'{size(amount)} of {where}' for where, amount in peak_memory().items())}.",
        f"Disk: {', '.join(f'{size(amount)} for {content}' for content, amount in disk.items())}; figures apart.",
    ]


def _literal(text: str) -> Text:
    return Text(visible(text))


def size(held: int | float) -> str:
    """Bytes in three digits with a prefix."""
    for unit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if held >= unit:
            return f"{held / unit:.3g} {prefix}B"
    return f"{held:.0f} B"


def span(seconds: int | float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
