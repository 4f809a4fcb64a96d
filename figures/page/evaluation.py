"""An evaluation in the page: reliability, risk and coverage, the table, and every question with its replies."""

from collections.abc import Iterator, Sequence

from figures import calibration
from figures.captions import Page, digits
from figures.grid import Grid
from figures.page.content import AskedQuestion, Bar, Bars, Questions, Report, Shown, Side, SmallTable, SortedTable
from figures.page.diagnosis import made_with
from figures.page.questions import marks_in_words
from figures.page.tables import table_of_grid
from interp.formats import FORMATS
from interp.run.runs import Record

Setting = tuple[str, str, str]
"""Checkpoint, data and format."""
Answers = dict[Setting, dict[str, tuple[Record, Record | None]]]
"""By setting and the question's id, under the first set of worked examples: the record of the answer, and that of the
confidence in it; None where none was read."""
MEASURES = (
    "ECE: expected calibration error; if calibrated: what so many questions show of it by chance where every level "
    "means what it says. NCE: accuracy less mean confidence. AUROC: the probability that of a right and a wrong answer "
    "the right one is the more confident; within: both of one relation. AURC: the mean error rate over all coverages. "
    "Accuracy and AUROC are better the larger, NCE the nearer to 0, and ECE, Brier and AURC the smaller they are."
)
"""What the columns of the table are."""
FIRST_SET = "All of it is of the first set of worked examples and wording of the instruction."
"""What is said of the questions of a run with several."""
HEADLINES = ("figure_5_reliability", "risk_coverage")
"""What the names of the figures at the top begin with."""


def evaluation_report(
    config: Record, summary: Record, records: Sequence[Record], figures: Sequence[Page], title: str
) -> Report:
    """The report of a run of `interp.evaluate`.

    Args:
        config: The run's config.json.
        summary: Its summary.json.
        records: Its records.
        figures: Its figures, as `figures.calibration.pages` gives them.
        title: What the run is called.
    """
    checkpoints = [name for name in summary["calibration"] if name in summary["models"]]
    series = tuple(checkpoints) if len(checkpoints) > 1 else ()
    return Report(
        "evaluate",
        title,
        facts_of(config, summary),
        figures=tuple(_shown(figures, series)),
        tables=tuple(_tables(summary, series)),
        questions=questions_of(answers_in(records, summary), repeated=bool(calibration.spreads(summary))),
        series=series,
    )


def facts_of(config: Record, summary: Record) -> dict[str, str]:
    """What was measured."""
    models = calibration.models_in_words(summary)
    data = dict.fromkeys(data for by_data in summary["calibration"].values() for data in by_data)
    forms = dict.fromkeys(names[3] for names, _ in calibration.cells(summary) if names[3] in FORMATS)
    asked = models or "none was asked: answers and confidences were given with the data"
    facts = {"Models": asked, "Data": ", ".join(data), "Formats": ", ".join(forms)}
    facts |= {"Prompt": _prompt(config.get("identity", {}))} if models else {}
    facts |= {"Made with": made_with(config)}
    return {name: text for name, text in facts.items() if text}


def _prompt(identity: Record) -> str:
    """Worked examples and template; of several checkpoints all counts. identity: the run's."""
    counts = dict.fromkeys(map(str, identity.get("shots", {}).values()))
    shots = f"{' or '.join(counts)} worked examples, " if counts else ""
    return f"{shots}{identity.get('template', 'chat')} template"


def _shown(figures: Sequence[Page], series: Sequence[str]) -> Iterator[Shown]:
    """The figures with their headings; those of one checkpoint are in the order of the checkpoints."""
    suffixes = calibration.suffixes(series)
    for page in figures:
        kind = next((name for name in calibration.TITLES if page.name.startswith(name)), page.name)
        alone = bool(series) and kind in calibration.OF_A_CHECKPOINT
        number = suffixes.index(page.name.removeprefix(kind)) if alone else None
        title = calibration.TITLES.get(kind, kind) + ("" if number is None else f": {series[number]}")
        yield Shown(page, title, kind in HEADLINES, number)


def _tables(summary: Record, series: Sequence[str]) -> Iterator[SortedTable]:
    grid = calibration.grid(summary)
    notes = (calibration.how_to_read(summary), MEASURES)
    yield table_of_grid(grid, "calibration", "Calibration", notes=notes, series=_series(grid, series))
    if any("worst" in numbers for _, numbers in calibration.cells(summary)):
        worst = calibration.grid(summary, worst=True)
        title = "With unparsed replies as wrong answers of the highest confidence"
        yield table_of_grid(worst, "worst_case", title, series=_series(worst, series))
    for source in calibration.spreads(summary):
        title = f"Means over {calibration.SPREADS[source][1]}, least and largest in brackets"
        spread = calibration.spread(summary, source)
        yield table_of_grid(spread, source, title, series=_series(spread, series))
    if summary["differences"]:
        yield table_of_grid(calibration.differences(summary), "differences", "Differences on the same questions")
    if (by_relation := calibration.relations(summary)).rows:
        title = "Each relation or subject by itself"
        yield table_of_grid(by_relation, "relations", title, series=_series(by_relation, series))


def _series(grid: Grid, series: Sequence[str]) -> tuple[int, ...]:
    """The checkpoint of each row; empty where there is only one, or where a row is of none."""
    numbers = [series.index(names[0]) if names[0] in series else None for names, _ in grid.rows]
    return tuple(number for number in numbers if number is not None) if series and None not in numbers else ()


def answers_in(records: Sequence[Record], summary: Record) -> Answers:
    """What each question was answered, and what was read, in every setting that a model was asked in."""
    by_measure: dict[str, dict[str, Record]] = {}
    for record in records:
        if not record["set"]:
            by_measure.setdefault(record["measure"], {})[record["id"]] = record
    answers: Answers = {}
    for (checkpoint, data, _, form), _ in calibration.cells(summary):
        name = f"{checkpoint}|{data}|{form}"
        read = by_measure.get(f"{name}|read", {})
        if told := by_measure.get(f"{name}|answer"):  # none of parts of the data, and of what the user brought
            answers[checkpoint, data, form] = {key: (record, read.get(key)) for key, record in told.items()}
    return answers


def questions_of(answers: Answers, *, repeated: bool) -> Questions:
    """Every question with what each checkpoint answers and states in each format; listed as the first answers it.

    repeated: whether the run has several sets of worked examples or wordings."""
    keys = dict.fromkeys((setting[1], identity) for setting, found in answers.items() for identity in found)
    several = len({data for data, _ in keys}) > 1
    measures = tuple(f"expected confidence: {', '.join(setting)}" for setting in answers)
    asked = tuple(_question(answers, data, identity, several) for data, identity in keys)
    checkpoint, _, form = next(iter(answers), ("", "", ""))
    sentences = (
        [f"The list shows what {checkpoint} answers in format {form}, and its marks."] if len(answers) > 1 else []
    )
    sentences += marks_in_words(asked)
    return Questions(measures, asked, " ".join([*sentences, FIRST_SET] if repeated else sentences))


def _question(answers: Answers, data: str, identity: str, several: bool) -> AskedQuestion:
    """One question of one data set. several: whether there are others, so that its id alone may not be unique."""
    asked = {setting: found[identity] for setting, found in answers.items() if setting[1] == data and identity in found}
    first, _ = next(iter(asked.values()))
    values = tuple((asked[setting][1] or {}).get("expected") if setting in asked else None for setting in answers)
    return AskedQuestion(
        f"{data}/{identity}" if several else identity,
        first.get("question", identity),
        first.get("relation", ""),
        tuple(first.get("accepted", ())),
        first["answer"] or "",
        tuple(_marks([told for told, _ in asked.values()])),
        values,
        tuple(_side(setting, *records) for setting, records in asked.items()),
    )


def _marks(told: Sequence[Record]) -> Iterator[str]:
    """What the list is filtered by: how the first setting answers, and whether any reply was not parsed."""
    yield "right" if told[0]["right"] else "wrong"
    if any(record.get("parsed") is False for record in told):
        yield "unparsed"
    if any(record["answer"] is None for record in told):
        yield "unanswered"


def _side(setting: Setting, told: Record, read: Record | None) -> Side:
    """What opens with a question: the answer in one setting, and the confidence in it."""
    checkpoint, _, form = setting
    bars: tuple[Bars, ...] = ()
    tables: tuple[SmallTable, ...] = ()
    if read and "probability" in read:
        row = Bar("own answer", "", tuple(read["probability"]), read["expected"], read["outside"])
        bars = (Bars("Confidence after", FORMATS[form].levels, (row,)),)
    if read and read.get("stated") is not None:
        stated = FORMATS[form].levels[read["stated"]]
        tables = (SmallTable("Stated", ("level", "value"), ((stated, digits(FORMATS[form].values[read["stated"]])),)),)
    reply = told.get("reply") or ""
    return Side(f"{checkpoint}, {form}", told["answer"] or "", bool(told["right"]), reply, bars=bars, tables=tables)
