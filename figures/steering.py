"""How the confidence follows the dose of a direction, beside random ones, and what steering by a probe reaches.

It draws a run's records and estimates; what is added to the stream is the instrument's business."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.captions import Page, RunData, caption, in_words, percent
from figures.forest import draw_forest
from figures.style import DOUBLE, INK, RIGHT, ROLE_COLOURS, drawn_sides
from interp.intervals import Estimate, estimated
from interp.measures import AnswerRecord, SteeringRecord
from interp.run.runs import means_by_question

STEERED_COLOUR, RANDOM_COLOUR = RIGHT, ROLE_COLOURS["noise_floor"]


@dataclass(frozen=True)
class Curve:
    """What happens along one kind of direction."""

    doses: tuple[float, ...]
    """In standard deviations of the projections on the direction, in rising order."""
    expected: tuple[Estimate, ...]
    """Mean expected confidence at each dose."""
    outside: tuple[Estimate, ...]
    """Mean off-scale mass at each dose."""


def curves(run: RunData) -> tuple[Curve, ...]:
    """The figure's data: the curve along the direction, then one along each random direction."""
    records = run.of(SteeringRecord)
    doses = records[0].doses
    relations = {answer.id: answer.relation for answer in run.of(AnswerRecord)}
    questions = means_by_question((record.id, record.values) for record in records)
    groups = [relations.get(identity, "") for identity in questions]

    def estimates(side: str, name: str) -> tuple[Estimate, ...]:
        columns = [[values.get(f"{side}.{name}.{dose:g}") for values in questions.values()] for dose in doses]
        return tuple(estimated(column, groups=groups if any(groups) else ()) for column in columns)

    names = {name for values in questions.values() for name in values}
    count = sum(f"random.{number}.slope" in names for number in range(len(names)))
    sides = ("steered", *(f"random.{number}" for number in range(count)))
    return tuple(Curve(doses, estimates(side, "expected"), estimates(side, "outside")) for side in sides)


def draw_curve(doses: Sequence[float], estimates: Sequence[Estimate], ax: Axes, *, random: bool) -> Axes:
    """A line through the means at each dose; along the direction with dots and the band of their 95 % intervals."""
    known = [(dose, each) for dose, each in zip(doses, estimates, strict=True) if each.value is not None]
    means = np.array([(dose, each.value) for dose, each in known], dtype=float).reshape(-1, 2).T
    if random:
        ax.plot(*means, color=RANDOM_COLOUR, lw=0.8)
    else:
        ax.plot(*means, "o-", color=STEERED_COLOUR, ms=3.5, lw=1.2, zorder=3)
        banded = [(dose, each.low, each.high) for dose, each in known if each.low is not None and each.high is not None]
        if banded:
            ax.fill_between(*np.array(banded).T, color=STEERED_COLOUR, alpha=0.2, lw=0)
    ax.set_xticks(doses, [f"{dose:g}" for dose in doses])
    ax.set(ylim=(0, 1), xlabel="dose (standard deviations)")
    return ax


def draw_response(lines: Sequence[Curve], ax: Axes) -> Axes:
    """The mean expected confidence against the dose; random directions in grey."""
    for number, curve in enumerate(lines):
        draw_curve(curve.doses, curve.expected, ax, random=number > 0)
    ax.set_ylabel("expected confidence")
    return ax


def draw_outside(lines: Sequence[Curve], ax: Axes) -> Axes:
    """The mean off-scale mass against the dose."""
    for number, curve in enumerate(lines):
        draw_curve(curve.doses, curve.outside, ax, random=number > 0)
    ax.set_ylabel("off-scale mass")
    return ax


HOW_TO_READ = """\
A direction of the residual stream, fitted on other relations than the question's, is added to every token from the
first one after the answer on. (a) The mean expected confidence against the dose, in standard deviations of the
streams' projections on the direction, with a band of 95 % intervals; grey: random directions of the same length, the
same for all questions. Any long vector moves something: only what goes beyond the grey lines, up or down, is the
direction's own. (b) The
off-scale mass, the probability of anything but a level: where it rises, the dose breaks the format, and the confidence
among the levels that are left says little. (c) How well confidences tell right answers from wrong ones within a
relation, before and after steering in two stages: a probe that was fitted on other relations gives the probability
that the answer is right, and the dose is the one at which other relations are as confident as that. Such steering can
at best say what the probe knows, which stands beside it. A direction that moves the confidence is not yet the one by
which the model makes it."""
BROKEN = """
In {share} of the questions the largest doses break the format (off-scale mass above one half)."""


def steering_page(run: RunData, scores: Mapping[str, str]) -> Page:
    """The figure of steering. scores: the AUROCs that are shown, in words, by their keys."""
    lines, rows = curves(run), {words: run.estimate(key) for key, words in scores.items()}
    figure = Figure((DOUBLE, 2.3), layout="constrained")
    a, b, c = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
    draw_response(lines, a).set_title("a  response to the dose")
    draw_outside(lines, b).set_title("b  off the scale")
    draw_forest(rows, "AUROC within relation", c).set_title("c  steered by the probe")
    c.axvline(0.5, color=INK, lw=0.6)
    handles = [
        Line2D([], [], color=STEERED_COLOUR, marker="o", ms=3.5, label="the direction: mean and 95 % interval"),
        Line2D([], [], color=RANDOM_COLOUR, lw=0.8, label="random directions of the same length"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, columnspacing=1.2)
    broken = run.estimate("steering.broken")
    how = HOW_TO_READ + (BROKEN.format(share=percent(broken.value)) if broken.value else "")
    return Page("steering", figure, caption(how, _numbers(run, lines[0], rows), run.subject))


def _numbers(run: RunData, curve: Curve, rows: Mapping[str, Estimate]) -> dict[str, str]:
    """The numbers below the figure. curve: that along the direction."""
    first = run.of(SteeringRecord)[0]
    numbers = {
        "direction": f"{first.direction}, fitted at the place {first.place!r}, added after {first.layer} layers",
        "slope of the expected confidence": in_words(run.estimate("steering.slope")),
        "slope along random directions, absolute": in_words(run.estimate("steering.random_slope")),
        "their difference": in_words(run.estimate("steering.beyond_random")),
    }
    for dose, expected, outside in zip(curve.doses, curve.expected, curve.outside, strict=True):
        numbers[f"dose {dose:g}"] = f"expected confidence {in_words(expected)}; off-scale mass {in_words(outside)}"
    numbers |= {f"AUROC, {words}": in_words(each) for words, each in rows.items()}
    steered = run.estimate("steering.two_stage_less_unsteered")
    return numbers | {"AUROC of the stated confidence, steered less unsteered": in_words(steered)}


def compared_responses(before: RunData, after: RunData) -> tuple[Figure, str]:
    """The response to the dose in both runs, and how to read it."""
    sides = [curves(run) for run in (before, after)]
    figure = drawn_sides(lambda i, ax: draw_response(sides[i], ax), 2.0)
    return figure, (
        "The mean expected confidence against the dose of a direction of the residual stream, each run's own, with "
        "bands of 95 % intervals; grey: random directions of the same length. A steeper line: what is said follows "
        "the direction more closely. Doses are in each run's own standard deviations."
    )
