"""What the records of an evaluation say: every cell of the calibration table, and paired differences of checkpoints."""

from collections.abc import Sequence
from dataclasses import replace

from interp.calibration import Scored, differences_of, lowest_possible, measures_of, rule_named, values_of
from interp.datasets.questions import is_right
from interp.formats import FORMATS, ConfidenceFormat
from interp.instruments.base import estimates
from interp.instruments.floor import READINGS
from interp.intervals import estimated
from interp.methods.base import Asking, Score, Verdict, tokens_written
from interp.methods.registry import GIVEN
from interp.pipelines.evaluation import Cell, Evaluate
from interp.records import Question
from interp.run.runs import Record, Run

NO_MODEL = GIVEN.name
"""What stands for a checkpoint and a format in the rows of answers and confidences that the user brought."""
ByKey = dict[tuple[str, int], dict[str, Record]]
"""Records by measure and set, then by question."""


def summary_of(
    run: Run, cells: Sequence[Cell], parts: dict[str, dict[str, list[Question]]], options: Evaluate
) -> Record:
    """Every cell of the table with intervals, counts and what was left out; paired differences of checkpoints."""
    data = {name: of_data[""] for name, of_data in parts.items()}
    by_key: ByKey = {}
    for record in run.all_records():
        by_key.setdefault((record["measure"], record["set"]), {})[record["id"]] = record
    table: Record = {}
    scored: dict[tuple[str, str, str, str], dict[str, Verdict | None]] = {}
    for cell in (cell for cell in cells if not cell.examples):
        for key, (asking, score) in options.rows.items():
            verdicts = _verdicts(by_key, cell, asking, score, data[cell.data])
            scored[cell.checkpoint, cell.data, key, cell.format] = verdicts
            for part, questions in parts[cell.data].items():
                numbers = _cell_numbers(by_key, cell, asking, score, questions, verdicts, options)
                if options.prompt.shot_sets > 1:
                    numbers["shot_sets"] = _spread(by_key, cell, asking, score, questions, options)
                _put(table, (cell.checkpoint, f"{cell.data}{part}", key, cell.format), numbers)
    if GIVEN.name in options.methods:
        for where, of_data in parts.items():
            for part, questions in of_data.items():
                verdicts = {q.id: Verdict(q.response or "", q.confidence or 0.0) for q in questions}
                numbers = _numbers(_scored(questions, verdicts), options, FORMATS["ScoreFloat"])
                _put(table, (NO_MODEL, f"{where}{part}", GIVEN.name, NO_MODEL), numbers)
    models = by_key.get(("checkpoint", 0), {})
    return {
        "rule": options.rule,
        "models": {name: {k: models[name][k] for k in ("fingerprint", "note", "dtype")} for name in models},
        "calibration": table,
        "numerical_floor": _floors(by_key, cells),
        "unparsed": _unparsed(by_key, cells),
        "differences": _differences(scored, data, options),
    }


def _spread(
    by_key: ByKey, cell: Cell, asking: Asking, score: Score, questions: Sequence[Question], options: Evaluate
) -> dict[str, list[float | None]]:
    """The value of each measure under each set of examples."""
    found: dict[str, list[float | None]] = {}
    for number in range(options.prompt.shot_sets):
        verdicts = _verdicts(by_key, replace(cell, examples=number), asking, score, questions)
        for name, value in values_of(_scored(questions, verdicts), rule_named(options.rule)).items():
            found.setdefault(name, []).append(value)
    return found


def _verdicts(
    by_key: ByKey, cell: Cell, asking: Asking, score: Score, questions: Sequence[Question]
) -> dict[str, Verdict | None]:
    """What a method makes of each question, by its id; None where there is no answer or no confidence."""
    answers, records = by_key[cell.key("answer")], by_key.get(cell.key(asking.name), {})
    return {
        q.id: score.verdict(records[q.id], FORMATS[cell.format], answers[q.id]["answer"]) if q.id in records else None
        for q in questions
    }


def _scored(questions: Sequence[Question], verdicts: dict[str, Verdict | None]) -> Scored:
    told = [(q, said) for q in questions if (said := verdicts[q.id]) is not None]
    return Scored(
        tuple(said.confidence for _, said in told),
        tuple(is_right(q, said.answer) for q, said in told),
        tuple(q.relation for q, _ in told),
        len(questions) - len(told),
    )


def _numbers(scored: Scored, options: Evaluate, confidence: ConfidenceFormat) -> Record:
    found = {name: one.as_record() for name, one in measures_of(scored, rule_named(options.rule)).items()}
    accuracy = found["accuracy"]["value"]
    floor = None if accuracy is None else lowest_possible(accuracy, confidence.values)
    return {**found, "floor": floor, "unparsed": scored.left_out, "n": len(scored)}


def _cell_numbers(
    by_key: ByKey,
    cell: Cell,
    asking: Asking,
    score: Score,
    questions: Sequence[Question],
    verdicts: dict[str, Verdict | None],
    options: Evaluate,
) -> Record:
    """One row of the table."""
    answers, records = by_key[cell.key("answer")], by_key.get(cell.key(asking.name), {})
    numbers = _numbers(_scored(questions, verdicts), options, FORMATS[cell.format])
    there = [q.id for q in questions if q.id in records]
    costs = {
        "tokens": [tokens_written(asking, score, records[i], answers[i]["tokens"] or 0) for i in there],
        "prompt_tokens": [answers[i]["prompt_tokens"] + records[i].get("prompt_tokens", 0) for i in there],
        "seconds": [records[i]["seconds"] + (0 if asking.answers_itself else answers[i]["seconds"]) for i in there],
        "outside": [records[i].get("outside") for i in there],
    }
    numbers |= {name: estimated(column).as_record() for name, column in costs.items()}
    if options.replies.free:
        worst = Verdict("", FORMATS[cell.format].values[-1])
        numbers["worst"] = _numbers(
            _scored(questions, {i: said or worst for i, said in verdicts.items()}), options, FORMATS[cell.format]
        )
    return numbers


def _unparsed(by_key: ByKey, cells: Sequence[Cell]) -> Record:
    """The replies of which no answer, or no confidence, could be had: by checkpoint, data and format, text by id."""
    table: Record = {}
    for cell in cells:
        told = by_key[cell.key("answer")].values()
        lost = {r["id"]: r.get("reply") for r in told if r["answer"] is None or r.get("parsed") is False}
        if lost and not cell.examples:
            _put(table, (cell.checkpoint, cell.data, cell.format), lost)
    return table


def _floors(by_key: ByKey, cells: Sequence[Cell]) -> Record:
    """What the first answers' confidences differ by when they are read twice: by checkpoint, data and format."""
    table: Record = {}
    for cell in cells:
        if records := by_key.get(cell.key(READINGS.name)):
            found = estimates(READINGS.metrics, list(records.values()))
            _put(table, (cell.checkpoint, cell.data, cell.format), {k: one.as_record() for k, one in found.items()})
    return table


def _differences(
    scored: dict[tuple[str, str, str, str], dict[str, Verdict | None]],
    data: dict[str, list[Question]],
    options: Evaluate,
) -> Record:
    """Each later checkpoint less the first, on the questions on which both have a verdict."""
    table: Record = {}
    names = list(dict.fromkeys(checkpoint for checkpoint, *_ in scored))
    for (checkpoint, where, key, form), verdicts in scored.items():
        if checkpoint != names[0]:
            before = scored[names[0], where, key, form]
            both = [q for q in data[where] if verdicts[q.id] and before[q.id]]
            after, first = (_scored(both, one) for one in (verdicts, before))
            found = differences_of(after, first, rule_named(options.rule))
            numbers = {name: one.as_record() for name, one in found.items()}
            _put(table, (f"{checkpoint} less {names[0]}", where, key, form), numbers)
    return table


def _put(table: Record, path: Sequence[str], numbers: Record) -> None:
    *above, last = path
    for name in above:
        table = table.setdefault(name, {})
    table[last] = numbers
