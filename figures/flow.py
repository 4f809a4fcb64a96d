"""On which way the answer reaches the confidence: what is left when an edge is cut, and what moves with a swap.

It draws a run's records and estimates; what is cut and swapped is the instrument's business."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from figures.captions import Page, RunData, caption, digits, in_words, percent
from figures.style import DOUBLE, INK, ROLE_COLOURS, SIDE_TITLES
from interp.intervals import LEVEL, Estimate, ratio_of_medians
from interp.measures import FlowRecord

Edges = Mapping[str, tuple[str, Sequence[str]]]
"""By the name of an edge the group that is looked at, and the groups that look."""
SOURCES = {"sampled": "sampled", "branched": "branched", "same_relation": "of the same relation"}
"""Where wrong answers come from, in words."""
WHEN = {
    "half": "after half of the layers",
    "late": "after five sixths",
    "variant": "after half, with a surface-form variant's stream (control)",
    "other": "after half, with another question's stream (control)",
}
"""The swaps that stand in the caption, by the last part of their keys."""
GROUPS = ("answer", "first", "rest", "read")
SHORT = {"answer": "answer", "first": "first\ntoken", "rest": "“Confi-\ndence:”", "read": "what\nis read"}
"""The groups under their nodes."""
CONTROL = "instruction_to_later"
FLIPS = 1000
"""How often the signs of what moves are drawn by chance, for the band of the largest cell."""
MOVES = LinearSegmentedColormap.from_list("moves", ("#ffffff", ROLE_COLOURS["jsd"]))
STAYS = LinearSegmentedColormap.from_list("stays", (ROLE_COLOURS["jsd"], "#ffffff"))
"""White: all of the dependence is left, or none moves."""
LEAST = ("noise_floor", "rounding")
"""What the divergence of a question that is followed exceeds, by the names of its values."""
WIDEST = 6.0
"""Points: the width of an edge without which nothing is left."""


@dataclass(frozen=True, eq=False)
class Ways:
    """What is drawn of a run: only questions whose confidence depends on the answer by more than its noise floor."""

    followed: Estimate
    """The share of questions that are followed."""
    edges: dict[str, Estimate]
    """The share of the dependence that is left, by edge; without a value where too few questions are followed."""
    windows: tuple[str, ...]
    """The windows of layers, as in "0-4"."""
    by_window: dict[str, np.ndarray]
    """The share that is left by edge, [windows]."""
    layers: tuple[int, ...]
    """After how many layers streams are swapped."""
    groups: tuple[str, ...]
    """Whose streams are swapped."""
    swaps: np.ndarray
    """The share of the difference that moves along, [layers, groups]; NaN where nothing can move."""
    band: float
    """In 95 % of random signs no cell is further from 0; NaN where there is none."""

    @property
    def something(self) -> bool:
        """Whether there is anything to follow."""
        return any(edge.value is not None for edge in self.edges.values())


def ways(run: RunData, names: Sequence[str]) -> Ways:
    """The figure's data, under the first set of worked examples and wording. names: of the edges."""
    records = [
        record
        for record in run.first_set(FlowRecord).values()
        if record.whole and (record.values["jsd"] or 0) > max(record.values.get(name) or 0 for name in LEAST)
    ]
    edges = {name: run.estimate(f"flow.{name}.share_left") for name in (*names, CONTROL)}
    windows = tuple(next((record.windows[names[0]] for record in records if names[0] in record.windows), ()))
    by_window = {
        name: _left([record for record in records if name in record.windows], name, windows)
        for name in names
        if any(name in record.windows for record in records)
    }
    # levels may be other tokens after the wrong answer: then nothing was swapped
    exchanged = [record for record in records if record.swaps]
    groups = tuple(group for group in GROUPS if exchanged and group in exchanged[0].swaps)
    layers = tuple(int(layer) for layer in exchanged[0].swaps[groups[0]]) if groups else ()
    moved, sizes = _moved(exchanged, layers, groups)
    total = sizes.sum() or np.nan
    return Ways(
        run.estimate("flow.followed"),
        edges,
        windows,
        by_window,
        layers,
        groups,
        moved.sum(0) / total if exchanged else np.zeros((0, 0)),
        _band(moved[:, :-1], total),  # after all layers all of it moves by construction
    )


def _left(records: Sequence[FlowRecord], name: str, windows: Sequence[str]) -> np.ndarray:
    """The ratio of medians by window, [windows]."""
    left = np.array([[record.windows[name][window].jsd for window in windows] for record in records])
    whole = np.array([[record.values["jsd"]] * len(windows) for record in records], dtype=float)
    return np.asarray(ratio_of_medians(left, whole, axis=0))


def _moved(
    records: Sequence[FlowRecord], layers: Sequence[int], groups: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(What moves, [questions, layers, groups], signed as the whole difference; the size of that, [questions])."""
    moved = np.full((len(records), len(layers), len(groups)), np.nan)
    sizes = np.zeros(len(records))
    for i, record in enumerate(records):
        whole = record.whole
        difference = whole["right"] - whole["wrong"]
        sizes[i] = abs(difference)
        for column, group in enumerate(groups):
            for row, layer in enumerate(layers):
                if swapped := record.swaps.get(group, {}).get(str(layer)):
                    both = (whole["right"] - swapped["right"]) + (swapped["wrong"] - whole["wrong"])
                    moved[i, row, column] = np.sign(difference) * both / 2
    return moved, sizes


def _band(moved: np.ndarray, total: float) -> float:
    """The largest share of any cell by chance: signs are drawn for each question, the same in all its cells.

    moved: [questions, layers, groups]."""
    if not moved.size or not np.isfinite(total):
        return np.nan
    signs = np.random.default_rng(0).choice((-1.0, 1.0), (FLIPS, len(moved)))
    cells = np.nan_to_num(moved.reshape(len(moved), -1))
    return float(np.quantile(np.abs(signs @ cells).max(1) / total, 2 * LEVEL - 1))


def draw_edges(found: Ways, edges: Edges, ax: Axes) -> Axes:
    """The groups in the order of the text, and an arc for each edge between two of them.

    The wider, the less is left without it; grey where its interval does not lie below that of the control."""
    at = {group: float(place) for place, group in enumerate(GROUPS)}
    control = found.edges[CONTROL]
    for name, (looked_at, looking) in edges.items():
        left = found.edges[name].value
        start, end = at[looked_at], at[looking[-1]]
        if left is None or len(looking) > 1:
            continue  # what is cut from all that is later has no one arc: it stands in (b) and in the caption
        ax.add_patch(
            FancyArrowPatch(
                (start, 0.14),
                (end, 0.14),
                connectionstyle="arc3,rad=-0.45",
                arrowstyle="-|>,head_width=2.2,head_length=3.5",
                lw=0.6 + WIDEST * max(0.0, 1 - left),
                color=ROLE_COLOURS["jsd"] if _below(found.edges[name], control) else ROLE_COLOURS["noise_floor"],
                alpha=0.85,
            )
        )
        # the top of an arc, on white, so that a wide arc does not hide the number
        label = ax.text((start + end) / 2, 0.14 + 0.24 * (end - start), percent(left), ha="center", va="center", size=6)
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8})
    for group, place in at.items():
        ax.plot(place, 0, "o", ms=8, color=INK)
        ax.text(place, -0.16, SHORT[group], ha="center", va="top", size=6)
    ax.set(xlim=(-0.5, 3.5), ylim=(-0.75, 1.45))
    ax.set_axis_off()
    return ax


def _below(edge: Estimate, control: Estimate) -> bool:
    """Whether less is left than with the control cut, intervals included."""
    low = control.value if control.low is None else control.low
    return edge.high is not None and low is not None and edge.high < min(low, 1.0)


def draw_windows(found: Ways, edges: Edges, words: Mapping[str, str], ax: Axes) -> Axes:
    """What is left when an edge is cut in a window of layers, a row for each edge."""
    names = [name for name in edges if name in found.by_window]
    shares = np.array([found.by_window[name] for name in names])  # [edges, windows]
    ax.imshow(shares, cmap=STAYS, vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        _number(ax, column, row, share, dark=bool(share < 0.35))
    ax.set_yticks(range(len(names)), [words[name] for name in names], size=5.5)
    ax.set_xticks(range(len(found.windows)), found.windows)
    ax.set_xlabel("layers in which it is cut")
    return _plain(ax)


def draw_swaps(found: Ways, ax: Axes) -> Axes:
    """What moves with a swapped stream by group and layer; framed where chance does not reach it."""
    if not found.groups:
        ax.text(0.5, 0.5, "not swapped: levels are other\ntokens after the other answer", ha="center", va="center")
        ax.set_axis_off()
        return ax
    ax.imshow(np.nan_to_num(found.swaps), cmap=MOVES, vmin=0, vmax=1, aspect="auto", origin="lower")
    for (row, column), share in np.ndenumerate(found.swaps):
        if np.isnan(share):
            continue
        _number(ax, column, row, share, dark=bool(share > 0.65))
        if abs(share) > found.band:
            ax.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, ec=INK, lw=0.8))
    ax.set_xticks(range(len(found.groups)), [SHORT[group] for group in found.groups], size=5.5)
    ax.set_yticks(range(len(found.layers)), [str(layer) for layer in found.layers])
    ax.set_ylabel("layers passed")
    return _plain(ax)


def _number(ax: Axes, column: int, row: int, share: float, *, dark: bool) -> None:
    """A cell's share in per cent; in white on a dark cell."""
    colour = "white" if dark else INK
    ax.text(column, row, f"{round(100 * share)}", ha="center", va="center", size=5.5, color=colour)


def _plain(ax: Axes) -> Axes:
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _nothing(found: Ways, ax: Axes) -> Axes:
    """What stands where too few questions depend on their answer."""
    count = round((found.followed.value or 0) * found.followed.n)
    ax.text(0.5, 0.5, f"nothing to follow:\n{count} of {found.followed.n} questions", ha="center", va="center")
    ax.set_axis_off()
    return ax


HOW_TO_READ = """\
Only questions whose JSD between the right and a wrong answer exceeds their own noise floor, and rounding, are followed;
of a confidence that does not depend on its answer these are about half, by chance. (a) Attention is knocked out, in all
layers and in both prompts, from a later group of tokens to an earlier one; the number is the share of the dependence
(median JSD) that is left, the width of an arc what is not. Shares may exceed 100 %, and do not sum: what is cut on one
way may go another. Grey: not below the control, which cuts as many tokens of the instruction. (b) The same in a window
of layers alone, in per cent. (c) The residual stream of one token, or of all that are read, is swapped between both
prompts after so many layers: the share of the difference of expected confidence that moves along, in per cent, large
differences weighing more; framed beyond what the largest cell reaches by chance (95 % of random signs). After all
layers what is read moves everything by construction."""
BROKEN = """
A LAW IS BROKEN beyond rounding on {count} of {n} questions: with the answer cut from all that is later something is
left, or the last swap does not move everything. Do not trust this run's numbers, and report it."""
NOTHING = """
Fewer than six questions depend on their answer by more than their noise floor: there is nothing to follow, and shares
would mean nothing."""


def flow_page(run: RunData, edges: Edges, words: Mapping[str, str], groups: Mapping[str, str]) -> Page:
    """The figure of flow. edges, words: the edges and what they are called; groups: whose streams are swapped."""
    found = ways(run, list(edges))
    figure = Figure((DOUBLE, 3.6 if found.something else 1.2), layout="constrained")
    if found.something:
        grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
        a, b, c = (figure.add_subplot(grid[place]) for place in ((0, 0), (1, 0), (slice(None), 1)))
        draw_edges(found, edges, a).set_title("a  what is left without an edge")
        draw_windows(found, edges, words, b).set_title("b  the same by layers, %")
        draw_swaps(found, c).set_title("c  what moves with a swap, %")
    else:
        _nothing(found, figure.subplots())
    how = HOW_TO_READ if found.something else HOW_TO_READ + NOTHING
    if (broken := run.estimate("flow.law.violated")).value:
        how += BROKEN.format(count=round(broken.value * broken.n), n=broken.n)
    return Page("flow", figure, caption(how, _numbers(run, found, words, groups), run.subject))


def _numbers(run: RunData, found: Ways, words: Mapping[str, str], groups: Mapping[str, str]) -> dict[str, str]:
    sources = Counter(record.source for record in run.first_set(FlowRecord).values() if record.whole)
    numbers = {"questions that are followed": in_words(found.followed, percent)}
    numbers["wrong answers"] = ", ".join(f"{count} {SOURCES.get(name, name)}" for name, count in sources.items())
    numbers |= {
        f"left without: {words[name]}": in_words(edge, percent)
        for name, edge in found.edges.items()
        if edge.n or edge.left_out
    }
    for group, name in groups.items():
        for layer, when in WHEN.items():
            if (share := run.estimate(f"flow.swap.{group}.{layer}")).value is not None:
                numbers[f"moves, {name}, {when}"] = in_words(share, percent)
    if found.something and (outside := run.estimate("flow.outside")).value is not None:
        numbers["off-scale mass as it is"] = in_words(outside, percent)
        name = max(found.edges, key=lambda edge: run.estimate(f"flow.{edge}.outside").value or 0.0)
        numbers[f"off-scale mass, largest, without: {words[name]}"] = in_words(
            run.estimate(f"flow.{name}.outside"), percent
        )
    if np.isfinite(found.band):
        numbers["what the largest cell of (c) reaches by chance"] = digits(found.band)
    for key, name in (
        ("flow.law.knockout", "law: JSD left with all cut"),
        ("flow.law.knockout_padded", "law: the same, padded"),
        ("flow.law.swap", "law: largest gap after the swap after all layers"),
    ):
        numbers[name] = in_words(run.estimate(key))
    return numbers


def compared_swaps(before: RunData, after: RunData, edges: Edges) -> tuple[Figure, str]:
    """The edges and the swaps of both runs, and how to read them."""
    figure = Figure((DOUBLE, 4.4), layout="constrained")
    axes = figure.subplots(2, 2, height_ratios=(1, 1.3))
    for number, run in enumerate((before, after)):
        found = ways(run, list(edges))
        above, below = axes[:, number]
        if found.something:
            draw_edges(found, edges, above)
            draw_swaps(found, below)
        else:
            _nothing(found, above)
            below.set_axis_off()
        above.set_title(f"{'ab'[number]}  {SIDE_TITLES[number]}: edges")
        below.set_title(f"{'cd'[number]}  {SIDE_TITLES[number]}: swaps")
    return figure, (
        "Above: what is left of the dependence on the answer (median JSD) when attention is knocked out between two "
        "groups of tokens; grey: not below the control. Below: the share of the difference of expected confidence that "
        "moves with a swapped residual stream, by group and number of layers passed, framed beyond chance. Each side "
        "follows the questions whose confidence depends on the answer there; where there are fewer than six, there is "
        "nothing to follow."
    )
