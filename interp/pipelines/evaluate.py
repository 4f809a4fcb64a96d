"""The evaluation: how well stated confidence is calibrated, by checkpoint, data, method and format.

Every method's askings are put to every checkpoint, and their records kept; `calibrated` computes the numbers. Of the
methods the module knows only `given`, and the asking that can be read together with the answers."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from interp.datasets.questions import fingerprint, loaded_questions, refuse_mixed, shuffled
from interp.datasets.words import normalised
from interp.errors import UserError
from interp.formats import FORMATS, ConfidenceFormat
from interp.instruments.floor import READINGS
from interp.methods.base import Answered, Asking, Draws, Put
from interp.methods.default import READ
from interp.methods.registry import METHODS
from interp.options import (
    dry_run_of,
    identity_of,
    loading_of,
    refuse_sets_of_nothing,
)
from interp.pipelines.calibrated import summary_of
from interp.pipelines.elicit import read_again
from interp.pipelines.evaluation import APART, SHARED, Cell, Evaluate
from interp.records import Question
from interp.run.dryrun import DryRun
from interp.run.processes import launched
from interp.run.recording import Measured, recorded
from interp.run.runs import Record, Run

if TYPE_CHECKING:
    from interp.models.check import EngineCheck
    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import Setting

T = TypeVar("T")
ANSWERED_AT_ONCE = 64
"""How many questions are answered at a time, and so how many are asked again after a run that died."""


def evaluated(
    options: Evaluate,
    dry: DryRun | None = None,
    to_come: Sequence[str] = (),
    *,
    held: "Mapping[str, Checkpoint] | None" = None,
    questions: Mapping[str, Sequence[Question]] | None = None,
) -> Path:
    """Asks what is not on record yet, and computes the summary.

    Args:
        options: those of the evaluation.
        dry: the dry run that it is a part of; None: the options say whether it is a dry run.
        to_come: checkpoints that are still to be trained; a dry run expects their askings to cost as much as those of
            the first.
        held: checkpoints of the options that are in memory already, by their names in the options.
        questions: questions of the options' data that are in memory already, by the data's names in the options; they
            are taken in their own order, and all of them.

    Returns:
        The run's directory.

    Raises:
        UserError: where options, data and checkpoints do not fit each other, or the run was begun with others.
    """
    dry, held, questions = dry or dry_run_of(options), held or {}, questions or {}
    data = {
        short: _questions(path, options, questions.get(path))
        for short, path in short_names("data", options.tested.data).items()
    }
    parts = {name: _parts(questions, options) for name, questions in data.items()}
    names = short_names("ckpt", options.ckpt)
    names, shots = (names, _shots(names, options, to_come, held)) if options.asks_a_model else ({}, {})
    identity = identity_of(options) | {
        "shots": shots,
        "questions": {name: fingerprint(questions) for name, questions in data.items()},
    }
    with Run(
        options.output.out or Path("results/evaluate"),
        identity,
        launched(options.computing.device),
        dry,
        kind="evaluate",
    ) as run:
        cells = _cells(names, data, options)
        _gather(run, cells, data, options)
        missing = [cell for cell in cells if not _complete(run, cell, data[cell.data], options)]
        if missing := [cell for cell in missing if names[cell.checkpoint] not in to_come]:
            with run.dry.within("", 1 + len(to_come)) if run.dry else nullcontext():
                _ask_all(run, missing, names, shots, data, options, held)
        if run.dry is None:
            run.write_summary(summary_of(run, cells, parts, options))
    return run.folder


def short_names(option: str, given: Sequence[str]) -> dict[str, str]:
    """The short names of paths in the table: their last parts; other names stay as they are.

    Args:
        option: the option that they were given for, for errors.
        given: paths or names.

    Returns:
        Each path or name by its short name.

    Raises:
        UserError: where two would have the same short name.
    """
    names: dict[str, str] = {}
    for name in given:
        path = Path(name)
        short = (path.stem if path.suffix in (".jsonl", ".gguf") else path.resolve().name) if path.exists() else name
        if short in names:
            raise UserError(f"--{option}: {names[short]} and {name} would both be called {short!r} in the table")
        names[short] = name
    return names


def _questions(data: str, options: Evaluate, held: Sequence[Question] | None) -> list[Question]:
    """The questions of one data set; UserError where the method `given` has no response with a confidence.

    held: those that are in memory already."""
    tested = options.tested
    if held is None:
        questions = shuffled(loaded_questions(data, options.common.fields), options.common.seed)[: tested.n]
    else:
        questions = list(held)
    refuse_mixed(questions, data)
    brought = next((name for name in options.methods if METHODS[name].asking is None), None)
    if brought and not any(q.response and q.confidence is not None for q in questions):
        raise UserError(f"--methods {brought}: no question of {data} has a response and a confidence")
    return questions


def _shots(
    names: dict[str, str], options: Evaluate, to_come: Sequence[str], held: "Mapping[str, Checkpoint]"
) -> dict[str, int]:
    """How many worked examples each checkpoint is asked with, by its short name.

    Raises:
        UserError: where a checkpoint does not exist, or several sets of no examples are asked for.
    """
    from interp.models.checkpoints import source_of

    # a checkpoint that is still to be trained has the presets of the first
    existing = {name: options.ckpt[0] if ckpt in to_come else ckpt for name, ckpt in names.items()}
    code = options.common.trust_remote_code
    presets = {
        name: held[ckpt].shots if ckpt in held else source_of(ckpt, remote_code=code).shots
        for name, ckpt in existing.items()
    }
    shots = {name: options.prompt.shots_of(preset) for name, preset in presets.items()}
    for count in shots.values():
        refuse_sets_of_nothing(options.prompt.shot_sets, count)
    return shots


def _cells(names: Collection[str], data: Collection[str], options: Evaluate) -> list[Cell]:
    """The cells of checkpoints and data sets, given by their short names, in the order in which they are asked."""
    return [
        Cell(name, data_name, format_name, number)
        for name in names
        for number in range(len(options.prompt.sets))
        for data_name in data
        for format_name in options.tested.formats
    ]


def _parts(questions: list[Question], options: Evaluate) -> dict[str, list[Question]]:
    """The questions by what is added to the data's name in the table; all of them first, under ""."""
    if options.trained_on is None:
        return {"": questions}
    known = {normalised(answer) for question in loaded_questions(options.trained_on) for answer in question.answers}
    known.discard("")  # a picture character alone
    shared = [q for q in questions if any(normalised(answer) in known for answer in q.answers)]
    ids = {q.id for q in shared}
    return {"": questions, SHARED: shared, APART: [q for q in questions if q.id not in ids]}


def _gather(run: Run, cells: Sequence[Cell], data: dict[str, list[Question]], options: Evaluate) -> None:
    """Merges the records that processes which died have left of any cell, finished cells included."""
    for cell in cells:
        run.gather("checkpoint", 0, [cell.checkpoint])
        for asking in ("answer", READINGS.name, *options.askings):
            run.gather(*cell.key(asking), [q.id for q in data[cell.data]])


def _complete(run: Run, cell: Cell, questions: Sequence[Question], options: Evaluate) -> bool:
    """Whether all that is asked for a cell is on record."""
    if not all((*cell.key("answer"), q.id) in run.done for q in questions):
        return False
    answered = {identity for identity, record in _told(run, cell).items() if record["answer"] is not None}
    return all(
        (*cell.key(name), q.id) in run.done
        for name, asking in options.askings.items()
        for q in questions
        if asking.answers_itself or q.id in answered
    )


def _told(run: Run, cell: Cell) -> dict[str, Record]:
    """The records of a cell's answers, by question id."""
    measure, number = cell.key("answer")
    return {record["id"]: record for record in run.records(measure) if record["set"] == number}


def _ask_all(
    run: Run,
    cells: Sequence[Cell],
    names: dict[str, str],
    shots: dict[str, int],
    data: dict[str, list[Question]],
    options: Evaluate,
    held: "Mapping[str, Checkpoint]",
) -> None:
    """Asks what the cells lack, one checkpoint after the other. held: those that are in memory already."""
    from interp.models.checkpoints import each_checkpoint

    wanted = {name: ckpt for name, ckpt in names.items() if any(cell.checkpoint == name for cell in cells)}
    loading = loading_of(options.common, options.computing, options.engine)
    loaded = each_checkpoint([ckpt for ckpt in wanted.values() if ckpt not in held], loading)
    for name in wanted:
        checkpoint = held[wanted[name]] if wanted[name] in held else next(loaded)
        ready = Prepared(checkpoint, shots[name], options)
        _refuse_another(run, name, checkpoint, ready.prompts(data.values()))
        for cell in cells:
            if cell.checkpoint == name:
                _ask_cell(run, cell, ready, data[cell.data], options)
        del checkpoint, ready  # so that its base can be freed before the next checkpoint is loaded


def _refuse_another(run: Run, name: str, checkpoint: "Checkpoint", prompts: str) -> None:
    """Puts the checkpoint on record, or compares it with the record. prompts: the fingerprint of `Prepared.prompts`.

    Raises:
        UserError: where the run began with other weights, another precision or other prompts.
    """
    current = {"fingerprint": checkpoint.fingerprint, "note": checkpoint.note, "dtype": str(checkpoint.model.dtype)}
    current["prompts"] = prompts
    if ("checkpoint", 0, name) not in run.done and run.processes.first:
        run.append({"measure": "checkpoint", "set": 0, "id": name, **current})
    run.gather("checkpoint", 0, [name])
    known = next(record for record in run.records("checkpoint") if record["id"] == name)
    if any(known.get(key) != current[key] for key in ("fingerprint", "dtype", "prompts")):
        difference = f"{name} has other weights, another precision or another chat template than when the run began"
        raise UserError(f"--out {run.folder}: {difference}; give another --out")


class Prepared:
    """One checkpoint's settings, each made once, so that no shared prefix is read twice."""

    def __init__(self, checkpoint: "Checkpoint", shots: int, options: Evaluate) -> None:
        self._checkpoint, self._shots, self._options = checkpoint, shots, options
        self._made: dict[tuple[ConfidenceFormat, bool, int], Setting] = {}
        self._check: EngineCheck | None = None
        self._steering = options.added.steering(checkpoint)

    def prompts(self, data: Iterable[Sequence[Question]]) -> str:
        """A fingerprint of what is rendered around the questions of these data sets, in all formats."""
        from interp.models.setting import prompter_for

        options = self._options
        return fingerprint(
            prompter_for(
                self._checkpoint,
                FORMATS[format_name],
                options.prompt.prompting(options.replies.reply_tokens, prompt_set.wording),
                shots=self._shots,
                shot_seed=prompt_set.examples,
                choices=choices,
            ).frame
            for choices in {bool(questions[0].choices) for questions in data}
            for format_name in options.tested.formats
            for prompt_set in options.prompt.sets
        )

    def setting(self, confidence: ConfidenceFormat, *, choices: bool, number: int) -> "Setting":
        """The checkpoint ready to be asked.

        Args:
            confidence: the format.
            choices: the questions are multiple choice.
            number: that of the set of worked examples and wording.
        """
        from interp.models.setting import prepared

        key, prompt_set = (confidence, choices, number), self._options.prompt.sets[number]
        if key not in self._made:
            self._made[key] = prepared(
                self._checkpoint,
                confidence,
                shots=self._shots,
                shot_seed=prompt_set.examples,
                choices=choices,
                prompting=self._options.prompt.prompting(self._options.replies.reply_tokens, prompt_set.wording),
                seed=self._options.common.seed,
                batch_tokens=self._options.engine.batch_tokens,
                check_long=self._options.engine.check == "long",
                check=self._check,
                steering=self._steering,
            )
            self._check = self._made[key].check
        return self._made[key]


def _ask_cell(run: Run, cell: Cell, ready: Prepared, questions: Sequence[Question], options: Evaluate) -> None:
    """Puts the answers to a cell's questions on record, then their numerical floor, then the askings of all methods."""
    choices = bool(questions[0].choices)
    setting = ready.setting(FORMATS[cell.format], choices=choices, number=cell.number)
    read: dict[str, Record] = {}  # confidences that were read together with the answers, by question id
    if run.dry:
        run.dry.know_lengths(setting.prompter, questions)
    answers = _answers(run, cell, setting, questions, options, read)
    if READ.name in options.askings:
        from interp.models.setting import Case

        cases = [Case(q, answers[q.id]["answer"]) for q in questions if q.id in answers and answers[q.id]["answer"]]
        read_again(run, cell.key(READINGS.name), READINGS, setting, cases)
    for asking in options.askings.values():
        form = asking.format_in(FORMATS[cell.format])
        asking_setting = ready.setting(form, choices=choices, number=cell.number)
        # a dry run has asked only the first questions; outside of one, every question has a record
        answered = [Answered(q, answers[q.id]["answer"] or "") for q in questions if q.id in answers or not run.dry]
        if not asking.answers_itself:
            answered = [item for item in answered if item.answer]
        whole = len(questions) * len(answered) / max(1, len(answers))
        _ask(run, cell, asking, asking_setting, answered, answers, options, read, whole)


def _answers(
    run: Run,
    cell: Cell,
    setting: "Setting",
    questions: Sequence[Question],
    options: Evaluate,
    read: dict[str, Record],
) -> dict[str, Record]:
    """The record of each question's answer: the user's response, else the model's greedy answer.

    read: is filled with the confidences in new answers, read while their prompts were at hand, by question id."""
    from interp.answers import asked_for
    from interp.methods.default import answered_and_read

    replies = options.replies

    def asked(chunk: Sequence[Question]) -> Iterator[Record]:
        began = time.perf_counter()
        confidences: dict[str, Record] = {}
        if READ.name in options.askings:
            records, confidences = answered_and_read(setting, chunk, free=replies.free, match=replies.match)
        else:
            records = asked_for(setting, chunk, free=replies.free, match=replies.match)
        read.update(confidences)
        # the time for reading confidences counts for the asking, not for the answers
        spent = time.perf_counter() - began - sum(confidence["seconds"] for confidence in confidences.values())
        for question, record in zip(chunk, records, strict=True):
            prompt = setting.prompter.transcript(question, free=options.replies.free)
            yield {"seconds": spent / len(chunk), **record, "prompt_tokens": len(prompt.ids)}

    by_id = {q.id: q for q in questions}
    recorded(run, cell.key("answer"), by_id, ANSWERED_AT_ONCE, asked, setting, whole=len(questions))
    return _told(run, cell)


def timed(measured: Measured[T]) -> Measured[T]:
    """`measured` with the seconds in each record, an equal part of its chunk's; a record's own seconds are kept."""

    def with_seconds(chunk: Sequence[T]) -> list[Record]:
        began = time.perf_counter()
        records = list(measured(chunk))
        seconds = (time.perf_counter() - began) / len(chunk)
        return [{"seconds": seconds, **record} for record in records]

    return with_seconds


def _ask(
    run: Run,
    cell: Cell,
    asking: Asking,
    setting: "Setting",
    answered: Sequence[Answered],
    answers: dict[str, Record],
    options: Evaluate,
    read: dict[str, Record],
    whole: int | float,
) -> None:
    """Puts the records of one asking on record.

    answers, read: as in `_answers`, by question id. whole: how many questions the whole run has, for a dry run."""
    draws = Draws(options.samples, options.top_p, options.common.seed)

    @cache
    def put() -> Put:  # not before something is left to ask
        if asking.prepared is None or asking.needs is None:
            return asking.put
        measure, number = cell.key(asking.needs.name)
        records = {record["id"]: record for record in run.records(measure) if record["set"] == number}
        known = [item for item in answered if item.question.id in records]  # a dry run lacks some
        return asking.prepared(setting, known, [records[item.question.id] for item in known], draws)

    def at_hand(item: Answered) -> bool:
        """Whether the confidence was read together with this answer."""
        return asking.name == READ.name and read.get(item.question.id, {}).get("of_answer") == item.answer

    def asked(chunk: Sequence[Answered]) -> Iterator[Record]:
        missing = [item for item in chunk if not at_hand(item)]
        fresh = iter(put()(setting, missing, draws) if missing else ())
        for item in chunk:
            record = read[item.question.id] if at_hand(item) else next(fresh)
            record = {name: value for name, value in record.items() if name != "of_answer"}
            if options.replies.free and asking.name == READ.name:
                # the level in the free reply counts, not the likeliest one; its tokens are among the reply's
                record |= {"stated": answers[item.question.id]["stated"], "level_tokens": 0}
            yield record

    by_id = {item.question.id: item for item in answered}
    recorded(run, cell.key(asking.name), by_id, asking.chunk, timed(asked), setting, whole=whole)
