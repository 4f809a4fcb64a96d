"""The summary of an evaluation from its records: the calibration table, and paired differences of checkpoints.

The module reads records and computes numbers. It asks no model."""

import re
from collections.abc import Sequence
from dataclasses import replace

from interp.calibration import (
    Scored,
    differences_of,
    lowest_possible,
    measures_of,
    measures_of_relations,
    rule_named,
    values_of,
)
from interp.datasets.choices import choice_index
from interp.datasets.grading import MatchName, is_right
from interp.formats import FORMATS, ConfidenceFormat
from interp.instruments.base import estimates
from interp.instruments.floor import READINGS
from interp.intervals import NOT_NEGATIVE, UNIT, estimated
from interp.methods.base import Asking, Score, Verdict, tokens_written
from interp.methods.registry import GIVEN, METHODS
from interp.pipelines.evaluation import Cell, Evaluate
from interp.records import Question
from interp.run.runs import Record, Run

NO_MODEL = GIVEN.name
"""Stands in the place of a checkpoint and a format in rows of answers and confidences that the user brought."""
ByKey = dict[tuple[str, int], dict[str, Record]]
"""Records by (measure, number of the set of worked examples and wording), then by the question's id."""
FEWEST_OF_A_RELATION = 20
"""Relations or subjects with fewer answers than this are not reported by themselves."""


def summary_of(
    run: Run, cells: Sequence[Cell], parts: dict[str, dict[str, list[Question]]], options: Evaluate
) -> Record:
    """The content of summary.json.

    Args:
        run: the evaluation, its records complete.
        cells: the cells of the table, those of further sets of worked examples and wordings included.
        parts: for each data set its questions by the suffix of their rows' name; "" for all of them.
        options: what the evaluation was asked.

    Returns:
        Every cell of the table with intervals, counts and what was left out; numerical floors, unparsed replies, paired
        differences of checkpoints, and the main measures of each relation or subject by itself.
    """
    data = {name: by_part[""] for name, by_part in parts.items()}
    by_key: ByKey = {}
    for record in run.all_records():
        by_key.setdefault((record["measure"], record["set"]), {})[record["id"]] = record
    table: Record = {}
    scored: dict[tuple[str, str, str, str], dict[str, Verdict | None]] = {}  # by checkpoint, data, score and format
    # the table holds the first set of worked examples and wording; further ones show in the spread alone
    for cell in (cell for cell in cells if not cell.number):
        for key, (asking, score) in options.rows.items():
            verdicts = _verdicts(by_key, cell, asking, score, data[cell.data], options.replies.match)
            scored[cell.checkpoint, cell.data, key, cell.format] = verdicts
            for part, questions in parts[cell.data].items():
                numbers = _cell_numbers(by_key, cell, asking, score, questions, data[cell.data], verdicts, options)
                numbers |= _spreads(by_key, cell, asking, score, questions, data[cell.data], options)
                _put(table, (cell.checkpoint, f"{cell.data}{part}", key, cell.format), numbers)
    brought = [score for name in options.methods if METHODS[name].asking is None for score in METHODS[name].scores]
    for score in brought:  # confidences that stand in the data
        for where, of_data in parts.items():
            for part, questions in of_data.items():
                form = FORMATS["ScoreFloat"]  # plays no part
                verdicts = {q.id: score.verdict({"confidence": q.confidence}, form, _brought(q)) for q in questions}
                numbers = _numbers(_scored(questions, verdicts, options.replies.match), options, score, form)
                _put(table, (NO_MODEL, f"{where}{part}", score.key, NO_MODEL), numbers)
    models = by_key.get(("checkpoint", 0), {})
    return {
        "rule": options.rule,
        "models": {name: {key: models[name][key] for key in ("fingerprint", "note", "dtype")} for name in models},
        "calibration": table,
        "numerical_floor": _floors(by_key, cells),
        "unparsed": _unparsed(by_key, cells),
        "differences": _differences(scored, data, options),
        "by_relation": _by_relation(scored, data, options),
    }


def _brought(question: Question) -> str | None:
    """The answer that the data bring; None where a question has none, or none of its choices is named."""
    named = not question.choices or choice_index(question.response or "", question.choices) is not None
    return question.response if question.response and named else None


def _spreads(
    by_key: ByKey,
    cell: Cell,
    asking: Asking,
    score: Score,
    questions: Sequence[Question],
    whole: Sequence[Question],
    options: Evaluate,
) -> Record:
    """The values of each measure by what readings are repeated over: "shot_sets", "wordings".

    One value under each set of worked examples, the mean over the wordings; and the other way round. whole: all
    questions of the cell."""
    sources, match = options.prompt.spreads, options.replies.match
    by_set = []  # the measures under each set of worked examples and wording
    for number in range(len(options.prompt.sets)) if sources else ():
        verdicts = _verdicts(by_key, replace(cell, number=number), asking, score, whole, match)
        by_set.append(values_of(_scored(questions, verdicts, match), rule_named(options.rule)))
    return {
        source: {name: [_mean([by_set[i][name] for i in numbers]) for numbers in members] for name in by_set[0]}
        for source, members in sources.items()
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that there are; None where there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _verdicts(
    by_key: ByKey,
    cell: Cell,
    asking: Asking,
    score: Score,
    questions: Sequence[Question],
    match: MatchName,
    unparsed: Verdict | None = None,
) -> dict[str, Verdict | None]:
    """The verdict on each question of a cell, by its id; `unparsed` where there is no answer or no confidence."""
    answers, records = by_key[cell.key("answer")], by_key.get(cell.key(asking.name), {})
    verdicts = {
        q.id: score.verdict(records[q.id], FORMATS[cell.format], answers[q.id]["answer"]) if q.id in records else None
        for q in questions
    }
    verdicts = {identity: verdict or unparsed for identity, verdict in verdicts.items()}
    if score.fitted is None:
        return verdicts
    answered = [(q, verdict) for q in questions if (verdict := verdicts[q.id]) is not None]
    fitted = score.fitted(
        [verdict for _, verdict in answered],
        [is_right(q, verdict.answer, match) for q, verdict in answered],
        [q.relation for q, _ in answered],
    )
    return verdicts | {q.id: verdict for (q, _), verdict in zip(answered, fitted, strict=True)}


def _scored(questions: Sequence[Question], verdicts: dict[str, Verdict | None], match: MatchName) -> Scored:
    """The questions that have a verdict; the others are left out, and counted."""
    answered = [(q, verdict) for q in questions if (verdict := verdicts[q.id]) is not None]
    return Scored(
        tuple(verdict.confidence for _, verdict in answered),
        tuple(is_right(q, verdict.answer, match) for q, verdict in answered),
        tuple(q.relation for q, _ in answered),
        len(questions) - len(answered),
        tuple(verdict.fold for _, verdict in answered),
    )


def _numbers(scored: Scored, options: Evaluate, score: Score, confidence: ConfidenceFormat) -> Record:
    """All measures with their intervals, the lowest possible calibration error ("floor"), and the counts.

    The lowest possible error is None where the score is not bound to the format's levels."""
    measured = measures_of(scored, rule_named(options.rule))
    measures = {name: estimate.as_record() for name, estimate in measured.items()}
    accuracy = measured["accuracy"].value
    floor = None
    if score.within_levels and accuracy is not None:
        floor = lowest_possible(accuracy, confidence.values)
    return {**measures, "floor": floor, "unparsed": scored.left_out, "n": len(scored)}


def _cell_numbers(
    by_key: ByKey,
    cell: Cell,
    asking: Asking,
    score: Score,
    questions: Sequence[Question],
    whole: Sequence[Question],
    verdicts: dict[str, Verdict | None],
    options: Evaluate,
) -> Record:
    """One row of the table: the measures, and what each question cost in tokens and seconds.

    whole: all questions of the cell, of which `questions` may be a part."""
    answers, records = by_key[cell.key("answer")], by_key.get(cell.key(asking.name), {})
    form = FORMATS[cell.format]
    numbers = _numbers(_scored(questions, verdicts, options.replies.match), options, score, form)
    ids = [q.id for q in questions if q.id in records]
    costs = {
        "tokens": [tokens_written(asking, score, records[i], answers[i]["tokens"] or 0) for i in ids],
        "prompt_tokens": [answers[i]["prompt_tokens"] + records[i].get("prompt_tokens", 0) for i in ids],
        "seconds": [records[i]["seconds"] + (0 if asking.answers_itself else answers[i]["seconds"]) for i in ids],
        "outside": [records[i].get("outside") for i in ids],
    }
    numbers |= {
        name: estimated(column, bounds=UNIT if name == "outside" else NOT_NEGATIVE).as_record()
        for name, column in costs.items()
    }
    if options.replies.free:
        # the worst case: every unparsed reply is taken for a wrong answer with the highest confidence
        unparsed, match = Verdict("", form.values[-1]), options.replies.match
        worst = _verdicts(by_key, cell, asking, score, whole, match, unparsed)
        numbers["worst"] = _numbers(_scored(questions, worst, match), options, score, form)
    return numbers


def _unparsed(by_key: ByKey, cells: Sequence[Cell]) -> Record:
    """The replies that state no answer or no confidence: by checkpoint, data and format, the text by question id."""
    table: Record = {}
    for cell in cells:
        answers = by_key[cell.key("answer")].values()
        lost = {
            record["id"]: record.get("reply")
            for record in answers
            if record["answer"] is None or record.get("parsed") is False
        }
        if lost and not cell.number:
            _put(table, (cell.checkpoint, cell.data, cell.format), lost)
    return table


def _floors(by_key: ByKey, cells: Sequence[Cell]) -> Record:
    """The numerical floors of the confidences in the first answers: by checkpoint, data and format."""
    table: Record = {}
    for cell in cells:
        if records := by_key.get(cell.key(READINGS.name)):
            floors = estimates(READINGS.metrics, list(records.values()))
            numbers = {key: floor.as_record() for key, floor in floors.items()}
            _put(table, (cell.checkpoint, cell.data, cell.format), numbers)
    return table


def _differences(
    scored: dict[tuple[str, str, str, str], dict[str, Verdict | None]],
    data: dict[str, list[Question]],
    options: Evaluate,
) -> Record:
    """Each later checkpoint, and the mean of each pool of seeds, minus the first, where all have a verdict."""
    table: Record = {}
    names = list(dict.fromkeys(checkpoint for checkpoint, *_ in scored))
    sides = {name: [name] for name in names[1:]}
    for pool in options.pool:
        seeds = [name for name in names[1:] if re.fullmatch(rf"{re.escape(pool)}-\d+", name)]
        sides |= {f"{pool}, mean of seeds": seeds} if seeds else {}
    for first, data_name, key, format_name in (cell for cell in scored if cell[0] == names[0]):
        before = scored[first, data_name, key, format_name]
        for name, checkpoints in sides.items():
            after = [scored[checkpoint, data_name, key, format_name] for checkpoint in checkpoints]
            questions = [q for q in data[data_name] if all(verdicts[q.id] for verdicts in (*after, before))]
            *ones, other = (_scored(questions, verdicts, options.replies.match) for verdicts in (*after, before))
            ones = [replace(one, left_out=len(data[data_name]) - len(questions)) for one in ones]
            differences = differences_of(ones, other, rule_named(options.rule))
            numbers = {measure: estimate.as_record() for measure, estimate in differences.items()}
            _put(table, (f"{name} less {first}", data_name, key, format_name), numbers)
    return table


def _by_relation(
    scored: dict[tuple[str, str, str, str], dict[str, Verdict | None]],
    data: dict[str, list[Question]],
    options: Evaluate,
) -> Record:
    """The main measures of each relation by itself, where a cell has several that are large enough."""
    table: Record = {}
    for (checkpoint, data_name, key, format_name), verdicts in scored.items():
        whole = _scored(data[data_name], verdicts, options.replies.match)
        measured = measures_of_relations(whole, rule_named(options.rule), FEWEST_OF_A_RELATION)
        for relation, measures in measured.items() if len(measured) > 1 else ():
            numbers = {measure: estimate.as_record() for measure, estimate in measures.items()}
            _put(table, (checkpoint, data_name, key, format_name, relation), numbers)
    return table


def _put(table: Record, path: Sequence[str], numbers: Record) -> None:
    """Puts numbers into nested records, as `table[path[0]][path[1]]...`; records that are missing are made."""
    *above, last = path
    for name in above:
        table = table.setdefault(name, {})
    table[last] = numbers
