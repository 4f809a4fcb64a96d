"""Before and after a training, side by side on the same axes: each instrument's own drawing twice, and the table.

All numbers are in the summary of `interp.compare`; this module knows no single instrument."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from figures import forest, tokens
from figures.captions import LETTERS_SAID, Page, RunData, Subject, in_words, written_caption
from figures.grid import UNSEEN, Column, Grid
from figures.style import SIDE_TITLES
from figures.table import compared_numbers, metrics
from interp.errors import UserError
from interp.instruments.base import Instrument
from interp.instruments.registry import INSTRUMENTS
from interp.intervals import Estimate, of_record
from interp.measures import AnswerRecord, AttributionRecord
from interp.run.runs import Record

COLUMNS = tuple(
    Column(key, title, scale=1.0, places=places)
    for key, title, places in (
        ("before", "before", None),
        ("after", "after", None),
        ("difference", "after less before", None),
        ("effect_size", "effect size", 2),
    )
)
P = Column("p", "p", scale=1.0, places=None)
"""The p-value: of the primary number as it is, of the other headline numbers by Holm's correction."""
TESTS = (
    "Effect size: of means, the mean difference over its standard deviation (Cohen's d_z).",
    "p: exact McNemar for shares, exchanged sides for others; Holm's correction, but for the primary number.",
)
"""What the last columns of the table of instruments are."""
Pair = tuple[Sequence[Record], Sequence[Record]]
"""The records of both runs."""


def instruments_grid(summary: Record) -> Grid:
    """The instruments' numbers, those that the table of a single run shows; the primary one is called so."""
    return _grid(compared_numbers(summary), summary.get("primary"), across=_unseen(summary))


@dataclass(frozen=True)
class Part:
    """A part of the measured questions."""

    name: str
    """Its key in summary.json."""
    title: str
    """Which questions they are, and how many."""
    grid: Grid | None
    """The headline numbers on them; None where there are none."""


PARTS = {
    "both_right": "both checkpoints answer right",
    "only_first": "only the checkpoint before training answers right",
    "only_second": "only the checkpoint after training answers right",
}
"""The parts of the measured questions by their keys in summary.json, in words."""


def parts(summary: Record) -> Iterator[Part]:
    """The parts of the measured questions by what the other checkpoint answers; nothing where that was not asked."""
    for name, words in PARTS.items():
        unknown = summary.get(f"{name}_unknown")
        if unknown is None:
            continue
        count = summary.get(f"{name}_questions")  # version 0.1 and runs of its time do not count them
        beyond = f" ({unknown} more were not asked: --n-calibration)" if unknown else ""
        if count == 0:
            yield Part(name, f"Of these, none is a question that {words}{beyond}.", None)
            continue
        number = "the questions" if count is None else "the one question" if count == 1 else f"the {count} questions"
        grid = _grid(summary[name], summary.get("primary"), across=_unseen(summary))
        yield Part(name, f"Of these, {number} that {words}{beyond}:", grid)


def _unseen(summary: Record) -> bool:
    """Whether the data's relations were not trained on, so that the claim is about other relations."""
    return UNSEEN in summary["data"]["name"]


def _grid(numbers: Record, primary: str | None, *, across: bool) -> Grid:
    rows = []
    for metric in metrics():
        if metric.key in numbers:
            row = numbers[metric.key]
            p = Estimate(row.get("p_holm", row.get("p")), None, None, row["difference"]["n"])
            words = f"{metric.words} (primary)" if metric.key == primary else metric.words
            rows.append(((metric.section, words), (*_cells(row), p)))
    return Grid(("number", "of"), (*COLUMNS, P), tuple(rows), across)


def calibration_grid(summary: Record) -> Grid:
    """Calibration by data, method, format and measure."""
    rows = [
        ((data, method, form, name), _cells(numbers)[:3])
        for data, by_method in summary["calibration"].items()
        for method, by_format in by_method.items()
        for form, measures in by_format.items()
        for name, numbers in measures.items()
    ]
    return Grid(("data", "method", "format", "measure"), COLUMNS[:3], tuple(rows))


def _cells(numbers: Record) -> tuple[Estimate, ...]:
    change = of_record(numbers["difference"])
    size = Estimate(numbers["effect_size"], None, None, change.n, change.left_out)
    return of_record(numbers["before"]), of_record(numbers["after"]), change, size


def sentence(summary: Record) -> str:
    """Whose numbers they are, and whose questions."""
    models, data = summary["models"], summary["data"]
    note = f" ({models['before']['note']})" if models["before"]["note"] else ""
    chosen = f" {LETTERS_SAID}" if data.get("wrong_answers") == "choice" else ""
    return (
        f"Before: {models['before']['name']}{note}. After: {models['after']['name']}. Data: {data['name']}, "
        f"{data['asked']} asked, {data['right']} answered right{when(summary)}. {whose(summary)} Format: "
        f"{summary['format']}.{chosen}"
    )


def when(summary: Record) -> str:
    """Before or after training, whichever checkpoint gave the answers; empty where each gave its own."""
    side = summary.get("answered_by", "before")
    return f" {side} training" if side else ""


def whose(summary: Record) -> str:
    """Whose questions and answers are compared, in a sentence."""
    side = summary.get("answered_by", "before")
    if side is None:
        return "Every question is one that both runs have measured, each with the answers on its record."
    return (
        f"Every measured question is one that the checkpoint {side} training answers right; both checkpoints are "
        "given its answers."
    )


def pages(records: Pair, summary: Record, questions: Sequence[str] = ()) -> Iterator[Page]:
    """The figures of a comparison, of the instruments that both runs have measured.

    Args:
        records: The records of the run before and of the run after training.
        summary: The comparison's summary.
        questions: Ids of the questions whose tokens are shown; by default the first two that both have attributed.

    Yields:
        A page for each instrument, then one for each question.

    Raises:
        UserError: where a question was not attributed in both runs.
    """
    sides = list(sides_of(records, summary).values())
    for instrument in INSTRUMENTS.values():
        measured = all(side.has(instrument.name) for side in sides)
        if measured and (page := _page(instrument, sides[0], sides[1], summary)):
            yield page
    yield from _token_pages(sides, summary, questions)


def sides_of(records: Pair, summary: Record) -> dict[str, RunData]:
    """Both runs by before and after, with the numbers over the questions that both have measured."""
    return {
        side: RunData(side_records, _estimates(summary, side), _subject(summary))
        for side_records, side in zip(records, SIDE_TITLES, strict=True)
    }


def _estimates(summary: Record, side: str) -> dict[str, Estimate]:
    """The numbers of one side, over the questions that both sides have measured."""
    return {key: of_record(numbers[side]) for key, numbers in compared_numbers(summary).items()}


def _subject(summary: Record) -> Subject:
    """Whose numbers they are, in the form that the drawings of single runs take."""
    data = summary["data"]
    return Subject(
        summary["models"]["after"]["name"], None, data["name"], data["asked"], data["right"], summary["format"]
    )


def _page(instrument: Instrument, before: RunData, after: RunData, summary: Record) -> Page | None:
    """The instrument's own drawing of two runs, else a forest plot of the listed numbers in its first unit; None where
    both have none."""
    declared = [metric for metric in instrument.metrics if metric.place != "kept" and metric.key in before.estimates]
    if not declared:
        return None
    if instrument.compared:
        figure, how = instrument.compared(before, after)
    else:
        unit = declared[0].unit
        in_unit = [metric for metric in declared if metric.unit == unit]
        rows = [{metric.title: side.estimate(metric.key) for metric in in_unit} for side in (before, after)]
        figure, how = forest.compared_forest(rows, unit), f"{instrument.about} {forest.HOW_TO_READ}"
    numbers = {}
    for metric in declared:
        words = [in_words(estimate) for estimate in _cells(compared_numbers(summary)[metric.key])[:3]]
        numbers[metric.title] = "before {}; after {}; difference {}".format(*words)
    return Page(f"compare_{instrument.name}", figure, written_caption(how, numbers, sentence(summary)))


def _token_pages(sides: Sequence[RunData], summary: Record, questions: Sequence[str]) -> Iterator[Page]:
    """One question's prompt shaded by attribution, before above after, on one scale."""
    answers = [side.first_set(AnswerRecord) for side in sides]
    attributions = [side.first_set(AttributionRecord) for side in sides]
    both = [key for key in attributions[0] if key in attributions[1]]
    for number, key in enumerate(questions or both[: tokens.SHOWN], 1):
        if key not in both:
            raise UserError(f"--questions {key}: not attributed in both runs")
        prompts = [tokens.shaded_prompt(answers[side][key], None, attributions[side][key]) for side in (0, 1)]
        limit = max(prompt.shadings[0].limit for prompt in prompts)
        shadings = tuple(
            replace(prompt.shadings[0], title=f"{title.capitalize()}: {prompt.shadings[0].title}", limit=limit)
            for title, prompt in zip(SIDE_TITLES, prompts, strict=True)
        )
        prompt = replace(prompts[0], shadings=shadings)
        how = (
            "One prompt, shaded by what each token does to the score at the confidence: green raises it, purple "
            "lowers it. Above before, below after training, with the same colours for the same numbers."
        )
        caption = written_caption(how, tokens.numbers_of(prompt, key), sentence(summary))
        yield Page(f"compare_tokens_{number}", tokens.figure_of(prompt), caption)
