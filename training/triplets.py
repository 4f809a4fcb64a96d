"""`python -m training.triplets`: questions that a model answers right, each with a wrong answer of the same model.

It also reads the files that it has written. It knows nothing of objectives."""

import json
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from interp.cli.command import printing, run_as_command
from interp.datasets.grading import is_right
from interp.datasets.questions import fingerprint, loaded_questions, refuse_mixed, shuffled
from interp.datasets.words import normalised
from interp.errors import UserError
from interp.formats import FORMATS
from interp.models.embedded import EMBEDDED_NAME
from interp.options import (
    Common,
    Computing,
    Engine,
    Output,
    Prompt,
    Sampling,
    at_least,
    dry_run_of,
    identity_of,
    loading_of,
)
from interp.plain import plain_json
from interp.records import Question
from interp.run.dryrun import DryRun
from interp.run.processes import launched
from interp.run.runs import Record, Run

if TYPE_CHECKING:
    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import Setting

DISTINCT, GREEDY_WRONG_TRIES = 12, 24
"""For a question with a wrong greedy answer: after how many distinct answers, and after how many samples, sampling for
a right one ends."""
Row = TypeVar("Row")
ASKED_IN = "ScoreNumber"
"""The format of the prompts in which the model is asked for its answers."""
FORMATS_TRAINED: tuple[str, ...] = ("ScoreLetter", "ScoreNumber")
"""Each triplet is written in both, as in the paper."""


@dataclass(frozen=True, kw_only=True)
class Triplets:
    """Build training triplets."""

    ckpt: str = EMBEDDED_NAME
    """The model that is to be trained: right and wrong answers are its own."""
    data: tuple[str, ...] = ("facts:train",)
    """One or several of facts:train, triviaqa:train, and JSONL files with `question` and `answers`."""
    apart_from: tuple[str, ...] = ("facts:test", "facts:unseen", "facts:final")
    """Data that will be tested on: a question that also stands there, in the same words, is not trained on."""
    sample: int = 4000
    """How many questions are asked, over all data."""
    n_wrong: Annotated[int, tyro.conf.arg(aliases=("--wrong",))] = 4
    """Distinct wrong answers looked for: every pass of a training takes the next, a control compares two."""
    wrong_from: Literal["sampled", "branched"] = "sampled"
    """sampled: the paper's way alone; branched: where samples give too few, answers found by branching follow them (the
    likeliest first tokens, each continued greedily, then second tokens)."""
    greedy_wrong: int = 0
    """So many questions of each data set that the model answers wrong are sampled for a right answer, which then stands
    beside the wrong greedy one. None in the paper, where the likeliest answer is always the right one."""
    sampling: Sampling = field(default_factory=Sampling)
    prompt: Prompt = field(default_factory=Prompt)
    output: Output = field(default_factory=lambda: Output(out=Path("triplets.jsonl")))
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        for name in ("sample", "n_wrong"):
            at_least(1, name, getattr(self, name))
        at_least(0, "greedy_wrong", self.greedy_wrong)
        if self.prompt.shot_sets > 1:
            raise UserError("--shot-sets: triplets are asked for with one set of worked examples")
        if self.prompt.wordings > 1:
            raise UserError(
                f"--wordings {self.prompt.wordings}: triplets are asked for with one wording of the instruction"
            )


@dataclass(frozen=True)
class Triplet:
    """A question with a right and a wrong answer of one model, to be trained in one format."""

    question: Question
    """The question."""
    right: str
    """The model's greedy answer, which is right."""
    wrong: str
    """An answer of the model, sampled or found by branching, which is wrong."""
    format: str
    """The format of the confidence."""
    others: tuple[str, ...] = ()
    """Further wrong answers of the model, all distinct."""
    model: str = ""
    """Name and fingerprint of the model that gave the answers."""
    greedy_wrong: bool = False
    """The wrong answer is the model's likeliest one, and the right one is from its samples."""
    distractors: tuple[str, ...] = ()
    """Right answers to other questions of the relation, which are wrong here."""


@dataclass(frozen=True)
class GradedAnswer:
    """A question with the greedy answer of one model, right or wrong, to be trained in one format."""

    question: Question
    """The question."""
    answer: str
    """The model's greedy answer."""
    right: bool
    """Whether that answer is right."""
    format: str
    """The format of the confidence."""
    model: str = ""
    """Name and fingerprint of the model that gave the answer."""


AnyInFormat = TypeVar("AnyInFormat", Triplet, GradedAnswer)


def alike(right: str, wrong: str) -> tuple[str, str]:
    """Both answers in one surface form, so that it does not tell which of them is right.

    A confidence that learned the surface form would have learned nothing about the answer.

    Args:
        right: The right answer.
        wrong: The wrong answer.

    Returns:
        (right, wrong) without final punctuation, the wrong one with its first letter in the case of the right one's.
    """
    plain_right, plain_wrong = (text.strip().rstrip(".,;:!").rstrip() or text for text in (right, wrong))
    if plain_right[0].isalpha() and plain_wrong[0].isalpha() and plain_right[0] in string.ascii_letters:
        plain_wrong = (plain_wrong[0].upper() if plain_right[0].isupper() else plain_wrong[0].lower()) + plain_wrong[1:]
    return plain_right, plain_wrong


def loaded_triplets(path: Path) -> list[Triplet]:
    """The triplets of a file.

    Raises:
        UserError: where the file cannot be read or is empty, or a line, which is named, is no triplet.
    """

    def triplet(row: Record, question: Question) -> Triplet:
        others = tuple(_nonempty(text) for text in _listed(row.get("others", [])))
        right, wrong, greedy = _nonempty(row["right"]), _nonempty(row["wrong"]), row.get("sources") == ["greedy"]
        return Triplet(question, right, wrong, row["format"], others, _model(row), greedy)

    return _loaded(path, "triplets", triplet)


def loaded_answers(path: Path) -> list[GradedAnswer]:
    """The graded answers of a file.

    Raises:
        UserError: where the file cannot be read or is empty, or a line, which is named, is no graded answer.
    """

    def graded(row: Record, question: Question) -> GradedAnswer:
        if not isinstance(row["right"], bool):
            raise ValueError("right is neither true nor false")
        return GradedAnswer(question, _nonempty(row["answer"]), row["right"], row["format"], _model(row))

    return _loaded(path, "answers", graded)


def in_formats(examples: Sequence[AnyInFormat], formats: Sequence[str], where: str) -> list[AnyInFormat]:
    """Examples in the formats that are trained; what a model answered does not depend on the format of its confidence.

    Args:
        examples: Triplets or graded answers.
        formats: Each example stands once in each of these; empty: the examples are taken as they are.
        where: The option and the file, for the refusal.

    Returns:
        The examples, format by format where formats are given.

    Raises:
        UserError: where no formats are given, and the examples lack one of `FORMATS_TRAINED`.
    """
    if formats:
        once = dict.fromkeys(replace(example, format=formats[0]) for example in examples)
        return [replace(example, format=form) for form in formats for example in once]
    if missing := [form for form in FORMATS_TRAINED if form not in {example.format for example in examples}]:
        raise UserError(f"{where}: none is in {', '.join(missing)}; training takes both formats")
    return list(examples)


def _listed(texts: object) -> list[object]:
    if not isinstance(texts, list):
        raise ValueError(f"{texts!r} is no list")
    return texts


def _model(row: Record) -> str:
    if not isinstance(name := row.get("model", ""), str):
        raise ValueError(f"the model's name is {name!r}")
    return name


def _nonempty(answer: object) -> str:
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError("an empty answer")
    return answer


def _loaded(path: Path, option: str, parsed: Callable[[Record, Question], Row]) -> list[Row]:
    rows = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    rows.append(_of_line(line, f"--{option} {path}, line {number}", option, parsed))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--{option} {path}: cannot be read ({error})") from None
    if not rows:
        raise UserError(f"--{option} {path}: no {option} in it")
    return rows


def _of_line(line: str, where: str, option: str, parsed: Callable[[Record, Question], Row]) -> Row:
    try:
        row = plain_json(line)
        if row["format"] not in FORMATS:
            raise ValueError(f"unknown format {row['format']!r}")
        answers = tuple(_nonempty(answer) for answer in _listed(row["answers"]))
        return parsed(row, Question(str(row["id"]), _nonempty(row["question"]), answers, relation=str(row["relation"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: not one of the {option} ({error})") from None


def built(options: Triplets, dry: DryRun | None = None) -> Path:
    """Builds triplets and graded answers; what an earlier run has recorded is not asked or sampled again.

    Args:
        options: The command's options.
        dry: The dry run to measure for; by default the options say whether it is one.

    Returns:
        The file of triplets; the graded answers are beside it, see `answers_beside`.

    Raises:
        UserError: where the data cannot be read or mixed, all of it is tested on, or a file cannot be written.
    """
    dry = dry or dry_run_of(options)
    questions, left_out = _questions(options)
    out = options.output.out or Path("triplets.jsonl")
    from interp.models.checkpoints import loaded_checkpoint, source_of

    source = source_of(options.ckpt, remote_code=options.common.trust_remote_code)
    from interp.models.setting import prepared
    from interp.pipelines.elicit import asked_on_record

    loading = replace(loading_of(options.common, options.computing, options.engine), training=True)
    checkpoint = loaded_checkpoint(options.ckpt, loading)
    shots = options.prompt.shots_of(checkpoint.shots)
    identity = _identity(options, checkpoint, questions, shots)
    with Run(
        out.with_name(f"{out.name}.run"), identity, launched(options.computing.device), dry, kind="triplets"
    ) as run:
        setting = prepared(
            checkpoint,
            FORMATS[ASKED_IN],
            shots=shots,
            prompting=options.prompt.prompting(),
            seed=options.common.seed,
            batch_tokens=options.engine.batch_tokens,
            check_long=options.engine.check == "long",
        )
        if dry:
            _foreseen(run, setting, questions, options, dry)
            return out
        answers = asked_on_record(run, setting, questions, free=False)  # greedy answers by the question's id
        right, missed = [q for q in questions if answers[q.id]["right"]], _missed(questions, answers, options)
        samples = _sampled(run, setting, right, missed, options)
        vetted = options.sampling.vetting == "on"
        from_right = list(_triplets(right, answers, samples, options.n_wrong, vetted=vetted))
        greedy_wrong = list(_greedy_wrong(missed, answers, samples, vetted=vetted))
        quantised = "" if options.engine.quantization == "none" else f" in {options.engine.quantization}"
        model = {"model": f"{source.base_name} {checkpoint.fingerprint}{quantised}"}
        if run.processes.first:
            _write(out, [row | model for row in (*from_right, *greedy_wrong)])
            _write(answers_beside(out), [row | model for row in _graded(questions, answers)])
        counts = {"left_out_as_tested": left_out, "asked": len(questions)}
        counts |= _counts(right, missed, samples, from_right, greedy_wrong)
        run.write_summary({"triplets": counts})
    if run.processes.first:
        print(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items()))
    return out


def _identity(options: Triplets, checkpoint: "Checkpoint", questions: Sequence[Question], shots: int) -> Record:
    """What must be equal for a run to continue: options, model, questions and prompts."""
    from interp.models.setting import prompter_for

    prompter = prompter_for(checkpoint, FORMATS[ASKED_IN], options.prompt.prompting(), shots=shots)
    return identity_of(options) | {
        "shots": shots,
        "model": checkpoint.fingerprint,
        "note": checkpoint.note,
        "questions": fingerprint(questions),
        "prompts": fingerprint([prompter.frame]),
    }


def _counts(
    right: Sequence[Question],
    missed: Sequence[Question],
    samples: dict[str, Record],
    from_right: Sequence[Record],
    greedy_wrong: Sequence[Record],
) -> dict[str, int]:
    """How many questions gave triplets and how many did not.

    Args:
        right: Questions that the model answers right.
        missed: Questions that it answers wrong and that were sampled for a right answer.
        samples: The record of the sampled answers to each of both, by the question's id.
        from_right: The rows of triplets from the first, a row in each of `FORMATS_TRAINED`.
        greedy_wrong: The rows of triplets from the second, likewise.
    """
    kept = len(from_right) // len(FORMATS_TRAINED)
    branched = sum(row["sources"][0] == "branched" for row in from_right)
    return {
        "right": len(right),
        "kept": kept,
        "without_wrong_answer": len(right) - kept,
        "first_wrong_answer_branched": branched // len(FORMATS_TRAINED),
        "vetoed": sum(samples[q.id]["vetoed"] for q in right),
        "sampled_for_a_right_answer": len(missed),
        "greedy_wrong": len(greedy_wrong) // len(FORMATS_TRAINED),
    }


def _sampled(
    run: Run, setting: "Setting", right: Sequence[Question], missed: Sequence[Question], options: Triplets
) -> dict[str, Record]:
    """The record of the sampled answers to each of these questions, by its id."""
    from interp.pipelines.candidates import Search
    from interp.pipelines.elicit import sampled_on_record

    search = Search(
        wrong=options.n_wrong,
        distinct=0,
        seed=options.common.seed,
        top_p=options.sampling.top_p,
        tries=options.sampling.tries,
        branching=options.wrong_from == "branched",
        vetting=options.sampling.vetting == "on",
    )
    sampled_on_record(run, setting, right, search)
    for_right = replace(search, wrong=0, distinct=DISTINCT, tries=GREEDY_WRONG_TRIES, branching=False)
    return sampled_on_record(run, setting, missed, for_right)


def _foreseen(run: Run, setting: "Setting", questions: Sequence[Question], options: Triplets, dry: DryRun) -> None:
    """Measures for a dry run: answers to the first questions, and wrong answers to those that are answered right.

    A question that is sampled for a right answer is assumed to be as much work as one sampled for wrong ones."""
    from interp.pipelines.elicit import ASKED_AT_ONCE, asked_on_record

    dry.know_lengths(setting.prompter, questions)
    on_record = sum(measure == "answer" for measure, *_ in run.done)
    first = questions[: on_record + 2 * ASKED_AT_ONCE]
    answers = asked_on_record(run, setting, first, free=False)
    right = [q for q in first if answers[q.id]["right"]]
    dry.named("answers").whole = len(questions)
    share = len(right) / len(first)
    sampled_for_right = min(options.greedy_wrong * len(options.data), (1 - share) * len(questions))
    if right:
        _sampled(run, setting, right[: dry.enough(run, len(right))], [], options)
        dry.named("wrong answers").whole = share * len(questions) + sampled_for_right


def _questions(options: Triplets) -> tuple[list[Question], int]:
    """The questions to ask.

    Returns:
        Up to `sample` questions of all data sets, in an order that the seed decides; and how many questions were left
        out because they are tested on.

    Raises:
        UserError: where a data set has choices, no question is left, or two questions have the same id.
    """
    tested = {normalised(q.text) for data in options.apart_from for q in loaded_questions(data)}
    common = options.common
    parts = [shuffled(loaded_questions(data, common.fields), common.seed) for data in options.data]
    for data, part in zip(options.data, parts, strict=True):
        refuse_mixed(part, data)
        if part[0].choices:
            raise UserError(f"--data {data}: triplets are made of open questions; these have choices")
    pooled = [q for part in parts for q in part]
    untested = [q for q in pooled if normalised(q.text) not in tested]
    questions = shuffled(untested, options.common.seed)[: options.sample]
    if not questions:
        raise UserError(f"--apart-from {' '.join(options.apart_from)}: all questions of --data stand there as well")
    if len({q.id for q in questions}) < len(questions):
        raise UserError("--data: two of them have questions of one id")
    return questions, len(pooled) - len(untested)


def answers_beside(triplets: Path) -> Path:
    """The file of the graded answers: triplets.answers.jsonl beside triplets.jsonl."""
    return triplets.with_name(f"{triplets.stem}.answers.jsonl")


def _triplets(
    questions: Sequence[Question],
    answers: dict[str, Record],
    samples: dict[str, Record],
    most: int,
    *,
    vetted: bool = True,
) -> Iterator[Record]:
    """A row in each format for every question with a wrong answer.

    Its wrong answers are all sampled ones, and branched ones where these are fewer than `most`. vetted: right and wrong
    are written in one surface form; else each stays as the model wrote it."""
    for question in questions:
        right, record, wrong = answers[question.id]["answer"], samples[question.id], dict[str, str]()
        sources = dict(zip(record["distinct"], record["sources"], strict=True))
        for text in record["wrong"]:
            bare, plain_wrong = alike(right, text) if vetted else (right, text)
            if sources[text] != "branched" or len(wrong) < most:
                wrong.setdefault(plain_wrong, sources[text])
        if wrong:
            first, *others = wrong
            row = {"right": bare, "wrong": first, "others": others, "sources": list(wrong.values())}
            yield from _in_both_formats(question, row)


def _missed(questions: Sequence[Question], answers: dict[str, Record], options: Triplets) -> list[Question]:
    """Questions with a wrong greedy answer, as many as wanted of each data set."""
    wrong = [q for q in questions if answers[q.id]["answer"] and not answers[q.id]["right"]]
    sources = [{q.id for q in loaded_questions(data, options.common.fields)} for data in options.data]
    return [q for ids in sources for q in [q for q in wrong if q.id in ids][: options.greedy_wrong]]


def _greedy_wrong(
    questions: Sequence[Question], answers: dict[str, Record], samples: dict[str, Record], *, vetted: bool = True
) -> Iterator[Record]:
    from interp.pipelines.candidates import wrong_for_sure

    for question in questions:
        greedy = answers[question.id]["answer"]
        right = next((text for text in samples[question.id]["distinct"] if is_right(question, text)), None)
        if right is not None and (not vetted or wrong_for_sure(question, greedy)):
            bare, wrong = alike(right, greedy) if vetted else (right, greedy)
            row = {"right": bare, "wrong": wrong, "others": [], "sources": ["greedy"]}
            yield from _in_both_formats(question, row)


def _graded(questions: Sequence[Question], answers: dict[str, Record]) -> Iterator[Record]:
    for question in questions:
        if answers[question.id]["answer"]:
            fields = {"answer": answers[question.id]["answer"], "right": answers[question.id]["right"]}
            yield from _in_both_formats(question, fields)


def _in_both_formats(question: Question, fields: Record) -> Iterator[Record]:
    shared = {"id": question.id, "question": question.text, "answers": list(question.answers)}
    for form in FORMATS_TRAINED:
        yield shared | {"relation": question.relation, **fields, "format": form}


def _write(path: Path, rows: Sequence[Record]) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}; what was measured is kept in {path.name}.run") from None


if __name__ == "__main__":
    run_as_command(Triplets, printing(built), description="Build training triplets.")
