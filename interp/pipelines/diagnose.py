"""The diagnosis: instruments on questions that a model answers right. Records first, then every number in summary.json.

The module names no single instrument but through the registry, and it draws no figures."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from interp.datasets.questions import fingerprint, loaded_questions, refuse_mixed, shuffled
from interp.errors import UserError
from interp.instruments.registry import INSTRUMENTS, floors_of, renamed, repeated_by, with_old_keys
from interp.measures import AnswerRecord, DivergenceRecord, SampleRecord
from interp.models.embedded import EMBEDDED_NAME
from interp.options import (
    Asked,
    Common,
    Computing,
    Engine,
    Output,
    Prompt,
    Replies,
    Sampling,
    changed,
    dry_run_of,
    identity_of,
    loading_of,
    name_of,
    refuse_sets_of_nothing,
    refuse_unknown,
)
from interp.pipelines.elicit import Wanted, WrongAnswers, read_again, selected_cases
from interp.records import Question
from interp.run.dryrun import DryRun
from interp.run.processes import launched
from interp.run.recording import recorded
from interp.run.runs import Record, Run, averaged, nested, read_run
from interp.run.typed import typed

if TYPE_CHECKING:
    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import Case, Setting


@cache
def _of_instruments() -> type:
    """The type of a group that holds the options of each instrument, by the instrument's name.

    Raises:
        UserError: for another package's instrument whose name or option cannot be one here.
    """
    own = (Diagnose, Asked, Prompt, Replies, WrongAnswers, Sampling, LeftOut, Output, Common, Computing, Engine)
    taken = {one.name for group in own for one in fields(group)}
    for name, instrument in INSTRUMENTS.items():
        if not name.isidentifier():
            raise UserError(
                f"the instrument {name!r}: its name must be an identifier, such as {name.replace('-', '_')!r}"
            )
        names = {one.name for one in fields(instrument.options)}
        if twice := sorted(names & taken):
            raise UserError(f"the instrument {name!r}: its option {twice[0]!r} is one of another instrument or command")
        taken |= names
    groups = [(name, one.options, field(default_factory=one.options)) for name, one in INSTRUMENTS.items()]
    return make_dataclass("OfInstruments", groups, frozen=True, namespace={"__doc__": "Of single instruments."})


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Which instruments run."""

    leave_out: Annotated[tuple[str, ...], name_of(INSTRUMENTS, several=True)] = ()
    """Instruments that are not run: rollout where layers hide their attention, attribution where time is short."""

    def __post_init__(self) -> None:
        for name in self.leave_out:
            refuse_unknown("leave-out", name, INSTRUMENTS)

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that are run.

        Raises:
            UserError: where no instrument is left.
        """
        kept = [name for name in names if name not in self.leave_out]
        if not kept:
            raise UserError(f"--leave-out {' '.join(self.leave_out)}: no instrument is left")
        return kept


def instrument_options() -> Any:
    """The options of every instrument at their defaults."""
    return _of_instruments()()


OfInstruments = Annotated[Any, tyro.conf.arg(constructor_factory=_of_instruments)]
"""A group of options for each instrument."""


@dataclass(frozen=True, kw_only=True)
class Diagnose:
    """Measure answer-independence."""

    ckpt: str = EMBEDDED_NAME
    """The embedded model, a directory, a .gguf file, a hub id (name@revision), or a directory with a LoRA adapter."""
    cases: Path | None = None
    """An earlier run, of another checkpoint, whose questions with their right and wrong answers are measured: the
    numbers of both are then paired."""
    asked: Asked = field(default_factory=Asked)
    prompt: Prompt = field(default_factory=Prompt)
    replies: Replies = field(default_factory=Replies)
    wrong_answers: WrongAnswers = field(default_factory=WrongAnswers)
    instruments: LeftOut = field(default_factory=LeftOut)
    of_instruments: OfInstruments = field(default_factory=instrument_options)
    output: Output = field(default_factory=Output)
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        refuse_sets_of_nothing(self.prompt.shot_sets, self.prompt.shots)


def diagnosed(
    options: Diagnose,
    instruments: Sequence[str],
    command: str,
    checkpoint: "Checkpoint | None" = None,
    dry: DryRun | None = None,
    *,
    questions: Sequence[Question] | None = None,
) -> Path:
    """Runs the instruments, or what an earlier run has left to measure.

    Args:
        options: those of the diagnosis.
        instruments: the names of those that run, unless they are left out.
        command: the name of the directory under results/ where the options give none.
        checkpoint: that of the options, where it is loaded already.
        dry: the dry run that it is a part of; None: the options say whether it is a dry run.
        questions: those of the options, where they are in memory already; they are taken in their own order.

    Returns:
        The run's directory.

    Raises:
        UserError: where options, data, checkpoint and instruments do not fit each other, or no question is answered
            right.
    """
    dry, names = dry or dry_run_of(options), options.instruments.chosen(instruments)
    seed, data = options.common.seed, options.asked.data
    questions = shuffled(loaded_questions(data), seed) if questions is None else list(questions)
    refuse_mixed(questions, data)
    if questions[0].choices and options.wrong_answers.candidates > min(len(q.choices) for q in questions):
        options = _without_candidates(options, questions)
    from interp.models.checkpoints import loaded_checkpoint, source_of

    if checkpoint is None:  # errors in the checkpoint's name are raised before torch is loaded
        source_of(options.ckpt, remote_code=options.common.trust_remote_code)
    loading = loading_of(options.common, options.computing, options.engine)
    checkpoint = checkpoint or loaded_checkpoint(options.ckpt, loading)
    refuse_unfit(checkpoint, names)
    shots = options.prompt.shots_of(checkpoint.shots)
    refuse_sets_of_nothing(options.prompt.shot_sets, shots)
    identity = _identity(options, names, checkpoint, questions, shots)
    folder = options.output.out or Path("results") / command
    with Run(folder, identity, launched(options.computing.device), dry) as run:
        settings = _settings(options, checkpoint, questions, shots)
        if options.cases:
            _take_over(run, options.cases, settings[0])
        wanted = Wanted(options.ckpt, data, options.asked.n, options.replies.free, options.wrong_answers, seed)
        sample = any(INSTRUMENTS[name].needs_wrong_answers for name in names)
        cases = selected_cases(run, settings[0], questions, wanted, sample=sample, taken_over=options.cases is not None)
        if run.dry and options.cases:
            run.dry.forget("answers", "wrong answers")
        # floors first: an instrument may need the repeated reading
        for repeated in repeated_by(names):
            read_again(run, (repeated.name, 0), repeated, settings[0], cases, repeated.label)
        for name in names:
            for number, setting in enumerate(settings):
                _measure(run, name, number, setting, cases, options)
        if run.dry is None:
            run.write_summary(summary_of(run, names, _model(settings[0]), options))
    return folder


def _settings(
    options: Diagnose, checkpoint: "Checkpoint", questions: Sequence[Question], shots: int
) -> "list[Setting]":
    """The checkpoint ready to be asked, once for each set of worked examples."""
    from interp.formats import FORMATS
    from interp.models.setting import prepared

    settings: list[Setting] = []
    for number in range(options.prompt.shot_sets):
        settings.append(
            prepared(
                checkpoint,
                FORMATS[options.asked.format],
                shots=shots,
                shot_seed=number,
                choices=bool(questions[0].choices),
                prompting=options.prompt.prompting(options.replies.reply_tokens),
                pool=questions,
                seed=options.common.seed,
                batch_tokens=options.engine.batch_tokens,
                check_long=options.engine.check == "long",
                check=settings[0].check if settings else None,
            )
        )
    return settings


def refuse_unfit(checkpoint: "Checkpoint", instruments: Sequence[str]) -> None:
    """Checks every instrument on this model, before one of them runs for hours.

    Raises:
        UserError: where an instrument cannot run on it.
    """
    for name in instruments:
        INSTRUMENTS[name].check(checkpoint.model)


def _without_candidates(options: Diagnose, questions: Sequence[Question]) -> Diagnose:
    """The options with as many candidates as the questions have choices; UserError where others were asked for."""
    most, given = min(len(q.choices) for q in questions), options.wrong_answers.candidates
    if given != WrongAnswers.candidates:
        raise UserError(f"--candidates {given}: a question of --data {options.asked.data} has {most} choices")
    return changed(options, candidates=most)


CHOSEN_BY = ("data", "questions", "n", "seed", "free", "wrong", "candidates", "top_p", "tries", "shots", "format")
"""What decides which questions and answers a run measures."""


def _chosen_by(identity: Record) -> Record:
    """The identity of a run with `wrong` as it is named now.

    Runs older than that option sampled their wrong answers, and version 0.1 called distractors foils."""
    wrong = identity.get("wrong", "sampled")
    return identity | {"wrong": "distractor" if wrong == "foil" else wrong}


def _take_over(run: Run, cases: Path, setting: "Setting") -> None:
    """Puts an earlier run's answers and samples on record.

    Raises:
        UserError: where the earlier run would have chosen other questions or answers.
    """
    config, _, records = read_run(cases, finished=run.dry is None)
    theirs = _chosen_by(config["identity"])
    if differing := [name for name in CHOSEN_BY if theirs.get(name) != run.identity[name]]:
        name = differing[0]
        raise UserError(f"--cases {cases}: its {name} is {theirs.get(name)!r}, here it is {run.identity[name]!r}")
    for measure in ("answer", "sample"):
        by_id = {record["id"]: record for record in records if record["measure"] == measure}
        # what is "measured" are the records themselves; whole=0: for a dry run it is no work
        recorded(run, (measure, 0), by_id, len(by_id), lambda chunk: chunk, setting, whole=0)


def _identity(
    options: Diagnose, instruments: Sequence[str], checkpoint: "Checkpoint", questions: Sequence[Question], shots: int
) -> Record:
    """What must be equal for a run to continue: options, model, questions and prompts."""
    from interp.formats import FORMATS
    from interp.models.setting import prompter_for

    prompters = [
        prompter_for(
            checkpoint,
            FORMATS[options.asked.format],
            options.prompt.prompting(options.replies.reply_tokens),
            shots=shots,
            shot_seed=number,
            choices=bool(questions[0].choices),
        )
        for number in range(options.prompt.shot_sets)
    ]
    taken_over = read_run(options.cases, finished=False)[0]["identity"] if options.cases else None
    return identity_of(options) | {
        "cases": fingerprint([json.dumps(taken_over, sort_keys=True)]) if options.cases else None,
        "shots": shots,
        "instruments": list(instruments),
        "model": checkpoint.fingerprint,
        "note": checkpoint.note,
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "questions": fingerprint(questions),
        "prompts": fingerprint(prompter.frame for prompter in prompters),
    }


def _measure(run: Run, name: str, number: int, setting: "Setting", cases: Sequence["Case"], options: Diagnose) -> None:
    """Puts an instrument's records on record. number: that of the set of worked examples."""
    instrument, sets = INSTRUMENTS[name], options.prompt.shot_sets
    group_options = getattr(options.of_instruments, name)
    most, whole = instrument.most(group_options), run.foreseen(len(cases))
    repeated = list(run.records(instrument.repeated.name)) if instrument.repeated else []
    recorded(
        run,
        (name, number),
        {case.question.id: case for case in cases[:most]},
        instrument.chunk,
        lambda chunk: instrument.measure(setting, chunk, group_options, repeated),
        setting,
        label=name if sets == 1 else f"{name}, examples {number + 1} of {sets}",
        whole=whole if most is None else min(whole, most),
    )


def _model(setting: "Setting") -> Record:
    """What the summary says about the model itself."""
    checkpoint = setting.checkpoint
    dtype = str(checkpoint.model.dtype).removeprefix("torch.")
    return {
        "name": checkpoint.name,
        "note": checkpoint.note,
        "dtype": dtype,
        "check": asdict(setting.check) if setting.check else None,
    }


def summary_of(run: Run, instruments: Sequence[str], model: Record, options: Diagnose) -> Record:
    """The content of summary.json.

    Args:
        run: its records are complete.
        instruments: the names of those that ran.
        model: what the summary says about the model.
        options: those of the diagnosis.

    Returns:
        Every number of the run with its interval, its count and what was left out.
    """
    # transcripts are by far the largest part of the answers' records, and not kept
    answers = [replace(typed(AnswerRecord, record), transcript=None) for record in run.records("answer")]
    flat: dict[str, object] = {
        **{f"model.{name}": value for name, value in model.items()},
        "data.name": options.asked.data,
        "data.asked": len(answers),
        "data.right": sum(answer.right for answer in answers),
        "data.unanswered": sum(answer.answer is None for answer in answers),
        "data.unparsed": sum(answer.parsed is False for answer in answers),
        **_wrong_answers(run, options),
        "format": options.asked.format,
    }
    floors = floors_of(list(run.all_records()))
    flat |= {key: estimate.as_record() for key, estimate in floors.items()}
    sets, spread = options.prompt.shot_sets, dict[str, Record]()
    for name in instruments:
        instrument, records = INSTRUMENTS[name], list[Record]()
        floored = True  # all records of an instrument have the same options, so the last one decides
        for record in run.records(name):
            # records are read one by one, and only this much of each is kept
            records.append({key: record[key] for key in ("set", "id", "values")})
            floored = instrument.has_floor(record)
        estimates = instrument.estimates(averaged(records), floors, floored=floored)
        flat |= {key: estimate.as_record() for key, estimate in estimates.items()}
        for number in range(sets) if sets > 1 else ():
            of_set = instrument.estimates([record for record in records if record["set"] == number], {})
            for key in estimates:
                value = of_set[key].value if key in of_set else None
                spread.setdefault(key, {"values": []})["values"].append(value)
    summary = nested(with_old_keys(flat)) | {"renamed": {old: new for old, new in renamed().items() if new in flat}}
    if spread:
        summary["shot_sets"] = with_old_keys(spread)
    return summary


def _wrong_answers(run: Run, options: Diagnose) -> Record:
    """Where wrong answers came from, how many questions have no wrong answer, and how many have no sampled one."""
    from interp.pipelines.candidates import sampled_wrong

    samples = [typed(SampleRecord, record) for record in run.records("sample")]
    wrong, chosen = options.wrong_answers.wrong, any("choice" in sample.sources for sample in samples)
    if wrong == "distractor" and not chosen:
        divergences = (typed(DivergenceRecord, record) for record in run.records("jsd"))
        without = sum(not record.answers.get("foil") for record in divergences if record.set == 0)
        return {"data.wrong_answers": wrong, "data.without_wrong_answer": without}
    return {
        "data.wrong_answers": "choice" if chosen else wrong,
        "data.without_wrong_answer": sum(not (sample.wrong or sample.branched) for sample in samples),
        "data.without_sampled_wrong_answer": sum(not sampled_wrong(vars(sample)) for sample in samples),
    }
