"""What a probe finds at each place and layer, and what the model says on the same questions.

It draws a run's records and estimates; how probes are fitted is the instrument's business."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from figures.captions import Page, RunData, caption, digits, in_words
from figures.forest import draw_forest
from figures.style import DOUBLE, INK, ROLE_COLOURS, SIDE_TITLES
from interp.intervals import LEVEL, Estimate
from interp.measures import ProbeRecord
from interp.probes import largest_by_chance, within
from interp.records import PLACES, PlaceName

PLACE_WORDS: dict[PlaceName, str] = {
    "question": "question's\nend",
    "answer": "answer's\nend",
    "tail": "first token\nafter it",
    "colon": "colon of\nConfidence:",
    "read": "before\nthe level",
}
"""The places under the columns."""
SHADES = LinearSegmentedColormap.from_list("known", ("#ffffff", ROLE_COLOURS["jsd"]))
"""From 0.5 (white) to 1."""
LEAST, ROW = 1.9, 0.17
"""Inches: the height of the figure without rows, and of a layer's row."""


@dataclass(frozen=True, eq=False)
class KnownByLayer:
    """The AUROC within relation of the probe at each place and layer."""

    places: tuple[PlaceName, ...]
    """The columns."""
    layers: tuple[int, ...]
    """The rows: how many layers the stream has passed."""
    fixed: PlaceName
    """The place that was fixed beforehand."""
    auroc: np.ndarray
    """[layers, places]; NaN where it is not defined."""
    limit: float
    """In 97.5 % of random orders of the labels no cell has a larger AUROC; NaN where there is none."""
    right: int
    """How many answers are right."""
    wrong: int
    """How many are wrong."""
    relations: int
    """How many relations there are; 0 where the data have none."""


def known_by_layer(run: RunData) -> KnownByLayer:
    """The figure's data, under the first set of worked examples and wording."""
    records = [record for record in run.first_set(ProbeRecord).values() if record.scores]
    if not records:
        nothing = np.full((1, len(PLACES)), np.nan)
        return KnownByLayer(PLACES, (0,), "answer", nothing, np.nan, 0, 0, 0)
    layers = records[0].layers
    scores = np.array(
        [[record.scores[place] for place in PLACES] for record in records], dtype=float
    )  # [questions, places, layers]
    finite = np.isfinite(scores).all(0)  # [places, layers]
    right = np.array([record.values["right"] for record in records], dtype=bool)
    group = np.array([record.values["group"] for record in records], dtype=int)
    cells = np.where(finite, scores, 0).transpose(2, 1, 0)  # [layers, places, questions]
    auroc = within(cells, np.broadcast_to(right, cells.shape), np.broadcast_to(group, cells.shape))
    chance = largest_by_chance(cells[finite.T], right, [str(number) for number in group]) if finite.any() else [np.nan]
    return KnownByLayer(
        PLACES,
        layers,
        records[0].place,
        np.where(finite.T, auroc, np.nan),
        float(np.quantile(chance, LEVEL)),
        int(right.sum()),
        int((~right).sum()),
        len(set(group.tolist())) if len(set(group.tolist())) > 1 else 0,
    )


def draw_known(known: KnownByLayer, ax: Axes) -> Axes:
    """A cell for each place and layer, with its AUROC; framed where chance alone does not reach it."""
    ax.imshow(known.auroc, cmap=SHADES, vmin=0.5, vmax=1, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(known.auroc):
        if np.isnan(value):
            continue
        beyond = value > known.limit
        ax.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", size=5.5, color=INK)
        if beyond:
            ax.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, ec=INK, lw=0.8))
    ax.set_xticks(range(len(known.places)), [PLACE_WORDS[place] for place in known.places], size=5.5)
    ax.get_xticklabels()[known.places.index(known.fixed)].set_fontweight("bold")
    ax.set_yticks(range(len(known.layers)), [str(layer) for layer in known.layers])
    ax.set_ylabel("layers passed")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def draw_rivals(run: RunData, words: Mapping[str, str], ax: Axes) -> Axes:
    """The AUROC of the probe and of everything else that tells right answers from wrong ones, with intervals."""
    null = run.estimate(next(iter(words), "")).null
    if null:
        ax.axvspan(null.low, null.high, color=ROLE_COLOURS["noise_floor"], alpha=0.25, lw=0)
    draw_forest(rivals(run, words), "AUROC within relation", ax)
    ax.axvline(0.5, color=INK, lw=0.6)
    return ax


def rivals(run: RunData, words: Mapping[str, str]) -> dict[str, Estimate]:
    """The estimates that a run has, by what they are called. words: by their keys."""
    return {name: run.estimates[key] for key, name in words.items() if key in run.estimates}


HOW_TO_READ = """\
Left: how well a linear probe of the residual stream tells right answers from wrong ones, by the place (columns) and
by how many layers the stream has passed (rows); 0.5 by chance. Each question is scored by a probe that was fitted on
other relations, and pairs are compared within a relation. Framed: above what the largest of all cells reaches by
chance, in 97.5 % of random orders of the labels within relations. The first column is the control: what is found at
the question's end was known before there was an answer. Right: the probe at the place fixed beforehand (bold), with
layer and penalty chosen on other relations, and beside it what else tells right answers from wrong ones. The grey
band holds 95 % of probes of shuffled labels. To claim that a model knows more than it says, compare the probe with
the larger of sequence probability and the question's end."""
WITHOUT_RELATIONS = "The data have no relations: all questions are compared, and folds are of questions."


def probe_page(run: RunData, words: Mapping[str, str]) -> Page:
    """The figure of the probe. words: the AUROCs that are shown, by their keys."""
    known = known_by_layer(run)
    figure = Figure((DOUBLE, LEAST + ROW * len(known.layers)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 0.95))
    draw_known(known, left).set_title("a  known, by place and layer")
    draw_rivals(run, words, right).set_title("b  known and said")
    how = HOW_TO_READ if known.relations else f"{HOW_TO_READ} {WITHOUT_RELATIONS}"
    return Page("probe", figure, caption(how, _numbers(run, known, words), run.subject))


def _numbers(run: RunData, known: KnownByLayer, words: Mapping[str, str]) -> dict[str, str]:
    """The caption's numbers."""
    counts = f"{known.right} right, {known.wrong} wrong"
    numbers = {"answers": f"{counts}, {known.relations} relations" if known.relations else counts}
    if np.isfinite(known.limit):
        numbers["what the largest cell reaches by chance"] = digits(known.limit)
    numbers |= {name: _with_null(estimate) for name, estimate in rivals(run, words).items()}
    others = {
        "known but not said": "probe.unsaid",
        "the probe less the stated confidence": "probe.less_stated",
        "correlation of the scores of correctness and of stated confidence": "probe.correlation",
    }
    return numbers | {name: _with_null(run.estimate(key)) for name, key in others.items() if key in run.estimates}


def _with_null(estimate: Estimate) -> str:
    """An estimate in words, and what it is by chance."""
    null = estimate.null
    by_chance = f"; by chance {digits(null.value)} [{digits(null.low)}, {digits(null.high)}]" if null else ""
    return in_words(estimate) + by_chance


def compared_probes(before: RunData, after: RunData, words: Mapping[str, str]) -> tuple[Figure, str]:
    """What is known by place and layer in two runs, and below it what is known and said, and how to read it.

    words: the AUROCs that are shown where both runs have them, by their keys."""
    sides = (before, after)
    words = {key: name for key, name in words.items() if all(key in run.estimates for run in sides)}
    known: Sequence[KnownByLayer] = [known_by_layer(run) for run in sides]
    rows = max(len(side.layers) for side in known)
    heights = (0.7 + ROW * rows, 0.5 + 0.2 * len(words))
    figure = Figure((DOUBLE, sum(heights) + 0.6), layout="constrained")
    above, below = figure.subplots(2, 2, height_ratios=heights)
    for number, run in enumerate(sides):
        draw_known(known[number], above[number]).set_title(f"{'ab'[number]}  {SIDE_TITLES[number]}: known")
        draw_rivals(run, words, below[number]).set_title(f"{'cd'[number]}  {SIDE_TITLES[number]}: known and said")
    limits = [ax.get_xlim() for ax in below]
    for ax in below:
        ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    above[1].set_ylabel("")
    below[1].set_yticklabels([])
    return figure, (
        "Above: the AUROC within relation of a linear probe by place and number of layers, framed where the largest of "
        "all cells does not reach it by chance. Below: the probe, and what else tells right answers from wrong ones. "
        "Training that moves what is said, and not what is known, changes the stated confidence below and leaves the "
        "probe and the map above as they are."
    )
