"""The diagnosis: instruments on questions that a model answers right. Records first, then every number in summary.json.

The module names no single instrument but through the registry, and it draws no figures."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from interp.datasets.questions import fingerprint, loaded_questions, refuse_mixed, shuffled
from interp.errors import UserError
from interp.instruments.base import Instrument, Kept, Reading
from interp.instruments.registry import INSTRUMENTS, repeated_by
from interp.options import MACHINE_ONLY, Prompt, changed, dry_run_of, identity_of, loading_of, refuse_sets_of_nothing
from interp.pipelines.diagnosis import Diagnose, idle_options
from interp.pipelines.elicit import Wanted, WrongAnswers, answered_cases, read_again, selected_cases
from interp.pipelines.summary import summary_of
from interp.records import Question
from interp.run.dryrun import DryRun
from interp.run.processes import launched
from interp.run.recording import made_once, recorded
from interp.run.runs import CAUSES, Record, Run, read_run

if TYPE_CHECKING:
    from interp.models.checkpoints import Checkpoint
    from interp.models.residual import Steering
    from interp.models.setting import Case, Setting


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
    dry, names, data = dry or dry_run_of(options), options.instruments.chosen(instruments), options.asked.data
    questions = _drawn(options) if questions is None else list(questions)
    refuse_mixed(questions, data)
    if questions[0].choices and options.wrong_answers.candidates > min(len(q.choices) for q in questions):
        options = _without_candidates(options, questions)
    from interp.models.checkpoints import loaded_checkpoint, source_of

    if checkpoint is None:  # errors in the checkpoint's name are raised before torch is loaded
        source_of(options.ckpt, remote_code=options.common.trust_remote_code)
    loading = loading_of(options.common, options.computing, options.engine)
    checkpoint = checkpoint or loaded_checkpoint(options.ckpt, loading)
    refuse_unfit(checkpoint, names)
    filler, steering = _filler(options, checkpoint), options.added.steering(checkpoint)
    shots = options.prompt.shots_of(checkpoint.shots)
    refuse_sets_of_nothing(options.prompt.shot_sets, shots)
    identity = _identity(options, names, checkpoint, questions, shots)
    folder = options.output.out or Path("results") / command
    with Run(folder, identity, launched(options.computing.device), dry) as run:
        settings = _settings(options, checkpoint, questions, shots, steering)
        settings = [replace(setting, filler=filler) for setting in settings]
        cases = _cases(run, settings[0], questions, names, options)
        # floors first: an instrument may need the repeated reading
        for repeated in repeated_by(names):
            read_again(run, (repeated.name, 0), repeated, settings[0], cases, repeated.label)
        for name in names:
            of_all = INSTRUMENTS[name].of_all_answers
            measured = answered_cases(run, questions) if of_all else cases
            for number, setting in enumerate(settings):
                _measure(run, name, number, setting, measured, options)
        if run.dry is None:
            run.write_summary(summary_of(run, names, _model(settings[0]), options))
    return folder


def _drawn(options: Diagnose) -> list[Question]:
    """All questions of the data, in the order that the seed decides."""
    return shuffled(loaded_questions(options.asked.data, options.common.fields), options.common.seed)


def _cases(
    run: Run, setting: "Setting", questions: Sequence[Question], instruments: Sequence[str], options: Diagnose
) -> "list[Case]":
    """The cases that the instruments measure; their answers are asked for, or taken over from an earlier run."""
    if options.cases:
        _take_over(run, options.cases, setting)
    asked, replies = options.asked, options.replies
    wanted = Wanted(
        options.ckpt, asked.data, asked.n, replies.free, replies.match, options.wrong_answers, options.common.seed
    )
    sample = any(INSTRUMENTS[name].needs_wrong_answers for name in instruments)
    cases = selected_cases(run, setting, questions, wanted, sample=sample, taken_over=options.cases is not None)
    if run.dry and options.cases:
        run.dry.forget("answers", "wrong answers")
    return cases


def _settings(
    options: Diagnose,
    checkpoint: "Checkpoint",
    questions: Sequence[Question],
    shots: int,
    steering: "Steering | None",
) -> "list[Setting]":
    """The checkpoint ready to be asked, once for each set of worked examples under each wording."""
    from interp.formats import FORMATS
    from interp.models.setting import prepared

    settings: list[Setting] = []
    for prompt_set in options.prompt.sets:
        settings.append(
            prepared(
                checkpoint,
                FORMATS[options.asked.format],
                shots=shots,
                shot_seed=prompt_set.examples,
                choices=bool(questions[0].choices),
                prompting=options.prompt.prompting(options.replies.reply_tokens, prompt_set.wording),
                pool=questions,
                seed=options.common.seed,
                batch_tokens=options.engine.batch_tokens,
                check_long=options.engine.check == "long",
                check=settings[0].check if settings else None,
                steering=steering,
            )
        )
    return settings


def _filler(options: Diagnose, checkpoint: "Checkpoint") -> int | None:
    """The token that the options name in the pad token's place; UserError where the vocabulary has none of that name.

    It is looked up before anything is measured."""
    from interp.models.setting import named_token

    name = options.replacing.filler
    return None if name is None else named_token(checkpoint, name)


def refuse_unfit(checkpoint: "Checkpoint", instruments: Sequence[str]) -> None:
    """Checks every instrument on this model, before one of them runs for hours.

    Raises:
        UserError: where an instrument cannot run on it.
    """
    for name in instruments:
        INSTRUMENTS[name].check(checkpoint.model)


def _without_candidates(options: Diagnose, questions: Sequence[Question]) -> Diagnose:
    """The options with as many candidates as the questions have choices; UserError where others were asked for.

    Eight are taken for the default, and said to be fewer."""
    most, given = min(len(q.choices) for q in questions), options.wrong_answers.candidates
    if given != WrongAnswers.candidates:
        raise UserError(f"--candidates {given}: a question of --data {options.asked.data} has {most} choices")
    print(
        f"--candidates {given}: a question of {options.asked.data} has {most} choices; so many are taken",
        file=sys.stderr,
    )
    return changed(options, candidates=most)


CHOSEN_BY = (
    "data",
    "questions",
    "n",
    "seed",
    "free",
    "match",
    "wrong",
    "candidates",
    "top_p",
    "tries",
    "vetting",
    "shots",
    "format",
)
"""What decides which questions and answers a run measures."""


def _chosen_by(identity: Record) -> Record:
    """The identity of a run with `wrong` as it is named now.

    Runs older than that option sampled their wrong answers, and version 0.1 called distractors foils. Runs older than
    `vetting` vetted them."""
    wrong = identity.get("wrong", "sampled")
    return {"match": "words", "vetting": "on"} | identity | {"wrong": "distractor" if wrong == "foil" else wrong}


def _take_over(run: Run, cases: Path, setting: "Setting") -> None:
    """Puts an earlier run's answers and samples on record.

    Raises:
        UserError: where the earlier run would have chosen other questions or answers.
    """
    config, _, records = read_run(cases, finished=run.dry is None)
    theirs = _chosen_by(config["identity"])
    if differing := [name for name in CHOSEN_BY if theirs.get(name) != run.identity[name]]:
        name = differing[0]
        cause = CAUSES.get(name, name)
        raise UserError(f"--cases {cases}: its {cause}: {theirs.get(name)!r}, here: {run.identity[name]!r}")
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
            options.prompt.prompting(options.replies.reply_tokens, prompt_set.wording),
            shots=shots,
            shot_seed=prompt_set.examples,
            choices=bool(questions[0].choices),
        )
        for prompt_set in options.prompt.sets
    ]
    taken_over = read_run(options.cases, finished=False)[0]["identity"] if options.cases else None
    return identity_of(options, (*MACHINE_ONLY, *idle_options(instruments))) | {
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
    """Puts an instrument's records on record. number: that of the set of worked examples and wording."""
    instrument = INSTRUMENTS[name]
    group_options = getattr(options.of_instruments, name)
    most, whole = instrument.most(group_options), run.foreseen(len(cases))
    whole = whole if most is None else min(whole, most)
    cases = cases[:most]
    kept = _kept(run, instrument, number, setting, cases, whole)
    label, prepare = _label(name, number, options.prompt), instrument.prepare
    if prepare and any((name, number, case.question.id) not in run.done for case in cases):
        made = made_once(run, f"{label}, prepared", lambda: prepare(setting, cases, group_options, kept))
        kept = replace(kept, prepared=made)
    recorded(
        run,
        (name, number),
        {case.question.id: case for case in cases},
        instrument.chunk,
        lambda chunk: instrument.measure(setting, chunk, group_options, kept),
        setting,
        label=label,
        whole=whole,
    )


def _label(name: str, number: int, prompt: Prompt) -> str:
    """What an instrument is called under one set of worked examples and wording, where there are several."""
    prompt_set = prompt.sets[number]
    if prompt.wordings > 1:
        name += f", wording {prompt_set.wording + 1} of {prompt.wordings}"
    return f"{name}, examples {prompt_set.examples + 1} of {prompt.shot_sets}" if prompt.shot_sets > 1 else name


def _kept(
    run: Run, instrument: Instrument, number: int, setting: "Setting", cases: Sequence["Case"], whole: int | float
) -> Kept:
    """What is on record before an instrument measures these cases; reads what it needs. whole: as in `recorded`."""
    repeated = list(run.records(instrument.repeated.name)) if instrument.repeated else []
    kept = Kept(folder=run.folder, number=number, repeated=repeated)
    by_id = {case.question.id: case for case in cases}
    for reading in instrument.needs:
        read = partial(_read, reading, setting, kept)
        recorded(run, (reading.name, number), by_id, reading.chunk, read, setting, label=reading.label, whole=whole)
        of_set = [record for record in run.records(reading.name) if record["set"] == number and record["id"] in by_id]
        kept = replace(kept, readings={**kept.readings, reading.name: of_set})
    return kept


def _read(reading: Reading, setting: "Setting", kept: Kept, cases: "Sequence[Case]") -> list[Record]:
    """The records of a reading; what is on record comes before the cases, so that `partial` can fix it."""
    return reading.measure(setting, cases, kept)


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
