"""How well stated confidence is calibrated, by checkpoint, data, method and format."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from interp.datasets.questions import fingerprint, loaded_questions, normalised, refuse_mixed, shuffled
from interp.errors import UserError
from interp.formats import FORMATS, ConfidenceFormat
from interp.instruments.floor import READINGS
from interp.methods.base import Answered, Asking, Draws
from interp.methods.default import READ
from interp.methods.registry import GIVEN
from interp.options import (
    dry_run_of,
    identity_of,
    loading_of,
    refuse_sets_of_nothing,
)
from interp.pipelines.calibrated import summary_of
from interp.pipelines.elicit import read_again
from interp.pipelines.evaluation import Cell, Evaluate
from interp.records import Question
from interp.run.dryrun import DryRun
from interp.run.processes import launched
from interp.run.recording import Measured, recorded
from interp.run.runs import Record, Run

if TYPE_CHECKING:
    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import Setting

T = TypeVar("T")
ANSWERED_AT_ONCE = 64
"""How many questions are answered at a time, and so how many are asked again after a run that died."""


def evaluated(options: Evaluate, dry: DryRun | None = None, to_come: Sequence[str] = ()) -> Path:
    """Asks what is not on record yet, and returns the run's directory.

    dry: where a dry run is part of another's. to_come: checkpoints that are still to be trained, whose askings a dry
    run takes to be like those of the first."""
    dry = dry or dry_run_of(options)
    data = {short: _questions(path, options) for short, path in short_names("data", options.tested.data).items()}
    parts = {name: _parts(questions, options) for name, questions in data.items()}
    names = short_names("ckpt", options.ckpt)
    if options.asks_a_model:
        from interp.models.checkpoints import source_of

        there = {name: options.ckpt[0] if ckpt in to_come else ckpt for name, ckpt in names.items()}
        sources = {name: source_of(ckpt, remote_code=options.common.trust_remote_code) for name, ckpt in there.items()}
        shots = {name: options.prompt.shots_of(source.shots) for name, source in sources.items()}
        for count in shots.values():
            refuse_sets_of_nothing(options.prompt.shot_sets, count)
    else:
        names, shots = {}, {}
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
        sets = range(options.prompt.shot_sets)
        cells = [
            Cell(name, at, form, k) for name in names for k in sets for at in data for form in options.tested.formats
        ]
        _gather(run, cells, data, options)
        missing = [cell for cell in cells if not _complete(run, cell, data[cell.data], options)]
        if missing := [cell for cell in missing if names[cell.checkpoint] not in to_come]:
            with run.dry.within("", 1 + len(to_come)) if run.dry else nullcontext():
                _ask_all(run, missing, names, shots, data, options)
        if run.dry is None:
            run.write_summary(summary_of(run, cells, parts, options))
    return run.folder


SHARED, APART = " (answers in training)", " (answers not in training)"


def short_names(option: str, given: Sequence[str]) -> dict[str, str]:
    """What stands in the table for each path or name: its last part."""
    names: dict[str, str] = {}
    for one in given:
        path = Path(one)
        short = (path.stem if path.suffix in (".jsonl", ".gguf") else path.resolve().name) if path.exists() else one
        if short in names:
            raise UserError(f"--{option}: {names[short]} and {one} would both be called {short!r} in the table")
        names[short] = one
    return names


def _questions(data: str, options: Evaluate) -> list[Question]:
    questions = shuffled(loaded_questions(data), options.common.seed)[: options.tested.n]
    refuse_mixed(questions, data)
    bare = next((q.id for q in questions if q.response is None or q.confidence is None), None)
    if GIVEN.name in options.methods and bare:
        raise UserError(f"--methods given: question {bare!r} of {data} lacks response or confidence")
    return questions


def _parts(questions: list[Question], options: Evaluate) -> dict[str, list[Question]]:
    """The questions by what is added to the data's name where their numbers stand; all of them first."""
    if options.trained_on is None:
        return {"": questions}
    known = {normalised(answer) for question in loaded_questions(options.trained_on) for answer in question.answers}
    known.discard("")  # a picture character alone
    shared = [q for q in questions if any(normalised(answer) in known for answer in q.answers)]
    ids = {q.id for q in shared}
    return {"": questions, SHARED: shared, APART: [q for q in questions if q.id not in ids]}


def _gather(run: Run, cells: Sequence[Cell], data: dict[str, list[Question]], options: Evaluate) -> None:
    """Merges what processes that died have left of any cell, the finished ones too."""
    for cell in cells:
        run.gather("checkpoint", 0, [cell.checkpoint])
        for asking in ("answer", READINGS.name, *options.askings):
            run.gather(*cell.key(asking), [q.id for q in data[cell.data]])


def _complete(run: Run, cell: Cell, questions: Sequence[Question], options: Evaluate) -> bool:
    if not all((*cell.key("answer"), q.id) in run.done for q in questions):
        return False
    answered = {identity for identity, r in _told(run, cell).items() if r["answer"] is not None}
    return all(
        (*cell.key(name), q.id) in run.done
        for name, asking in options.askings.items()
        for q in questions
        if asking.answers_itself or q.id in answered
    )


def _told(run: Run, cell: Cell) -> dict[str, Record]:
    measure, number = cell.key("answer")
    return {record["id"]: record for record in run.records(measure) if record["set"] == number}


def _ask_all(
    run: Run,
    cells: Sequence[Cell],
    names: dict[str, str],
    shots: dict[str, int],
    data: dict[str, list[Question]],
    options: Evaluate,
) -> None:
    from interp.models.checkpoints import each_checkpoint

    wanted = {name: ckpt for name, ckpt in names.items() if any(cell.checkpoint == name for cell in cells)}
    loading = loading_of(options.common, options.computing, options.engine)
    loaded = each_checkpoint(list(wanted.values()), loading)
    for name in wanted:
        checkpoint = next(loaded)
        prepared_ones = Prepared(checkpoint, shots[name], options)
        _refuse_another(run, name, checkpoint, prepared_ones.prompts(data.values()))
        for cell in cells:
            if cell.checkpoint == name:
                _ask_cell(run, cell, prepared_ones, data[cell.data], options)
        del checkpoint, prepared_ones  # so that its base can be let go before the next one is loaded


def _refuse_another(run: Run, name: str, checkpoint: "Checkpoint", prompts: str) -> None:
    """prompts: a fingerprint of what is rendered for it. Errors: UserError where the run began with another."""
    ours = {"fingerprint": checkpoint.fingerprint, "note": checkpoint.note, "dtype": str(checkpoint.model.dtype)}
    ours["prompts"] = prompts
    if ("checkpoint", 0, name) not in run.done and run.processes.first:
        run.append({"measure": "checkpoint", "set": 0, "id": name, **ours})
    run.gather("checkpoint", 0, [name])
    known = next(record for record in run.records("checkpoint") if record["id"] == name)
    if any(known.get(key) != ours[key] for key in ("fingerprint", "dtype", "prompts")):
        told = f"{name} has other weights, another precision or another chat template than when the run began"
        raise UserError(f"--out {run.folder}: {told}; give another --out")


class Prepared:
    """One checkpoint's settings, each made once: its instruction is read once for each format and kind of question."""

    def __init__(self, checkpoint: "Checkpoint", shots: int, options: Evaluate) -> None:
        self._checkpoint, self._shots, self._options = checkpoint, shots, options
        self._made: dict[tuple[str, bool, int], Setting] = {}

    def prompts(self, data: Iterable[Sequence[Question]]) -> str:
        """A fingerprint of what is rendered around the questions of these data sets."""
        from interp.models.setting import prompter_for

        options = self._options
        return fingerprint(
            prompter_for(
                self._checkpoint,
                FORMATS[form],
                options.prompt.prompting(options.replies.reply_tokens),
                shots=self._shots,
                shot_seed=number,
                choices=choices,
            ).frame
            for choices in {bool(questions[0].choices) for questions in data}
            for form in options.tested.formats
            for number in range(options.prompt.shot_sets)
        )

    def setting(self, confidence: ConfidenceFormat, *, choices: bool, examples: int) -> "Setting":
        """The checkpoint ready to be asked in this format, with this set of examples."""
        from interp.models.setting import prepared

        key = (confidence.name, choices, examples)
        if key not in self._made:
            self._made[key] = prepared(
                self._checkpoint,
                confidence,
                shots=self._shots,
                shot_seed=examples,
                choices=choices,
                prompting=self._options.prompt.prompting(self._options.replies.reply_tokens),
                seed=self._options.common.seed,
                batch_tokens=self._options.engine.batch_tokens,
                check_long=self._options.engine.check == "long",
            )
        return self._made[key]


def _ask_cell(run: Run, cell: Cell, ready: Prepared, questions: Sequence[Question], options: Evaluate) -> None:
    choices = bool(questions[0].choices)
    setting = ready.setting(FORMATS[cell.format], choices=choices, examples=cell.examples)
    read: dict[str, Record] = {}
    if run.dry:
        run.dry.know_lengths(setting.prompter, questions)
    told = _answers(run, cell, setting, questions, options, read)
    if READ.name in options.askings:
        from interp.models.setting import Case

        cases = [Case(q, told[q.id]["answer"]) for q in questions if q.id in told and told[q.id]["answer"]]
        read_again(run, cell.key(READINGS.name), READINGS, setting, cases)
    for asking in options.askings.values():
        of_asking = setting
        if asking.format:
            of_asking = ready.setting(asking.format, choices=choices, examples=cell.examples)
        # a dry run has asked the first of them only
        answered = [Answered(q, told[q.id]["answer"] or "") for q in questions if q.id in told or not run.dry]
        if not asking.answers_itself:
            answered = [one for one in answered if one.answer]
        whole = len(questions) * len(answered) / max(1, len(told))
        _ask(run, cell.key(asking.name), asking, of_asking, answered, told, options, read, whole)


def _answers(
    run: Run,
    cell: Cell,
    setting: "Setting",
    questions: Sequence[Question],
    options: Evaluate,
    read: dict[str, Record],
) -> dict[str, Record]:
    """The record of each question's answer: the user's response, else the model's greedy one.

    read: takes what was read of the confidences in new answers while their prompts were at hand, by question."""
    from interp.answers import asked_for
    from interp.methods.default import answered_and_read

    def asked(chunk: Sequence[Question]) -> Iterator[Record]:
        began = time.perf_counter()
        found: dict[str, Record] = {}
        if READ.name in options.askings:
            records, found = answered_and_read(setting, chunk, free=options.replies.free)
        else:
            records = asked_for(setting, chunk, free=options.replies.free)
        read.update(found)
        spent = time.perf_counter() - began - sum(one["seconds"] for one in found.values())
        for question, record in zip(chunk, records, strict=True):
            prompt = setting.prompter.transcript(question, free=options.replies.free)
            yield {"seconds": spent / len(chunk), **record, "prompt_tokens": len(prompt.ids)}

    by_id = {q.id: q for q in questions}
    recorded(run, cell.key("answer"), by_id, ANSWERED_AT_ONCE, asked, setting, whole=len(questions))
    return _told(run, cell)


def timed(measured: Measured[T]) -> Measured[T]:
    """The same, each record with the seconds that it took: an equal part of its chunk's."""

    def with_seconds(chunk: Sequence[T]) -> list[Record]:
        began = time.perf_counter()
        found = list(measured(chunk))
        seconds = (time.perf_counter() - began) / len(chunk)
        return [{"seconds": seconds, **record} for record in found]

    return with_seconds


def _ask(
    run: Run,
    key: tuple[str, int],
    asking: Asking,
    setting: "Setting",
    answered: Sequence[Answered],
    told: dict[str, Record],
    options: Evaluate,
    read: dict[str, Record],
    whole: int | float,
) -> None:
    draws = Draws(options.samples, options.top_p, options.common.seed)

    def at_hand(one: Answered) -> bool:
        return asking.name == READ.name and read.get(one.question.id, {}).get("of_answer") == one.answer

    def asked(chunk: Sequence[Answered]) -> Iterator[Record]:
        missing = [one for one in chunk if not at_hand(one)]
        fresh = iter(asking.put(setting, missing, draws) if missing else ())
        for one in chunk:
            record = read[one.question.id] if at_hand(one) else next(fresh)
            record = {name: value for name, value in record.items() if name != "of_answer"}
            if (
                options.replies.free and asking.name == READ.name
            ):  # the level that was written counts, not the likeliest one
                record |= {"stated": told[one.question.id]["stated"], "level_tokens": 0}
            yield record

    by_id = {one.question.id: one for one in answered}
    recorded(run, key, by_id, asking.chunk, timed(asked), setting, whole=whole)
