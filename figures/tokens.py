"""One question's prompt with shaded tokens: by attention rollout above, by attribution below.

It lays out the tokens in a run's records; it needs no tokenizer and no model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.typing import ColorType

from figures.captions import Page, RunData, caption, digits
from figures.style import DOUBLE, INK, MONOSPACED, ROLE_COLOURS, SPAN_COLOURS, printable
from interp.errors import UserError
from interp.measures import AnswerRecord, AttributionRecord, RolloutRecord
from interp.records import SPANS, Span

SHOWN = 2
"""Number of questions that are drawn where the user names none."""
COLUMNS = 112
"""Characters in a line."""
KEPT = 16
"""Tokens that are shown at each end of long worked examples."""
LINE, TITLE, MARGIN = 0.125, 0.3, 0.08
"""Inches: height of a line, of a title, and the margin at the left."""
POINTS = (DOUBLE - 2 * MARGIN) * 72 / COLUMNS / 0.602
"""Font size at which COLUMNS characters fill the width; a character is 0.602 as wide as the font is high."""

DOUBLINGS: Colormap = sns.diverging_palette(250, 55, s=75, l=68, as_cmap=True)
"""Blue: less than under uniform attention. Ochre: more."""
EFFECTS: Colormap = sns.diverging_palette(290, 145, s=75, l=62, as_cmap=True)
"""Purple: lowers the score. Green: raises it."""


@dataclass(frozen=True)
class Shading:
    """One number for each token of a prompt."""

    title: str
    """What the number is."""
    unit: str
    """The unit at the ends of the colour bar: "×" for factors, given as doublings; else empty."""
    values: tuple[float | None, ...]
    """The numbers, [tokens]; None for a token without one, which is not shaded."""
    limit: float
    """The absolute value at which the colour saturates."""
    colours: Colormap
    """The colours from -limit to limit."""


@dataclass(frozen=True)
class Placed:
    """A piece of the prompt on the page."""

    text: str
    """The text as it is shown."""
    line: int
    """Its line, from 0."""
    column: int
    """The column of its first character, from 0."""
    token: int | None
    """The token's index; None for the mark that stands for tokens left out."""


@dataclass(frozen=True)
class ShadedPrompt:
    """A prompt laid out in lines, with what its tokens are shaded by."""

    question: str
    """The question's text."""
    answer: str
    """The model's answer."""
    spans: tuple[Span, ...]
    """The span of each token."""
    places: tuple[Placed, ...]
    """Where each shown token stands."""
    hidden: int
    """Tokens of the worked examples that are left out."""
    shadings: tuple[Shading, ...]
    """The instruments' numbers for each token; the prompt is drawn once for each shading."""

    def __post_init__(self) -> None:
        for shading in self.shadings:
            if len(shading.values) != len(self.spans):
                raise ValueError(f"{len(shading.values)} numbers for {len(self.spans)} tokens")

    @property
    def lines(self) -> int:
        """How many lines the prompt takes."""
        return self.places[-1].line + 1


def shaded_prompt(
    answer: AnswerRecord, rollout: RolloutRecord | None, attribution: AttributionRecord | None
) -> ShadedPrompt:
    """The figure's data from the records of one question under the first set of worked examples.

    Args:
        answer: The record of its answer, with the transcript.
        rollout: The record of attention rollout; None leaves its shading out.
        attribution: The record of attribution; None leaves its shading out.
    """
    prompt = answer.prompt
    places, hidden = laid_out(prompt.tokens, prompt.spans)
    shadings = []
    if rollout:
        shadings.append(_by_rollout(rollout, len(prompt.ids)))
    if attribution:
        shadings.append(_by_attribution(attribution))
    return ShadedPrompt(answer.question, answer.answer or "", prompt.spans, places, hidden, tuple(shadings))


def _by_rollout(record: RolloutRecord, tokens: int) -> Shading:
    """log2 of rollout over its value under uniform attention; a blank after the prompt is not one of its tokens."""
    pairs = zip(record.weights["confidence"][:tokens], record.null["confidence"][:tokens], strict=True)
    doublings = [float(np.log2(weight / null)) if weight > 0 and null > 0 else None for weight, null in pairs]
    return Shading(
        "Rollout from the confidence, against uniform attention",
        "×",
        tuple(doublings),
        _limit(doublings, 95.0),
        DOUBLINGS,
    )


def _by_attribution(record: AttributionRecord) -> Shading:
    score = "expected confidence" if record.score == "expected" else "the stated level's log-probability"
    way = "integrated gradients over the whole prompt" if record.path == "prompt" else "replacing the token"
    title = f"Attribution: effect on {score} ({way})"
    return Shading(title, "", record.tokens, _limit(record.tokens, 100.0), EFFECTS)


def _limit(values: Sequence[float | None], percentile: float) -> float:
    """The percentile of the absolute values at which colours saturate; 1 where there is none, or it is 0."""
    sizes = [abs(value) for value in values if value is not None]
    return float(np.percentile(sizes, percentile)) or 1.0 if sizes else 1.0


def laid_out(tokens: Sequence[str], spans: Sequence[Span]) -> tuple[tuple[Placed, ...], int]:
    """Lays out the tokens in lines of COLUMNS characters.

    A line break is shown as ↵ and ends the line; a token longer than a line is cut. In long worked examples the tokens
    between the first and the last KEPT are replaced by one mark.

    Args:
        tokens: The text of each token.
        spans: The span of each token.

    Returns:
        The pieces in their places, and the number of tokens that are left out.
    """
    shots = [i for i, span in enumerate(spans) if span == "shots"]
    first, last = (shots[0] + KEPT, shots[-1] + 1 - KEPT) if shots else (0, 0)
    hidden = range(first, last) if last - first > KEPT else range(0)
    places: list[Placed] = []
    line = column = 0

    def put(text: str, token: int | None) -> None:
        nonlocal line, column
        if column + len(text) > COLUMNS:
            line, column = line + 1, 0
        places.append(Placed(text[:COLUMNS], line, column, token))
        column += len(text)

    for i, token in enumerate(tokens):
        if i in hidden:
            if i == hidden[0]:
                put(f" [… {len(hidden)} tokens …] ", None)
            continue
        put("".join("↵" if c == "\n" else c if c.isprintable() else "·" for c in token), i)
        if token.endswith("\n"):
            line, column = line + 1, 0
    return tuple(places), len(hidden)


def draw_tokens(prompt: ShadedPrompt, shading: Shading, ax: Axes) -> Axes:
    """The prompt's text with one shade per token, and below each token a line in the colour of its span.

    Args:
        prompt: The prompt as it is laid out.
        shading: The numbers that its tokens are shaded by.
        ax: Where it is drawn; one unit is a character across and a line down.
    """
    norm = Normalize(-shading.limit, shading.limit)
    # two layers of characters [lines][COLUMNS], drawn line by line in two colours: tokens with and without a number
    shaded, plain = ([[" "] * COLUMNS for _ in range(prompt.lines)] for _ in range(2))
    boxes: list[Rectangle] = []
    shades: list[ColorType] = []
    for place in prompt.places:
        value = None if place.token is None else shading.values[place.token]
        width = len(place.text)
        (plain if value is None else shaded)[place.line][place.column : place.column + width] = place.text
        if value is not None:
            boxes.append(Rectangle((place.column, place.line), width, 1))
            shades.append(shading.colours(norm(value)))
        if place.token is not None:
            boxes.append(Rectangle((place.column, place.line + 0.9), width, 0.1))
            shades.append(SPAN_COLOURS[prompt.spans[place.token]])
    ax.add_collection(PatchCollection(boxes, facecolors=shades, edgecolors="none"))
    for lines, colour in ((shaded, INK), (plain, ROLE_COLOURS["null"])):
        for number, characters in enumerate(lines):
            text = printable("".join(characters).rstrip(), MONOSPACED)
            ax.text(0, number + 0.45, text, family=MONOSPACED, size=POINTS, va="center_baseline", color=colour)
    ax.set(xlim=(0, COLUMNS), ylim=(prompt.lines, 0), title=shading.title)
    ax.axis("off")
    return ax


HOW_TO_READ = """\
One prompt, up to the place where the confidence is stated, once for each instrument. The line under a token has the
colour of its span. Above, shaded by attention rollout read at the confidence, divided by what the token would get if
attention were uniform: ochre tokens are looked back at more than their position explains, blue ones less. Compare
neighbours: a drift along the whole prompt only says that the model's attention fades with distance otherwise than
uniform attention does, and colours saturate at the 95th percentile. Below, shaded by what the token does to the
score: green raises it, purple lowers it; where a confidence depends on its answer, the answer's tokens are among the
darkest. Grey text without a shade: the instrument has no number for this token (attribution replaces tokens other
than those of the answer and after it only where a first-order bound says that they may matter more than the answer,
and no more once twenty do). The middle of long worked examples is left out, and ↵ is a
line's end."""


def pages(run: RunData, chosen: Sequence[str] = ()) -> Iterator[Page]:
    """A figure for each chosen question.

    Args:
        run: The run's records and estimates.
        chosen: Ids of questions; by default the first `SHOWN` that both instruments have measured.

    Yields:
        A page for each question.

    Raises:
        UserError: where neither instrument has measured a chosen question.
    """
    answers, rollouts = run.first_set(AnswerRecord), run.first_set(RolloutRecord)
    attributions = run.first_set(AttributionRecord)
    both = [key for key in attributions if key in rollouts]
    for number, key in enumerate(chosen or both[:SHOWN], 1):
        if key not in rollouts and key not in attributions:
            raise UserError(f"--questions {key}: this run has no rollout and no attribution of it")
        prompt = shaded_prompt(answers[key], rollouts.get(key), attributions.get(key))
        yield Page(f"tokens_{number}", figure_of(prompt), caption(HOW_TO_READ, numbers_of(prompt, key), run.subject))


def figure_of(prompt: ShadedPrompt) -> Figure:
    """The panels below each other at exact sizes, so that a character of the text is one column wide."""
    panel = TITLE + prompt.lines * LINE
    height = len(prompt.shadings) * panel + TITLE
    figure = Figure((DOUBLE, height))
    for number, shading in enumerate(prompt.shadings):
        bottom = height - (number + 1) * panel
        box = (MARGIN / DOUBLE, bottom / height, 1 - 2 * MARGIN / DOUBLE, prompt.lines * LINE / height)
        draw_tokens(prompt, shading, figure.add_axes(box))
        _colour_bar(figure, shading, (bottom + prompt.lines * LINE + 0.08) / height, height)
    shown = [span for span in SPANS if span in prompt.spans]
    lines = [Line2D([], [], color=SPAN_COLOURS[span], lw=2.5, label=span) for span in shown]
    figure.legend(handles=lines, loc="lower left", ncols=len(lines), bbox_to_anchor=(0, 0), borderaxespad=0.2)
    return figure


def _colour_bar(figure: Figure, shading: Shading, bottom: float, height: float) -> None:
    ax = figure.add_axes((0.8, bottom, 0.09, 0.07 / height))
    ax.set_axis_off()
    bar = np.linspace(-shading.limit, shading.limit, 128)[None]
    ax.imshow(bar, aspect="auto", cmap=shading.colours)
    low, high = ends(shading)
    ax.text(-0.06, 0.5, low, transform=ax.transAxes, ha="right", va="center", size=6.5)
    ax.text(1.06, 0.5, high, transform=ax.transAxes, ha="left", va="center", size=6.5)


def ends(shading: Shading) -> tuple[str, str]:
    """The numbers at which a shading's colours saturate, in words: the lowest, the highest."""
    if shading.unit == "×":
        return f"÷{digits(2**shading.limit)}", f"×{digits(2**shading.limit)}"
    return f"−{digits(shading.limit)}", f"+{digits(shading.limit)}"


def numbers_of(prompt: ShadedPrompt, key: str) -> dict[str, str]:
    """The caption's numbers of one question; key: the question's id."""
    numbers = {"question": f"{prompt.question} ({key})", "answer": prompt.answer}
    for shading in prompt.shadings:
        low, high = ends(shading)
        without = sum(value is None for value in shading.values)
        tokens = len(shading.values)
        numbers[shading.title] = f"colours from {low} to {high}; n = {tokens - without} tokens, {without} left out"
    return numbers | {"tokens of worked examples not shown": str(prompt.hidden)}
