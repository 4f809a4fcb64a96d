"""How far a wrong answer moves the confidence, against how likely the model is to give it.

It draws the answers in a run's records; it needs no model."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.captions import Page, RunData, Subject, caption, in_words
from figures.jsd import KINDS, LEAST, TICK_LABELS, TICKS, draw_floor
from figures.style import DOUBLE, INK, ROLE_COLOURS, WRONG_MARKERS
from interp.divergence import LIMIT, NEAR_ZERO, pairwise_divergences
from interp.intervals import Estimate
from interp.measures import DivergenceRecord

SOURCES = {"jsd": ("wrong", "jsd"), "branched": ("branched", "jsd.branched"), "foil": ("foil", "jsd.same_relation")}
"""For each source of wrong answers its role in a record, and the beginning of its keys."""


@dataclass(frozen=True)
class Likelihoods:
    """How far each wrong answer moves the confidence, and how likely the model is to give it."""

    points: dict[str, tuple[tuple[float, float], ...]]
    """By source: for each wrong answer its log-probability (nats) and the divergence (nats) from the right one."""
    floor: Estimate | None
    """The median divergence of the same answer in another surface form."""
    correlations: dict[str, Estimate]
    """By source: Spearman's rank correlation of the two, over the first wrong answer of each question."""


def likelihoods(run: RunData) -> Likelihoods:
    """The scatter's data, with every wrong answer of the run."""
    # each wrong answer is compared with the right answer to its question under the same set of worked examples
    records = run.of(DivergenceRecord)
    points = {
        source: tuple(
            (wrong.logprob, float(pairwise_divergences([right.probability, wrong.probability])[0]))
            for record in records
            for right in record.answers.get("right", ())[:1]
            for wrong in record.answers.get(role, ())
        )
        for source, (role, _) in SOURCES.items()
    }
    keys = {source: f"{key}.likelihood_correlation" for source, (_, key) in SOURCES.items()}
    correlations = {source: run.estimates[key] for source, key in keys.items() if key in run.estimates}
    return Likelihoods(points, run.estimates.get("jsd.noise_floor"), correlations)


def draw_likelihoods(measurement: Likelihoods, ax: Axes) -> Axes:
    """A mark for each wrong answer, by source, over the noise floor."""
    draw_floor(measurement.floor, ax.axhspan, ax.axhline)
    for source, points in measurement.points.items():
        if points:
            x, y = zip(*points, strict=True)
            colour, filled = ROLE_COLOURS[source], source == "jsd"
            ax.scatter(
                x,
                np.clip(y, LEAST, None),
                s=16 if filled else 26,  # an answer that was sampled and branched shows both marks
                marker=WRONG_MARKERS[source],
                facecolors=colour if filled else "none",
                edgecolors="white" if filled else colour,
                linewidths=0.4 if filled else 0.8,
                zorder=2,
            )
    ax.axhline(NEAR_ZERO, color=INK, ls="--", lw=0.9)
    ax.set(yscale="log", ylim=(LEAST, 1.3 * LIMIT), ylabel="JSD from the right answer (nats)")
    ax.set_xlabel("log-probability of the wrong answer (nats)")
    ax.set_yticks(TICKS, TICK_LABELS)
    ax.set_yticks((), minor=True)
    return ax


LIKELIHOODS_READ = """\
Each mark is a wrong answer put to a question: how likely the model is to give it (further right: likelier; the
log-probability of its tokens and of the end of its line), and how far it moves the confidence from what is stated after
the right answer.
Filled circles were sampled, the paper's way, squares found by branching, triangles belong to another question of the
relation; an answer that was sampled and branched has both marks. Marks on the grey band, the noise floor, are no
reaction to what the answer says. If marks rise towards the left, the confidence reacts to unlikely answers more than to
those that the model would give, and a comparison with sampled answers alone would miss it."""


def likelihood_pages(run: RunData) -> Iterator[Page]:
    """The scatter, where the run has put wrong answers to the model."""
    data = likelihoods(run)
    if any(data.points.values()):
        yield _page(data, run.subject)


def _page(data: Likelihoods, subject: Subject) -> Page:
    figure = Figure((DOUBLE * 0.72, 2.9), layout="constrained")
    ax = draw_likelihoods(data, figure.subplots())
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=WRONG_MARKERS[source],
            mfc=ROLE_COLOURS[source] if source == "jsd" else "none",
            mec=ROLE_COLOURS[source],
            ms=4.5,
            label=KINDS[source][1],
        )
        for source, points in data.points.items()
        if points
    ]
    floor = Line2D([], [], color=ROLE_COLOURS["noise_floor"], lw=1.4, label="noise floor, median")
    figure.legend(handles=[*handles, floor], loc="outside upper left", ncols=2, columnspacing=1.4)
    ax.margins(x=0.03)
    numbers = {f"wrong answers drawn, {KINDS[name][1]}": str(len(points)) for name, points in data.points.items()}
    numbers |= {
        f"rank correlation of likelihood and JSD, one {KINDS[name][1]} a question": in_words(correlation)
        for name, correlation in data.correlations.items()
    }
    if data.floor:
        numbers["noise floor, median JSD"] = in_words(data.floor)
    return Page("jsd_likelihood", figure, caption(LIKELIHOODS_READ, numbers, subject))
