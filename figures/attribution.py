"""What each part of the prompt does to the stated confidence, and how the answer's share spreads over its tokens.

It draws from a run's records and estimates; like every drawing it needs no model and estimates nothing again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.captions import Page, RunData, caption, in_words
from figures.style import DOUBLE, INK, REPLACEMENT_MARKERS, SPAN_COLOURS, drawn_sides, printable
from interp.intervals import Estimate
from interp.measures import AnswerRecord, AttributionRecord
from interp.records import READ_SPANS, Span
from interp.run.runs import means_by_question

MOST_ROWS = 14
"""Questions whose answer's tokens are drawn; more would not be readable."""
OF_PROMPT = {"pad": "pad token", "zero": "zero"}
"""What the whole prompt is replaced by along the paper's path, in words."""
SCORES = {"expected": "expected confidence", "stated": "log-probability of the stated level (nats)"}


@dataclass(frozen=True)
class AnswerTokens:
    """Integrated gradients of one question's answer."""

    answer: str
    """Its text."""
    attribution: tuple[float, ...]
    """What each of its tokens adds to the score, in the score's unit, [tokens of the answer]."""


@dataclass(frozen=True)
class Attributions:
    """The effect of the prompt's parts on the score at the confidence."""

    score: str
    """What is attributed, in words, with its unit."""
    effects: dict[Span, dict[str, Estimate]]
    """By span and replacement: what replacing the span takes away from the score, mean over questions."""
    baseline: str
    """The replacement against which the answer's tokens are attributed."""
    answers: tuple[AnswerTokens, ...]
    """The first MOST_ROWS questions whose answer could be attributed."""
    refused: int
    """Questions whose completeness gap stayed too large; they are not drawn."""
    more: int
    """Questions that could be attributed but for which there is no room."""
    rank: Estimate
    """Median rank of the answer's best token among all tokens; 1: no token matters more. It is counted
    up to 20; a larger one says only that it lies beyond."""


def attributions(run: RunData) -> Attributions:
    """The figure's data."""
    records = run.of(AttributionRecord)
    first = records[0]
    answers = {record.id: record for record in run.of(AnswerRecord)}
    baseline = next(iter(first.answer))
    by_question = means_by_question(
        (record.id, _of_answer(record, baseline, answers[record.id].prompt.spans)) for record in records
    )
    drawn = []
    for identity, by_token in by_question.items():
        attribution = tuple(value for value in by_token.values() if value is not None)
        if len(attribution) == len(by_token):
            drawn.append(AnswerTokens(answers[identity].answer or "", attribution))
    effects = {span: _effects(span, first, run) for span in READ_SPANS}
    return Attributions(
        score=SCORES[first.score],
        effects={span: by_replacement for span, by_replacement in effects.items() if by_replacement},
        baseline=baseline,
        answers=tuple(drawn[:MOST_ROWS]),
        refused=len(by_question) - len(drawn),
        more=max(0, len(drawn) - MOST_ROWS),
        rank=run.estimate("attribution.answer.rank"),
    )


def _effects(span: Span, record: AttributionRecord, run: RunData) -> dict[str, Estimate]:
    """What replacing a span takes away, by replacement.

    The baseline's effect has the key `effect`, unless its integrals follow the whole prompt, where no span is
    replaced; the other replacements' keys end in their name."""
    keys = {} if record.path == "prompt" else {next(iter(record.answer)): f"attribution.{span}.effect"}
    keys |= {name: f"attribution.{span}.effect_{name}" for name in record.effects.get(span, ()) if name not in keys}
    return {name: run.estimates[key] for name, key in keys.items() if key in run.estimates}


def _of_answer(record: AttributionRecord, baseline: str, spans: Sequence[Span]) -> dict[int, float | None]:
    """One value for each token of the answer by its number, None where the attribution was refused.

    Where the path moves the whole prompt, the answer's tokens are cut out by their position counted from the prompt's
    end: the part before the question has different lengths under different worked examples."""
    attributed = record.answer[baseline]
    values = attributed.attribution
    if record.path == "prompt":
        values = tuple(values[i - len(spans)] for i, span in enumerate(spans) if span == "answer")
    return {i: None if attributed.refused else value for i, value in enumerate(values)}


def draw_effects(measurement: Attributions, ax: Axes) -> Axes:
    """One row for each span; in it, one mark with its interval for each replacement."""
    spans = list(measurement.effects)
    ax.axvline(0, color=INK, lw=0.6)
    for row, span in enumerate(spans):
        effects = measurement.effects[span]
        for number, (name, estimate) in enumerate(effects.items()):
            # marks of one row stand 0.24 apart around its middle
            at, colour = row + 0.24 * (number - (len(effects) - 1) / 2), SPAN_COLOURS[span]
            if estimate.low is not None and estimate.high is not None:
                ax.plot((estimate.low, estimate.high), (at, at), color=colour, lw=1.6, solid_capstyle="butt")
            if estimate.value is not None:
                ax.plot(estimate.value, at, REPLACEMENT_MARKERS[name], color=colour, mec="white", mew=0.5, ms=4.8)
    ax.set_yticks(range(len(spans)), spans)
    ax.set(ylim=(len(spans) - 0.5, -0.5), xlabel=f"effect on {measurement.score}")
    ax.grid(axis="x", color="#dddddd", lw=0.5)
    ax.tick_params(axis="y", length=0)
    return ax


def draw_answers(measurement: Attributions, ax: Axes) -> Axes:
    """One row for each question: its answer's tokens as segments, right of zero where they raise the score."""
    colour = SPAN_COLOURS["answer"]
    for row, answer in enumerate(measurement.answers):
        ends = {True: 0.0, False: 0.0}  # where the next positive, and the next other segment begins
        for value in answer.attribution:
            ax.barh(row, value, left=ends[value > 0], height=0.68, color=colour, ec="white", lw=0.7)
            ends[value > 0] += value
        ax.plot(sum(answer.attribution), row, "D", mfc="white", mec=INK, mew=0.8, ms=3.4)
    ax.axvline(0, color=INK, lw=0.6)
    rows = len(measurement.answers)
    ax.set_yticks(range(rows), [printable(_short(answer.answer)) for answer in measurement.answers])
    ax.set(ylim=(max(rows, 1) - 0.5, -0.5), xlabel=f"attribution to {measurement.score}")
    ax.tick_params(axis="y", length=0)
    if not rows:
        ax.set_xticks(())
        ax.text(0.5, 0.5, f"{measurement.refused} refused:\ngap too large", transform=ax.transAxes, ha="center")
    return ax


def _short(text: str) -> str:
    return text if len(text) <= 22 else f"{text[:21]}…"


HOW_TO_READ = """\
(a) What replacing a part of the prompt, as many tokens by one that says nothing, takes away from the score at the
confidence; exact, not an approximation. Right of 0: the part raises the score. Marks are means over questions, bars
95 % intervals, shapes replacements; claim only what the replacements agree on. An answer near 0 beside a question
or instruction away from it is a confidence that does not look at the answer. (b) The same for single questions:
integrated gradients spread the answer's effect over its tokens (segments, divided by white lines), along a path on
which only the answer moves from the replacement to itself. The diamond is their sum, which is the masking effect
with that replacement by construction, and so no second witness. Questions whose completeness gap stayed too large
are counted and not drawn."""


def attribution_page(run: RunData, words: Mapping[str, str]) -> Page:
    """The attribution figure. words: what each replacement is called, by its name in the records."""
    data = attributions(run)
    figure = Figure((DOUBLE, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_effects(data, left).set_title("a  replacing a part of the prompt")
    draw_answers(data, right).set_title("b  the answer's tokens")
    names = list(dict.fromkeys(name for effects in data.effects.values() for name in effects))
    marks = [
        Line2D([], [], ls="", marker=REPLACEMENT_MARKERS[name], color=INK, ms=4.5, label=words[name]) for name in names
    ]
    total = Line2D([], [], ls="", marker="D", mfc="white", mec=INK, ms=3.4, label="sum over the answer's tokens")
    figure.legend(handles=[*marks, total], loc="outside upper left", ncols=4, columnspacing=1.2, handletextpad=0.4)
    return Page("attribution", figure, caption(HOW_TO_READ, _numbers(data, words), run.subject))


def _numbers(data: Attributions, words: Mapping[str, str]) -> dict[str, str]:
    numbers = {"score": data.score}
    for span, effects in data.effects.items():
        numbers |= {f"effect of {span}, {words[name]}": in_words(estimate) for name, estimate in effects.items()}
    numbers["rank of the answer's best token, counted up to 20"] = in_words(data.rank)
    numbers["(b) baseline"] = OF_PROMPT.get(data.baseline) or words[data.baseline]
    drawn = f"{len(data.answers)} drawn, {data.refused} refused for their gap, {data.more} left out for want of room"
    return numbers | {"(b) questions": drawn}


def compared_effects(before: RunData, after: RunData) -> tuple[Figure, str]:
    """The effects of both runs, and how to read them."""
    sides = [attributions(run) for run in (before, after)]
    figure = drawn_sides(lambda i, ax: draw_effects(sides[i], ax), 2.2)
    return figure, (
        "What replacing a part of the prompt takes away from the score at the confidence; marks are means over "
        "questions, shapes replacements, bars 95 % intervals."
    )
