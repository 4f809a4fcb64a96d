"""How well stated confidence is calibrated, by checkpoint, data, method and format."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from interp.calibration import Scored, differences_of, lowest_possible, measures_of, rule_named, values_of
from interp.datasets.questions import fingerprint, is_right, loaded_questions, normalised, refuse_mixed, shuffled
from interp.errors import UserError
from interp.formats import FORMATS, ConfidenceFormat, FormatName
from interp.instruments.floor import columns as floor_columns
from interp.intervals import estimated, estimated_columns
from interp.methods import ASKINGS, METHODS, TRUTH, Answered, Method, MethodName, Sampling, Verdict, tokens_written
from interp.models.embedded import EMBEDDED_NAME
from interp.options import CommonOptions, at_least, refuse_sets_of_nothing
from interp.records import Question
from interp.run.dryrun import DryRun, dry_run_of
from interp.run.processes import launched
from interp.run.recording import Measured, recorded
from interp.run.runs import Record, Run

if TYPE_CHECKING:
    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import Setting

T = TypeVar("T")
AT_ONCE = {"answer": 64, "read": 32, "hidden": 32, "judged": 32, "sampled": 64}
"""How many questions are put to the model at a time, and so how many are asked again after a run that died."""
NO_MODEL = "given"
"""What stands for a checkpoint and a format in the rows of answers and confidences that the user brought."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(CommonOptions):
    """Measure calibration."""

    ckpt: tuple[str, ...] = (EMBEDDED_NAME,)
    """One or several: the embedded model, directories, .gguf files, hub ids (name@revision), LoRA adapters."""
    data: tuple[str, ...] = ("facts",)
    """One or several of facts[:train|test|unseen], triviaqa, mmlu, logiqa, sciq, and JSONL files."""
    formats: tuple[FormatName, ...] = ("ScoreNumber",)
    """How the model states its confidence."""
    methods: tuple[MethodName, ...] = ("default",)
    """How a confidence is had. given: the answers and confidences in the data, without a model."""
    n: int = 200
    """How many questions of each data set."""
    free: bool = False
    """Let the model write its whole reply and parse it. Unparsed ones are counted, and stand in a worst case."""
    samples: int = 5
    """Samples for self-consistency."""
    top_p: float = 1.0
    """The nucleus that they are drawn from."""
    rule: str = "10-right"
    """How the calibration error is binned: levels, or bins and kind as in 10-right, 15-left, 10-mass."""
    trained_on: str | None = None
    """Data that a checkpoint was trained on: questions that share an answer with it are also reported apart."""
    shot_sets: int = 1
    """Repeat the measurement with so many sets of examples whose confidences differ, and show the spread."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "n", self.n)
        at_least(1, "samples", self.samples)
        refuse_sets_of_nothing(self.shot_sets, self.shots)
        rule_named(self.rule)
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p}: must lie in (0, 1]")
        for name in ("ckpt", "data", "formats", "methods"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"--{name}: names at least one, and none twice")

    @property
    def asks_a_model(self) -> bool:
        """Some method needs a checkpoint."""
        return set(self.methods) != {"given"}

    @property
    def columns(self) -> dict[str, Method]:
        """The table's methods that read a model's records, by their key in summary.json."""
        return {key: one for name in self.methods if name != "given" for key, one in METHODS[name].items()}

    @property
    def askings(self) -> tuple[str, ...]:
        """What has to be asked for them."""
        return tuple(dict.fromkeys(method.asking for method in self.columns.values()))


@dataclass(frozen=True)
class Cell:
    """One checkpoint on one data set in one format: where its records stand."""

    checkpoint: str
    """The checkpoint's short name."""
    data: str
    """The data set's short name."""
    format: FormatName
    """The format."""
    examples: int = 0
    """Which set of worked examples."""

    def key(self, asking: str) -> tuple[str, int]:
        """Measure and set of the records of one asking."""
        return f"{self.checkpoint}|{self.data}|{self.format}|{asking}", self.examples


def evaluated(options: Evaluate, dry: DryRun | None = None, to_come: Sequence[str] = ()) -> Path:
    """Asks what is not on record yet, and returns the run's directory.

    dry: where a dry run is part of another's. to_come: checkpoints that are still to be trained, whose askings a dry
    run takes to be like those of the first."""
    dry = dry or dry_run_of(options)
    data = {short: _questions(path, options) for short, path in short_names("data", options.data).items()}
    parts = {name: _parts(questions, options) for name, questions in data.items()}
    names = short_names("ckpt", options.ckpt)
    if options.asks_a_model:
        from interp.models.checkpoints import source_of

        there = {name: options.ckpt[0] if ckpt in to_come else ckpt for name, ckpt in names.items()}
        sources = {name: source_of(ckpt, remote_code=options.trust_remote_code) for name, ckpt in there.items()}
        shots = {name: source.shots if options.shots is None else options.shots for name, source in sources.items()}
        for count in shots.values():
            refuse_sets_of_nothing(options.shot_sets, count)
    else:
        names, shots = {}, {}
    identity = options.identity | {
        "shots": shots,
        "questions": {name: fingerprint(questions) for name, questions in data.items()},
    }
    with Run(options.out or Path("results/evaluate"), identity, launched(options.device), dry) as run:
        sets = range(options.shot_sets)
        cells = [Cell(name, at, form, k) for name in names for k in sets for at in data for form in options.formats]
        _gather(run, cells, data, options)
        missing = [cell for cell in cells if not _complete(run, cell, data[cell.data], options)]
        if missing := [cell for cell in missing if names[cell.checkpoint] not in to_come]:
            with run.dry.within("", 1 + len(to_come)) if run.dry else nullcontext():
                _ask_all(run, missing, names, shots, data, options)
        if run.dry is None:
            run.write_summary(summary_of(run, cells, parts, options))
    return run.folder


ByKey = dict[tuple[str, int], dict[str, Record]]
"""Records by measure and set, then by question."""
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
    questions = shuffled(loaded_questions(data), options.seed)[: options.n]
    refuse_mixed(questions, data)
    bare = next((q.id for q in questions if q.response is None or q.confidence is None), None)
    if "given" in options.methods and bare:
        raise UserError(f"--methods given: question {bare!r} of {data} lacks response or confidence")
    return questions


def _gather(run: Run, cells: Sequence[Cell], data: dict[str, list[Question]], options: Evaluate) -> None:
    """Merges what processes that died have left of any cell, the finished ones too."""
    for cell in cells:
        run.gather("checkpoint", 0, [cell.checkpoint])
        for asking in ("answer", "floor", *options.askings):
            run.gather(*cell.key(asking), [q.id for q in data[cell.data]])


def _complete(run: Run, cell: Cell, questions: Sequence[Question], options: Evaluate) -> bool:
    if not all((*cell.key("answer"), q.id) in run.done for q in questions):
        return False
    answered = {identity for identity, r in _told(run, cell).items() if r["answer"] is not None}
    return all(
        (*cell.key(asking), q.id) in run.done
        for asking in options.askings
        for q in questions
        if asking == "sampled" or q.id in answered
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
    loaded = each_checkpoint(list(wanted.values()), options.loading)
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
                options.prompting,
                shots=self._shots,
                shot_seed=number,
                choices=choices,
            ).frame
            for choices in {bool(questions[0].choices) for questions in data}
            for form in options.formats
            for number in range(options.shot_sets)
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
                prompting=self._options.prompting,
                seed=self._options.seed,
                batch_tokens=self._options.batch_tokens,
                check_long=self._options.check == "long",
            )
        return self._made[key]


def _ask_cell(run: Run, cell: Cell, ready: Prepared, questions: Sequence[Question], options: Evaluate) -> None:
    choices = bool(questions[0].choices)
    setting = ready.setting(FORMATS[cell.format], choices=choices, examples=cell.examples)
    read: dict[str, Record] = {}
    if run.dry:
        run.dry.know_lengths(setting.prompter, questions)
    told = _answers(run, cell, setting, questions, options, read)
    if "read" in options.askings:
        from interp.models.setting import Case
        from interp.pipelines.diagnose import read_again

        cases = [Case(q, told[q.id]["answer"]) for q in questions if q.id in told and told[q.id]["answer"]]
        read_again(run, cell.key("floor"), setting, cases)
    for asking in options.askings:
        of_asking = setting
        if asking == "judged":
            of_asking = ready.setting(TRUTH, choices=choices, examples=cell.examples)
        # a dry run has asked the first of them only
        answered = [Answered(q, told[q.id]["answer"] or "") for q in questions if q.id in told or not run.dry]
        if asking != "sampled":
            answered = [one for one in answered if one.answer]
        whole = len(questions) * len(answered) / max(1, len(told))
        _ask(run, cell.key(asking), asking, of_asking, answered, told, options, read, whole)


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
    from interp.methods import answered_and_read

    def asked(chunk: Sequence[Question]) -> Iterator[Record]:
        began = time.perf_counter()
        found: dict[str, Record] = {}
        if "read" in options.askings:
            records, found = answered_and_read(setting, chunk, free=options.free)
        else:
            records = asked_for(setting, chunk, free=options.free)
        read.update(found)
        spent = time.perf_counter() - began - sum(one["seconds"] for one in found.values())
        for question, record in zip(chunk, records, strict=True):
            prompt = setting.prompter.transcript(question, free=options.free)
            yield {"seconds": spent / len(chunk), **record, "prompt_tokens": len(prompt.ids)}

    by_id = {q.id: q for q in questions}
    recorded(run, cell.key("answer"), by_id, AT_ONCE["answer"], asked, setting, whole=len(questions))
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
    asking: str,
    setting: "Setting",
    answered: Sequence[Answered],
    told: dict[str, Record],
    options: Evaluate,
    read: dict[str, Record],
    whole: int | float,
) -> None:
    sampling = Sampling(options.samples, options.top_p, options.seed)

    def at_hand(one: Answered) -> bool:
        return asking == "read" and read.get(one.question.id, {}).get("of_answer") == one.answer

    def asked(chunk: Sequence[Answered]) -> Iterator[Record]:
        missing = [one for one in chunk if not at_hand(one)]
        fresh = iter(ASKINGS[asking](setting, missing, sampling) if missing else ())
        for one in chunk:
            record = read[one.question.id] if at_hand(one) else next(fresh)
            record = {name: value for name, value in record.items() if name != "of_answer"}
            if options.free and asking == "read":  # the level that was written counts, not the likeliest one
                record |= {"stated": told[one.question.id]["stated"], "level_tokens": 0}
            yield record

    by_id = {one.question.id: one for one in answered}
    recorded(run, key, by_id, AT_ONCE[asking], timed(asked), setting, whole=whole)


# What the records say


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
        for key, method in options.columns.items():
            verdicts = _verdicts(by_key, cell, method, data[cell.data])
            scored[cell.checkpoint, cell.data, key, cell.format] = verdicts
            for part, questions in parts[cell.data].items():
                numbers = _cell_numbers(by_key, cell, method, questions, verdicts, options)
                if options.shot_sets > 1:
                    numbers["shot_sets"] = _spread(by_key, cell, method, questions, options)
                _put(table, (cell.checkpoint, f"{cell.data}{part}", key, cell.format), numbers)
    if "given" in options.methods:
        for where, of_data in parts.items():
            for part, questions in of_data.items():
                verdicts = {q.id: Verdict(q.response or "", q.confidence or 0.0) for q in questions}
                numbers = _numbers(_scored(questions, verdicts), options, FORMATS["ScoreFloat"])
                _put(table, (NO_MODEL, f"{where}{part}", "given", NO_MODEL), numbers)
    models = by_key.get(("checkpoint", 0), {})
    return {
        "rule": options.rule,
        "models": {name: {k: models[name][k] for k in ("fingerprint", "note", "dtype")} for name in models},
        "calibration": table,
        "numerical_floor": _floors(by_key, cells),
        "unparsed": _unparsed(by_key, cells),
        "differences": _differences(scored, data, options),
    }


def _parts(questions: list[Question], options: Evaluate) -> dict[str, list[Question]]:
    """The questions by what is added to the data's name where their numbers stand; all of them first."""
    if options.trained_on is None:
        return {"": questions}
    known = {normalised(answer) for question in loaded_questions(options.trained_on) for answer in question.answers}
    known.discard("")  # a picture character alone
    shared = [q for q in questions if any(normalised(answer) in known for answer in q.answers)]
    ids = {q.id for q in shared}
    return {"": questions, SHARED: shared, APART: [q for q in questions if q.id not in ids]}


def _spread(
    by_key: ByKey, cell: Cell, method: Method, questions: Sequence[Question], options: Evaluate
) -> dict[str, list[float | None]]:
    """The value of each measure under each set of examples."""
    found: dict[str, list[float | None]] = {}
    for number in range(options.shot_sets):
        verdicts = _verdicts(by_key, replace(cell, examples=number), method, questions)
        for name, value in values_of(_scored(questions, verdicts), rule_named(options.rule)).items():
            found.setdefault(name, []).append(value)
    return found


def _verdicts(by_key: ByKey, cell: Cell, method: Method, questions: Sequence[Question]) -> dict[str, Verdict | None]:
    """What a method makes of each question, by its id; None where there is no answer or no confidence."""
    answers, records = by_key[cell.key("answer")], by_key.get(cell.key(method.asking), {})
    return {
        q.id: method.verdict(records[q.id], FORMATS[cell.format], answers[q.id]["answer"]) if q.id in records else None
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
    method: Method,
    questions: Sequence[Question],
    verdicts: dict[str, Verdict | None],
    options: Evaluate,
) -> Record:
    """One row of the table."""
    answers, records = by_key[cell.key("answer")], by_key.get(cell.key(method.asking), {})
    numbers = _numbers(_scored(questions, verdicts), options, FORMATS[cell.format])
    there = [q.id for q in questions if q.id in records]
    costs = {
        "tokens": [tokens_written(method, records[i], answers[i]["tokens"] or 0) for i in there],
        "prompt_tokens": [answers[i]["prompt_tokens"] + records[i].get("prompt_tokens", 0) for i in there],
        "seconds": [
            records[i]["seconds"] + (0 if method.asking == "sampled" else answers[i]["seconds"]) for i in there
        ],
        "outside": [records[i].get("outside") for i in there],
    }
    numbers |= {name: estimated(column).as_record() for name, column in costs.items()}
    if options.free:
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
        if records := by_key.get(cell.key("floor")):
            found = estimated_columns(floor_columns(list(records.values())))
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
