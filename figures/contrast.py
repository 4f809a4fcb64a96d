"""Two answers to one question: the confidence after each, side by side."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.captions import digits
from figures.style import ROLE_COLOURS, SINGLE, paper, printable
from interp.records import ConfidenceDistribution


def draw_distribution(confidence: ConfidenceDistribution, colour: str, ax: Axes) -> Axes:
    """One confidence distribution as bars over its levels, with the expected confidence as a line."""
    # bars stand at 0, 1, ...; the line is placed between the first and the last by its value
    places = range(len(confidence.levels))
    ax.bar(places, confidence.probability, color=colour, width=0.8)
    low, high = confidence.values[0], confidence.values[-1]
    ax.axvline((confidence.expected - low) / (high - low) * places[-1], color="black", lw=0.8, ls="--")
    few = len(confidence.levels) <= 11
    ax.set_xticks(places if few else [0, places[-1]], confidence.levels if few else confidence.levels[:: places[-1]])
    ax.set_ylabel("probability")
    return ax


def drawn_contrast(
    answers: Sequence[str], confidences: Sequence[ConfidenceDistribution], jsd: float, noise: float | None
) -> Figure:
    """The confidences after two answers, one above the other; the dashed line is the expected confidence.

    Args:
        answers: The two answers.
        confidences: The confidence distribution after each.
        jsd: Their divergence, in nats.
        noise: The noise floor, in nats; None where it was not measured.
    """
    with paper():
        figure = Figure((SINGLE, 2.6), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True, sharey=True)
        for ax, answer, confidence, role in zip(axes, answers, confidences, ("seen", "jsd"), strict=True):
            draw_distribution(confidence, ROLE_COLOURS[role], ax)
            ax.set_title(f"after “{printable(answer)}”: expected {digits(confidence.expected)}", loc="left")
        axes[1].set_xlabel("stated confidence")
        floor = "" if noise is None else f", noise floor {digits(noise)}"
        figure.suptitle(f"JSD {digits(jsd)} nats{floor}", fontsize=7, x=0.99, ha="right")
    return figure
