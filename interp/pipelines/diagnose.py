"""All instruments, or some, on questions that a model answers right: records and summary of a run."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from interp.answers import asked_for
from interp.datasets.questions import (
    fingerprint,
    loaded_questions,
    refuse_mixed,
    shuffled,
)
from interp.errors import UserError
from interp.instruments.floor import floors_of, of_score, with_floors
from interp.intervals import Columns, estimated_columns
from interp.options import Options, refuse_sets_of_nothing
from interp.records import Question, Transcript
from interp.run.dryrun import DryRun, dry_run_of
from interp.run.processes import launched
from interp.run.recording import progress, recorded
from interp.run.runs import Record, Run, chunks, nested, read_run

if TYPE_CHECKING:
    from tqdm import tqdm

    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import Case, Setting

InstrumentName = Literal["jsd", "rollout", "attribution", "masking"]
AT_ONCE: dict[str, int] = {"jsd": 8, "rollout": 4, "attribution": 1, "masking": 8}
"""How many questions each instrument takes at a time, and so how many are measured again after a run that died."""
ASKED_AT_ONCE, SAMPLED_AT_ONCE = 64, 32
FLOOR_PARTS = {"floor": "numerical floor", "rollout_floor": "numerical floor of rollout"}
"""What the readings that are repeated are called where progress is shown; an evaluation has one for each cell."""
WrongName = Literal["branched", "sampled", "foil"]
FEW_REACH = 0.2
"""Where a smaller share of the first `SAMPLED_AT_ONCE` questions reaches the candidates asked for, the run stops."""


@dataclass(frozen=True, kw_only=True)
class Diagnose(Options):
    """Measure answer-independence with four instruments."""

    free: bool = False
    """Let the model write its whole reply and parse it, instead of filling in slots. Unparsed ones are counted."""
    wrong: WrongName = "branched"
    """Where wrong answers come from. branched: sampled ones, the paper's way, and branched ones for every question (the
    likeliest first tokens, each continued greedily, then second tokens). sampled: the paper's way alone. foil: neither;
    the right answer to another question of the relation stands in. Each has its own numbers."""
    candidates: int = 8
    """Distinct answers to a question whose pairwise divergence is measured: sampled ones, then branched ones; 0: none.
    The paper took 30."""
    top_p: float = 0.9
    """The nucleus from which wrong answers are sampled."""
    tries: int = 48
    """Samples drawn for a question before it counts as one without a wrong answer."""
    n_attribution: int = 8
    """How many of the questions to attribute, which costs some fifty times more than the rest."""
    score: Literal["expected", "stated"] = "expected"
    """What is attributed: the expected confidence, or the log-probability of the stated level."""
    path: Literal["answer", "tokens", "prompt"] = "answer"
    """What moves along the path of integrated gradients: the answer; each span token by token; or, as in the paper, the
    whole prompt."""

    baseline: Literal["mean", "neutral"] = "mean"
    """What attribution replaces tokens by: the vocabulary's mean embedding, or a neutral token. Spans show both."""
    leave_out: tuple[InstrumentName, ...] = ()
    """Instruments that are not run: rollout where layers hide their attention, attribution where time is short."""
    cases: Path | None = None
    """An earlier run, of another checkpoint, whose questions with their right and wrong answers are measured: the
    numbers of both are then paired."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 0 or self.candidates == 1:
            raise UserError(f"--candidates {self.candidates}: pairs need at least 2, and 0 measures none")
        if self.wrong == "foil" and self.candidates not in (0, Diagnose.candidates):
            raise UserError(f"--candidates {self.candidates}: --wrong foil lets the model give no answers to pair")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p}: must lie in (0, 1]")
        if self.tries < 1 or self.tries < self.candidates:
            raise UserError(f"--tries {self.tries}: fewer than --candidates {self.candidates}, or than one")
        if self.n_attribution < 1:
            raise UserError(f"--n-attribution {self.n_attribution}: must be at least 1")

    def instruments_of(self, instruments: Sequence[InstrumentName]) -> list[InstrumentName]:
        """Those that are run. Errors: UserError where none is left."""
        run = [name for name in instruments if name not in self.leave_out]
        if not run:
            raise UserError(f"--leave-out {' '.join(self.leave_out)}: no instrument is left")
        return run


def diagnosed(
    options: Diagnose,
    instruments: Sequence[InstrumentName],
    command: str,
    checkpoint: "Checkpoint | None" = None,
    dry: DryRun | None = None,
    *,
    questions: Sequence[Question] | None = None,
) -> Path:
    """Runs the instruments, or what an earlier run has left of them, and returns the run's directory.

    checkpoint: that of the options where it is loaded already. dry: where a dry run is part of another's. questions:
    those of the options where they are in memory already; they are taken in their own order."""
    dry = dry or dry_run_of(options)
    questions = shuffled(loaded_questions(options.data), options.seed) if questions is None else list(questions)
    refuse_mixed(questions, options.data)
    choices = bool(questions[0].choices)
    if choices and options.candidates > min(len(q.choices) for q in questions):
        options = _without_candidates(options, questions)
    prompting = options.prompting
    folder = options.out or Path("results") / command
    instruments = options.instruments_of(instruments)
    from interp.models.checkpoints import loaded_checkpoint, source_of

    if checkpoint is None:  # what is wrong there is said before torch is loaded
        source_of(options.ckpt, remote_code=options.trust_remote_code)
    from interp.formats import FORMATS
    from interp.models.setting import prepared

    checkpoint = checkpoint or loaded_checkpoint(options.ckpt, options.loading)
    refuse_unfit(checkpoint, instruments)
    shots = checkpoint.shots if options.shots is None else options.shots
    refuse_sets_of_nothing(options.shot_sets, shots)
    identity = _identity(options, instruments, checkpoint, questions, shots)
    with Run(folder, identity, launched(options.device), dry) as run:
        settings = [
            prepared(
                checkpoint,
                FORMATS[options.format],
                shots=shots,
                shot_seed=number,
                choices=choices,
                prompting=prompting,
                pool=questions,
                seed=options.seed,
                batch_tokens=options.batch_tokens,
                check_long=options.check == "long",
            )
            for number in range(options.shot_sets)
        ]
        if options.cases:
            _take_over(run, options.cases, settings[0])
        cases = selected_cases(run, settings[0], questions, options, sample="jsd" in instruments)
        if run.dry and options.cases:
            run.dry.forget("answers", "wrong answers")
        if set(instruments) != {"rollout"}:
            read_again(run, ("floor", 0), settings[0], cases)
        if "rollout" in instruments:
            read_again(run, ("rollout_floor", 0), settings[0], cases)
        for name in instruments:
            for number, setting in enumerate(settings):
                _measure(run, name, number, setting, cases, options)
        if run.dry is None:
            run.write_summary(summary_of(run, instruments, _model(settings[0]), options))
    return folder


def refuse_unfit(checkpoint: "Checkpoint", instruments: Sequence[str]) -> None:
    """Errors: UserError where an instrument cannot run on this model, before another has run for hours."""
    from interp.instruments.attribution import refuse_without_gradients
    from interp.models.attention import refuse_hidden_attention

    if "rollout" in instruments:
        refuse_hidden_attention(checkpoint.model)
    if "attribution" in instruments:
        refuse_without_gradients(checkpoint.model)


def _without_candidates(options: Diagnose, questions: Sequence[Question]) -> Diagnose:
    most = min(len(q.choices) for q in questions)
    if options.candidates != Diagnose.candidates:
        raise UserError(f"--candidates {options.candidates}: a question of --data {options.data} has {most} choices")
    return Diagnose(**{**asdict(options), "candidates": most})


CHOSEN_BY = ("data", "questions", "n", "seed", "free", "wrong", "candidates", "top_p", "tries", "shots", "format")
"""What decides which questions and answers a run measures."""
BEFORE_BRANCHING = {"wrong": "sampled"}
"""What runs did that are older than the option."""


def _take_over(run: Run, cases: Path, setting: "Setting") -> None:
    """Puts an earlier run's answers and samples on record. Errors: UserError where they would not be this run's."""
    config, _, records = read_run(cases, finished=run.dry is None)
    theirs = BEFORE_BRANCHING | config["identity"]
    if unlike := [name for name in CHOSEN_BY if theirs.get(name) != run.identity[name]]:
        name = unlike[0]
        raise UserError(f"--cases {cases}: its {name} is {theirs.get(name)!r}, here it is {run.identity[name]!r}")
    for measure in ("answer", "sample"):
        theirs = {record["id"]: record for record in records if record["measure"] == measure}
        recorded(run, (measure, 0), theirs, len(theirs), lambda chunk: chunk, setting, whole=0)


def _identity(
    options: Diagnose, instruments: Sequence[str], checkpoint: "Checkpoint", questions: list[Question], shots: int
) -> Record:
    from interp.formats import FORMATS
    from interp.models.setting import prompter_for

    choices, confidence = bool(questions[0].choices), FORMATS[options.format]
    prompters = [
        prompter_for(checkpoint, confidence, options.prompting, shots=shots, shot_seed=number, choices=choices)
        for number in range(options.shot_sets)
    ]
    return options.identity | {
        "cases": str(options.cases) if options.cases else None,
        "shots": shots,
        "instruments": list(instruments),
        "model": checkpoint.fingerprint,
        "note": checkpoint.note,
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "questions": fingerprint(questions),
        "prompts": fingerprint(prompter.frame for prompter in prompters),
    }


def transcript_record(transcript: Transcript) -> Record:
    """A transcript in plain fields: the text, and each token's characters, id and span."""
    return {
        "text": transcript.text,
        "ids": list(transcript.ids),
        "tokens": list(transcript.pieces),
        "spans": list(transcript.spans),
    }


def selected_cases(
    run: Run, setting: "Setting", questions: Sequence[Question], options: Diagnose, *, sample: bool
) -> list["Case"]:
    """The first n questions that the model answers right; asks what is not on record. sample: with wrong answers."""
    right: list[tuple[Question, str]] = []
    there, taken_over = len(questions), run.dry and options.cases
    if taken_over:  # of which a dry run has some only: the others are not this checkpoint's to answer
        questions = [question for question in questions if ("answer", 0, question.id) in run.done]
    asked, enough = 0, run.dry.enough(run, options.n) if run.dry else options.n
    if run.dry:
        run.dry.know_lengths(setting.prompter, questions)
    with progress("answers", options.n, hidden=not run.processes.first) as bar:
        for chunk in chunks(questions, ASKED_AT_ONCE):
            told = asked_on_record(run, setting, chunk, free=options.free, bar=bar)
            fresh = [(q, told[q.id]["answer"]) for q in chunk if told[q.id]["right"]]
            bar.update(min(len(fresh), options.n - len(right)))
            right += fresh
            asked += len(chunk)
            known = len(right), asked, ASKED_AT_ONCE
            if run.dry and run.dry.foresees(*known, enough=enough, wanted=options.n, there=there):
                break
            if len(right) >= options.n:
                break
    right = right[:enough]
    if taken_over and any(measure == "sample" for measure, *_ in run.done):
        right = [one for one in right if ("sample", 0, one[0].id) in run.done]
    if not right:
        raise UserError(
            f"{options.ckpt} answers none of {len(questions)} questions of {options.data} right: nothing to measure"
        )
    if run.dry:
        run.dry.scale = run.dry.cases / len(right)
    if not sample:
        return [_case(question, answer, None, 0) for question, answer in right]
    found = _candidates(run, setting, [q for q, _ in right], options)
    return [_case(question, answer, found.get(question.id), options.candidates) for question, answer in right]


def _candidates(run: Run, setting: "Setting", questions: Sequence[Question], options: Diagnose) -> dict[str, Record]:
    """The record of each question's candidate answers; none where the model is to give none.

    Errors: UserError where hardly any of the first questions has as many as were asked for."""
    if options.wrong == "foil" and not setting.prompter.choices:
        return {}
    found = partial(
        sampled_on_record,
        run,
        setting,
        wrong=2,
        distinct=options.candidates,
        seed=options.seed,
        top_p=options.top_p,
        tries=options.tries,
        branching=options.wrong == "branched",
    )
    first = questions[:SAMPLED_AT_ONCE]
    if not options.candidates or setting.prompter.choices or run.dry:
        return found(questions)
    records = found(first)
    _refuse_few([records[question.id] for question in first], options, said=run.processes.first)
    return found(questions) if len(first) < len(questions) else records


def _refuse_few(records: Sequence[Record], options: Diagnose, *, said: bool) -> None:
    """Says how many questions have as many distinct answers as were asked for. Errors: UserError where hardly any."""
    counts = [len(record["distinct"]) for record in records]
    reach = sum(count >= options.candidates for count in counts)
    told = f"{reach} of the first {len(counts)} questions have {options.candidates} distinct answers or more"
    if said:
        print(f"{told}; pairs are made of whatever there is", file=sys.stderr)
    if options.candidates != Diagnose.candidates and reach < FEW_REACH * len(counts):
        more = ", or leave out --wrong sampled" if options.wrong == "sampled" else ""
        raise UserError(
            f"--candidates {options.candidates}: {told} (the most is {max(counts)}); "
            f"ask for fewer, or raise --tries or --top-p{more}"
        )


def _case(question: Question, answer: str, found: Record | None, candidates: int) -> "Case":
    """A question with what is put to it. found: the record of its candidate answers, of older runs without sources."""
    from interp.models.setting import Case
    from interp.pipelines.candidates import sampled_wrong

    if found is None:
        return Case(question, answer)
    distinct = tuple(found["distinct"])
    sources = tuple(found.get("sources", ("sampled",) * len(distinct)))
    branched = tuple(found.get("branched", ()))
    return Case(question, answer, sampled_wrong(found), branched, distinct[:candidates], sources[:candidates])


def read_again(run: Run, key: tuple[str, int], setting: "Setting", cases: Sequence["Case"]) -> None:
    """Puts the numerical floor on record: the first right answers, each read twice."""
    from interp.instruments import floor

    rollout = key[0] == "rollout_floor"
    most, measured = (floor.MOST_ROLLOUTS, floor.rollouts) if rollout else (floor.MOST, floor.measured)
    at_once = AT_ONCE["rollout" if rollout else "jsd"]
    by_id = {case.question.id: case for case in cases[:most]}
    whole = min(most, run.foreseen(len(cases)))
    recorded(
        run, key, by_id, at_once, partial(measured, setting), setting, label=FLOOR_PARTS.get(key[0], ""), whole=whole
    )


def asked_on_record(
    run: Run,
    setting: "Setting",
    questions: Sequence[Question],
    *,
    free: bool,
    bar: "tqdm | None" = None,
) -> dict[str, Record]:
    """The record of each question's answer, by its id; asks what is not there yet. Right ones hold their prompt."""

    def asked(chunk: Sequence[Question]) -> Iterator[Record]:
        for question, record in zip(chunk, asked_for(setting, chunk, free=free), strict=True):
            if record["right"]:
                record["transcript"] = transcript_record(setting.prompter.transcript(question, record["answer"]))
            yield record

    recorded(run, ("answer", 0), {q.id: q for q in questions}, ASKED_AT_ONCE, asked, setting, bar=bar, label="answers")
    wanted = {q.id for q in questions}
    return {record["id"]: record for record in run.records("answer") if record["id"] in wanted}


def sampled_on_record(
    run: Run,
    setting: "Setting",
    questions: Sequence[Question],
    *,
    wrong: int,
    distinct: int,
    seed: int,
    top_p: float,
    tries: int,
    branching: bool,
) -> dict[str, Record]:
    """The record of each question's candidate answers, by its id; draws what is not there yet.

    wrong and what follows: as `interp.pipelines.candidates.candidate_answers` takes them."""
    from interp.pipelines.candidates import candidate_answers

    wanted = {"wrong": wrong, "distinct": distinct, "tries": tries}

    def sampled(chunk: Sequence[Question]) -> Iterator[Record]:
        return map(asdict, candidate_answers(setting, chunk, **wanted, seed=seed, top_p=top_p, branching=branching))

    by_id = {q.id: q for q in questions}
    recorded(run, ("sample", 0), by_id, SAMPLED_AT_ONCE, sampled, setting, label="wrong answers")
    return {record["id"]: record for record in run.records("sample")}


def _measure(
    run: Run, name: InstrumentName, number: int, setting: "Setting", cases: Sequence["Case"], options: Diagnose
) -> None:
    instrument = importlib.import_module(f"interp.instruments.{name}")
    extra, whole = {}, run.foreseen(len(cases))
    if name == "attribution":
        cases, whole = cases[: options.n_attribution], min(whole, options.n_attribution)
        floor = of_score(list(run.records("floor")), options.score)
        extra = {"score": options.score, "path": options.path, "baseline": options.baseline, "floor": floor}
    label = name if options.shot_sets == 1 else f"{name}, examples {number + 1} of {options.shot_sets}"
    by_id = {case.question.id: case for case in cases}
    measured = partial(instrument.measured, setting, **extra)
    recorded(run, (name, number), by_id, AT_ONCE[name], measured, setting, label=label, whole=whole)


def _model(setting: "Setting") -> Record:
    """What a summary says of the model itself."""
    from interp.models.check import engine_checked

    checkpoint = setting.checkpoint
    dtype = str(checkpoint.model.dtype).removeprefix("torch.")
    return {"name": checkpoint.name, "note": checkpoint.note, "dtype": dtype, "check": asdict(engine_checked(setting))}


def summary_of(run: Run, instruments: Sequence[str], model: Record, options: Diagnose) -> Record:
    """Every number of the run with its interval, its count and what was left out. model: what is said of it."""
    answers: list[Record] = [
        {k: record.get(k) for k in ("answer", "right", "parsed")} for record in run.records("answer")
    ]
    flat: dict[str, object] = {
        **{f"model.{name}": said for name, said in model.items()},
        "data.name": options.data,
        "data.asked": len(answers),
        "data.right": sum(record["right"] for record in answers),
        "data.unanswered": sum(record["answer"] is None for record in answers),
        "data.unparsed": sum(record["parsed"] is False for record in answers),
        **_wrong_answers(run, options),
        "format": options.format,
    }
    floors = floors_of(list(run.all_records()))
    flat |= {key: estimate.as_record() for key, estimate in floors.items()}
    spread: dict[str, Record] = {}
    for name in instruments:
        records = [{k: record[k] for k in ("set", "id", "values")} for record in run.records(name)]
        found = estimated_columns(columns_of(name, averaged(records)))
        floored = with_floors(found, floors, score=options.score)
        flat |= {key: estimate.as_record() for key, estimate in floored.items()}
        if options.shot_sets > 1:
            for number in range(options.shot_sets):
                of_set = estimated_columns(columns_of(name, [r for r in records if r["set"] == number]))
                for key, estimate in of_set.items():
                    spread.setdefault(key, {"values": []})["values"].append(estimate.value)
    summary = nested(flat)
    if spread:
        summary["shot_sets"] = spread
    return summary


def _wrong_answers(run: Run, options: Diagnose) -> Record:
    """Where wrong answers came from, and how many questions have none, of any kind and sampled."""
    from interp.pipelines.candidates import sampled_wrong

    samples = list(run.records("sample"))
    chosen = any("choice" in record.get("sources", ()) for record in samples)
    if options.wrong == "foil" and not chosen:
        without = sum(not record["answers"].get("foil") for record in run.records("jsd") if record["set"] == 0)
        return {"data.wrong_answers": "foil", "data.without_wrong_answer": without}
    return {
        "data.wrong_answers": "choice" if chosen else options.wrong,
        "data.without_wrong_answer": sum(not (record["wrong"] or record.get("branched")) for record in samples),
        "data.without_sampled_wrong_answer": sum(not sampled_wrong(record) for record in samples),
    }


def columns_of(name: str, records: Sequence[Record]) -> Columns:
    """The columns behind an instrument's numbers, from records with one entry per question."""
    columns: Columns = importlib.import_module(f"interp.instruments.{name}").columns(records)
    return columns


def averaged(records: Sequence[Record]) -> list[Record]:
    """One record per question: its values averaged over the sets of shots that have one."""
    by_question: dict[str, list[Record]] = {}
    for record in records:
        by_question.setdefault(record["id"], []).append(record["values"])
    return [{"id": key, "values": dict(_means(of_question))} for key, of_question in by_question.items()]


def _means(of_question: Sequence[Record]) -> Iterator[tuple[str, float | None]]:
    for name in dict.fromkeys(name for one in of_question for name in one):
        there = [v[name] for v in of_question if v.get(name) is not None]
        yield name, float(np.mean(there)) if there else None
