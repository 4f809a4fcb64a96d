"""The price of a run as a table on the terminal: a row for each part, and one for the whole of each command."""

from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from interp.runs import Record

COLUMNS = ("", "passes", "tokens", "FLOP", "attention", "peak memory", "time", "share")
WIDTH = 110


def whole(parts: list[Record]) -> Record:
    """The sums over the parts of a command, and the largest of what is held at a time."""
    sums = {name: sum(part[name] for part in parts) for name in ("passes", "tokens", "flops", "seconds")}
    return sums | {name: max(part[name] for part in parts) for name in ("attention", "peak")}


def rows(parts: list[Record]) -> list[tuple[str, ...]]:
    """Each part as it is read, each command's whole before its parts; shares are those of the command's time."""
    found = []
    for command, of_command in groupby(parts, key=lambda part: part["command"]):
        inside = list(of_command)
        total = whole(inside)
        found.append(_cells(command, total, total["seconds"]))
        found += [_cells(f"  {part['part']}", part, total["seconds"]) for part in inside]
    return found


def printed_cost(cost: Record) -> None:
    """Prints the table, and a line for each thing that it rests on."""
    console = Console(highlight=False, width=WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, title in enumerate(COLUMNS):
        table.add_column(title, justify="right" if number else "left")
    for row in rows(cost["parts"]):
        table.add_row(*row)
    console.print(table)
    for line in assumptions(cost):
        console.print(line, markup=False, soft_wrap=True)


def assumptions(cost: Record) -> list[str]:
    """What the numbers rest on, a sentence each."""
    machine, sizes = cost["machine"], cost["architecture"]
    lines = [
        f"Model: {sizes['parameters'] / 1e9:.3g} billion parameters, {sizes['layers']} layers, "
        f"{machine['itemsize']} bytes each.",
        f"Machine: {machine['name']}: {short(machine['forward'])}FLOP/s forward, {short(machine['backward'])}FLOP/s "
        f"backward, {machine['pass_seconds'] * 1e3:.3g} ms for any pass.",
    ]
    if machine["processes"] > 1:
        lines.append(f"Processes: {machine['processes']} share a run, each part shows one of them.")
    for name, one in cost["lengths"].items():
        lines.append(
            f"{name}: tokens of opening {one['opening']:.0f}, question {one['question']:.3g}, answer "
            f"{one['answer']:.3g}, tail {one['tail']:.0f}, levels {one['levels']:.0f}; means of a sample."
        )
    lines.append(f"Assumed: {cost['accuracy']:.0%} are answered right (--accuracy). Not included: see docs/scaling.md.")
    if machine["memory"]:
        most = max(part["peak"] for part in cost["parts"])
        fits = "fits" if most < machine["memory"] else "does NOT fit"
        lines.append(f"Memory: the most that is held, {short(most)}B, {fits} in {short(machine['memory'])}B.")
    return lines


def _cells(name: str, price: Record, total: int | float) -> tuple[str, ...]:
    counts = [short(price[key]) if price[key] else "" for key in ("passes", "tokens", "flops")]
    held = [f"{short(price[key])}B" if price[key] else "" for key in ("attention", "peak")]
    return (name, *counts, *held, span(price["seconds"]), f"{price['seconds'] / total:.0%}")


def short(value: int | float) -> str:
    """Three digits and a prefix: 1.23 G."""
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if prefix == 'k' else size):.3g} {prefix}"
    return f"{value:.0f} "


def span(seconds: int | float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
