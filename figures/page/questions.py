"""Every question of a diagnosis, or of two side by side, from the records of the first set of worked examples."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from matplotlib.colors import Colormap, to_hex

from figures import tokens
from figures.captions import RunData, digits
from figures.page.content import SPAN_ORDER, AskedQuestion, Bar, Bars, Questions, Side, SmallTable, TokenShades
from figures.style import SIDE_TITLES
from interp.formats import FORMATS
from interp.instruments.base import Metric
from interp.instruments.flow import EDGE_WORDS
from interp.instruments.masking import HIDDEN
from interp.instruments.registry import INSTRUMENTS
from interp.measures import (
    AnswerRecord,
    AttributionRecord,
    DivergenceRecord,
    FlowRecord,
    MaskedReading,
    MaskingRecord,
    QuestionRecord,
    RolloutRecord,
    Spoken,
)
from interp.run.runs import averaged

ROLES = {
    "right": "right answer",
    "wrong": "wrong answer, sampled",
    "branched": "wrong answer, branched",
    "foil": "answer to another question of the relation",
    "foreign": "answer to another question",
    "noise": "surface-form variant",
    "variant": "another surface-form variant",
    "hint": "right answer, with a hint that it is wrong",
}
"""The answers that are put to a question, in words, by their roles in the records."""
CANDIDATES = {"candidate": "sampled", "filled": "branched"}
"""Further answers whose pairs are compared."""
MARKS = {
    "measured": "Measured: by an instrument that takes up only questions that are answered right.",
    "refused": "Refused: an attribution whose completeness gap is too large.",
    "unparsed": "Unparsed: a reply without an answer or without a level.",
    "unanswered": "Unanswered: without an answer that the prompt can hold.",
}
"""What marks that do not speak for themselves mean."""
FIRST_SET = (
    "What opens with a question is read with the first set of worked examples and wording of the instruction; numbers "
    "in the list are means over all."
)
"""What is said of a run with several."""
STATISTIC = re.compile(r"[,:] (?:median|mean)(?=$|:| \()")
"""What a title says of many questions, and not of one."""
STEPS = 33
"""Colours of a scale."""
Values = dict[str, list[float | None]]
"""By the question's id one value for each measure."""
R = TypeVar("R", bound=QuestionRecord)


class SideRecords:
    """The records of one run by measure and question."""

    def __init__(self, run: RunData) -> None:
        """run: its records and estimates."""
        self.run = run
        self.answers = run.first_set(AnswerRecord)
        of_right_ones = {name for name, instrument in INSTRUMENTS.items() if not instrument.of_all_answers}
        self.measured = {record["id"] for record in run.records if record["measure"] in of_right_ones}
        self._of: dict[type[QuestionRecord], dict[str, QuestionRecord]] = {}

    def of(self, kind: type[R], identity: str) -> R | None:
        """A question's record of one measure; None where it has none."""
        if kind not in self._of:
            self._of[kind] = dict(self.run.first_set(kind))
        record = self._of[kind].get(identity)
        return record if isinstance(record, kind) else None


def questions_of(runs: Mapping[str, RunData]) -> Questions:
    """All questions that were asked.

    Args:
        runs: The only run under "", or two under before and after; the list shows the answers of the first.
    """
    if not runs:
        return Questions((), ())
    sides = {title: SideRecords(run) for title, run in runs.items()}
    first, *others = sides.values()
    measures = measured_by(list(runs.values()))
    by_side = [values_of(run, measures) for run in runs.values()]
    values = _differences(*by_side) if others else by_side[0]
    titles = [question_title(metric) for metric in measures]
    if others:
        titles = [f"{title}, {side}" for title in titles for side in (*SIDE_TITLES, "after less before")]
    nothing: list[float | None] = [None] * len(titles)
    rows = {identity: values.get(identity, nothing) for identity in first.answers}
    kept = [number for number in range(len(titles)) if any(row[number] is not None for row in rows.values())]
    asked = [
        AskedQuestion(
            answer.id,
            answer.question,
            answer.relation,
            answer.accepted,
            answer.answer or "",
            tuple(marks_of(answer, first)),
            tuple(rows[answer.id][number] for number in kept),
            tuple(
                side_of(title.capitalize(), records, answer.id)
                for title, records in sides.items()
                if answer.id in records.answers
            ),
        )
        for answer in first.answers.values()
    ]
    return Questions(tuple(titles[number] for number in kept), tuple(asked), _note(runs, asked))


def _note(runs: Mapping[str, RunData], asked: Sequence[AskedQuestion]) -> str:
    first, *others = runs
    sentences = [f"The list shows answers and marks {first} training."] if others else []
    sentences += marks_in_words(asked)
    return " ".join([*sentences, FIRST_SET] if any(record["set"] for record in runs[first].records) else sentences)


def marks_in_words(asked: Sequence[AskedQuestion]) -> list[str]:
    """What the marks of these questions mean, a sentence each."""
    return [words for mark, words in MARKS.items() if any(mark in question.marks for question in asked)]


def measured_by(runs: Sequence[RunData]) -> list[Metric]:
    """The numbers that a question itself has, of instruments that ran in all runs: of two runs the headlines alone."""
    return [
        metric
        for name, instrument in INSTRUMENTS.items()
        if all(run.has(name) for run in runs)
        for metric in instrument.metrics
        if (metric.place == "headline" if len(runs) > 1 else metric.place != "kept") and metric.interval != "wilson"
    ]


def question_title(metric: Metric) -> str:
    """What a number is called where it is that of one question."""
    return STATISTIC.sub("", metric.title)


def values_of(run: RunData, measures: Sequence[Metric]) -> Values:
    """The numbers of each question, averaged over sets of worked examples; None for what is no single number."""
    values: Values = {}
    for name in INSTRUMENTS:
        records = averaged([record for record in run.records if record["measure"] == name])
        for number, metric in enumerate(measures):
            if metric.key.partition(".")[0] != name:
                continue
            for record, value in zip(records, metric.values(records), strict=True):
                row = values.setdefault(record["id"], [None] * len(measures))
                row[number] = float(value) if isinstance(value, int | float) else None
    return values


def _differences(before: Values, after: Values) -> Values:
    """Before, after, and after less before, for each measure of the questions that both runs have measured."""
    return {
        identity: [number for pair in zip(row, after[identity], strict=True) for number in _with_difference(*pair)]
        for identity, row in before.items()
        if identity in after
    }


def _with_difference(before: float | None, after: float | None) -> tuple[float | None, float | None, float | None]:
    return before, after, None if before is None or after is None else after - before


def marks_of(answer: AnswerRecord, side: SideRecords) -> Iterator[str]:
    """What the list is filtered by."""
    yield "right" if answer.right else "wrong"
    if answer.parsed is False:
        yield "unparsed"
    if answer.answer is None:
        yield "unanswered"
    if answer.id in side.measured:
        yield "measured"
    attribution = side.of(AttributionRecord, answer.id)
    if attribution and any(spread.refused for spread in attribution.answer.values()):
        yield "refused"


def side_of(title: str, records: SideRecords, identity: str) -> Side:
    """What opens with one question of one run."""
    answer = records.answers[identity]
    prompt = answer.transcript
    return Side(
        title,
        answer.answer or "",
        answer.right,
        answer.reply or "",
        prompt.tokens if prompt else (),
        tuple(SPAN_ORDER.index(span) for span in prompt.spans) if prompt else (),
        tuple(_shades(answer, records)) if prompt else (),
        tuple(_bars(records, identity)),
        tuple(_tables(records, identity)),
    )


def _shades(answer: AnswerRecord, records: SideRecords) -> Iterator[TokenShades]:
    """Rollout and attribution of the prompt's tokens, where they were measured."""
    rollout, attribution = records.of(RolloutRecord, answer.id), records.of(AttributionRecord, answer.id)
    for shading in tokens.shaded_prompt(answer, rollout, attribution).shadings:
        low, high = tokens.ends(shading)
        yield TokenShades(shading.title, low, high, shading.limit, _scale(shading.colours), shading.values)


def _scale(colours: Colormap) -> tuple[str, ...]:
    return tuple(to_hex(colours(step / (STEPS - 1))) for step in range(STEPS))


def _bars(records: SideRecords, identity: str) -> Iterator[Bars]:
    """The confidences after every answer that was put to the question, and those with the answer hidden."""
    divergence, masking = records.of(DivergenceRecord, identity), records.of(MaskingRecord, identity)
    levels = FORMATS[records.run.subject.format].levels
    if divergence:
        spoken = divergence.answers
        for title, roles in (("Confidence after", ROLES), ("Confidence after further answers", CANDIDATES)):
            rows = [_bar(words, each.answer, each) for role, words in roles.items() for each in spoken.get(role, ())]
            if rows:
                yield Bars(title, levels, tuple(rows))
    if masking:
        hidden = [_bar(f"answer hidden: {HIDDEN.get(way, way)}", "", each) for way, each in masking.masked.items()]
        rows = [_bar("answer seen", "", masking.seen), *hidden]
        yield Bars("Confidence with the answer hidden", levels, tuple(rows))


def _bar(label: str, text: str, reading: Spoken | MaskedReading) -> Bar:
    return Bar(label, text, reading.probability, reading.expected, reading.outside)


def _tables(records: SideRecords, identity: str) -> Iterator[SmallTable]:
    """What is left of the dependence under each knockout, and after swaps."""
    flow = records.of(FlowRecord, identity)
    if flow is None or not flow.whole:
        return
    whole = ("as it is", _shown(flow.values["jsd"]), digits(flow.whole["right"]), digits(flow.whole["wrong"]))
    rows = [
        (f"without {EDGE_WORDS.get(name, name)}", digits(left.jsd), digits(left.right), digits(left.wrong))
        for name, left in flow.knockouts.items()
    ]
    answers = f"right: {flow.answers['right']}, wrong: {flow.answers['wrong']}"
    header = ("attention", "JSD (nats)", "expected, right", "expected, wrong")
    yield SmallTable(f"Knockouts in both prompts ({answers})", header, (whole, *rows))


def _shown(value: float | None) -> str:
    return "–" if value is None else digits(value)
