"""What a run puts to the model: the model's own right answers, and wrong answers beside them.

Each question is asked once, and its record is kept. The module does not know what is measured with the answers."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from interp.answers import asked_for
from interp.datasets.grading import MatchName
from interp.errors import UserError
from interp.instruments.base import Repeated
from interp.measures import AnswerRecord, SampleRecord
from interp.options import Sampling
from interp.records import Question, Source, Transcript
from interp.run.recording import progress, recorded
from interp.run.runs import Record, Run, chunks
from interp.run.typed import typed

if TYPE_CHECKING:
    from tqdm import tqdm

    from interp.models.setting import Case, Setting
    from interp.pipelines.candidates import Search

ASKED_AT_ONCE, SAMPLED_AT_ONCE = 64, 32
"""How many questions are answered at a time, and for how many candidate answers are drawn at a time."""
WrongName = Literal["branched", "sampled", "distractor"]
FEW_REACH = 0.2
"""The run stops where a smaller share of the first `SAMPLED_AT_ONCE` questions has as many candidates as asked for."""


@dataclass(frozen=True, kw_only=True)
class WrongAnswers:
    """Where wrong answers come from."""

    wrong: WrongName = "branched"
    """Where wrong answers come from. branched: sampled ones, the paper's way, and branched ones for every question (the
    likeliest first tokens, each continued greedily, then second tokens). sampled: the paper's way alone. distractor:
    neither; the right answer to another question of the relation stands in. Each has its own numbers."""
    candidates: int = 8
    """Distinct answers to a question whose pairwise divergence is measured: sampled ones, then branched ones; 0: none.
    The paper took 30."""
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if self.candidates < 0 or self.candidates == 1:
            raise UserError(f"--candidates {self.candidates}: pairs need at least 2, and 0 measures none")
        if self.wrong == "distractor" and self.candidates not in (0, WrongAnswers.candidates):
            raise UserError(f"--candidates {self.candidates}: --wrong distractor asks the model for no answers to pair")
        if self.sampling.tries < self.candidates:
            raise UserError(f"--tries {self.sampling.tries}: fewer than --candidates {self.candidates}")

    def search(self, *, wrong: int, seed: int, match: MatchName = "words") -> "Search":
        """The search for candidate answers.

        wrong: how many usable wrong answers it looks for, sampled and again branched; seed: that of the samples; match:
        when an answer is right."""
        from interp.pipelines.candidates import Search

        return Search(
            wrong=wrong,
            distinct=self.candidates,
            seed=seed,
            top_p=self.sampling.top_p,
            tries=self.sampling.tries,
            branching=self.wrong == "branched",
            vetting=self.sampling.vetting == "on",
            match=match,
        )


@dataclass(frozen=True)
class Wanted:
    """Which questions and answers a run looks for."""

    ckpt: str
    """What the checkpoint is called in errors."""
    data: str
    """What the questions are called in errors."""
    n: int
    """How many right answers are measured, at most."""
    free: bool
    """The model writes its whole reply."""
    match: MatchName
    """When an answer is right."""
    wrong: WrongAnswers
    """Where wrong answers come from."""
    seed: int
    """The seed of the samples."""


def transcript_record(transcript: Transcript) -> Record:
    """A transcript in plain fields: the text, and each token's characters, id and span."""
    return {
        "text": transcript.text,
        "ids": list(transcript.ids),
        "tokens": list(transcript.pieces),
        "spans": list(transcript.spans),
    }


def selected_cases(
    run: Run, setting: "Setting", questions: Sequence[Question], wanted: Wanted, *, sample: bool, taken_over: bool
) -> list["Case"]:
    """The first n questions that the model answers right; asks what is not on record.

    Args:
        run: where answers are put on record.
        setting: the model in its format.
        questions: in the order in which they are asked.
        wanted: which questions and answers are looked for.
        sample: wrong answers are looked for as well.
        taken_over: the answers are another run's, and on record.

    Returns:
        The cases, in the order of their questions.

    Raises:
        UserError: where no question is answered right, or hardly any has as many candidates as were asked for.
    """
    right: list[tuple[Question, str]] = []
    total, taken_over = len(questions), taken_over and run.dry is not None
    if taken_over:  # a dry run holds only some of the other run's answers, and this checkpoint does not answer the rest
        questions = [question for question in questions if ("answer", 0, question.id) in run.done]
    asked, enough = 0, run.dry.enough(run, wanted.n) if run.dry else wanted.n
    if run.dry:
        run.dry.know_lengths(setting.prompter, questions)
    with progress("answers", wanted.n, hidden=not run.processes.first) as bar:
        for chunk in chunks(questions, ASKED_AT_ONCE):
            records = asked_on_record(run, setting, chunk, free=wanted.free, match=wanted.match, bar=bar)
            answers = [typed(AnswerRecord, records[question.id]) for question in chunk]
            fresh = [
                (question, record.answer)
                for question, record in zip(chunk, answers, strict=True)
                if record.right and record.answer is not None
            ]
            bar.update(min(len(fresh), wanted.n - len(right)))
            right += fresh
            asked += len(chunk)
            known = len(right), asked, ASKED_AT_ONCE
            if run.dry and run.dry.foresees(*known, enough=enough, wanted=wanted.n, available=total):
                break  # a dry run stops once it can estimate how many questions the whole run asks
            if len(right) >= wanted.n:
                break
    right = right[:enough]
    if taken_over and any(measure == "sample" for measure, *_ in run.done):
        right = [(question, answer) for question, answer in right if ("sample", 0, question.id) in run.done]
    if not right:
        raise UserError(
            f"{wanted.ckpt} answers none of {len(questions)} questions of {wanted.data} right: nothing to measure"
        )
    if run.dry:
        run.dry.scale = run.dry.cases / len(right)
    if not sample:
        return [_case(question, answer, None, 0) for question, answer in right]
    candidates = _candidates(run, setting, [q for q, _ in right], wanted)
    most = wanted.wrong.candidates
    return [_case(question, answer, candidates.get(question.id), most) for question, answer in right]


def answered_cases(run: Run, questions: Sequence[Question]) -> list["Case"]:
    """Every question on record that has an answer, right or wrong, in the order of the questions."""
    from interp.models.setting import Case

    by_id = {question.id: question for question in questions}
    answers = {record["id"]: typed(AnswerRecord, record) for record in run.records("answer")}
    return [
        Case(by_id[identity], answers[identity].answer or "", right=answers[identity].right)
        for identity in by_id
        if identity in answers and answers[identity].answer
    ]


def _candidates(run: Run, setting: "Setting", questions: Sequence[Question], wanted: Wanted) -> dict[str, SampleRecord]:
    """The record of each question's candidate answers, by its id; empty where the model is to give none.

    Raises:
        UserError: where hardly any of the first questions has as many as were asked for.
    """
    if wanted.wrong.wrong == "distractor" and not setting.prompter.choices:
        return {}
    search = wanted.wrong.search(wrong=2, seed=wanted.seed, match=wanted.match)
    first = questions[:SAMPLED_AT_ONCE]
    if not wanted.wrong.candidates or setting.prompter.choices or run.dry:
        return _samples(run, setting, questions, search)
    samples = _samples(run, setting, first, search)
    _refuse_few([samples[question.id] for question in first], wanted.wrong, aloud=run.processes.first)
    return _samples(run, setting, questions, search) if len(first) < len(questions) else samples


def _samples(run: Run, setting: "Setting", questions: Sequence[Question], search: "Search") -> dict[str, SampleRecord]:
    """`sampled_on_record` with attributes."""
    records = sampled_on_record(run, setting, questions, search)
    return {identity: typed(SampleRecord, record) for identity, record in records.items()}


def _refuse_few(samples: Sequence[SampleRecord], wrong: WrongAnswers, *, aloud: bool) -> None:
    """Prints how many questions have as many distinct answers as were asked for.

    Raises:
        UserError: where hardly any has, and their number was asked for explicitly.
    """
    counts = [len(sample.distinct) for sample in samples]
    reach = sum(count >= wrong.candidates for count in counts)
    sentence = f"{reach} of the first {len(counts)} questions have {wrong.candidates} distinct answers or more"
    if aloud:
        print(f"{sentence}; pairs are made of whatever there is", file=sys.stderr)
    if wrong.candidates != WrongAnswers.candidates and reach < FEW_REACH * len(counts):
        more = ", or leave out --wrong sampled" if wrong.wrong == "sampled" else ""
        raise UserError(
            f"--candidates {wrong.candidates}: {sentence} (the most is {max(counts)}); "
            f"ask for fewer, or raise --tries or --top-p{more}"
        )


def _case(question: Question, answer: str, candidates: SampleRecord | None, most: int) -> "Case":
    """A question with the answers that are put to it.

    candidates: the record of its candidate answers, of which at most `most` are paired. Records of older runs hold no
    sources: all answers were sampled."""
    from interp.models.setting import Case
    from interp.pipelines.candidates import sampled_wrong

    if candidates is None:
        return Case(question, answer)
    sampled: tuple[Source, ...] = ("sampled",)
    distinct, wrong = candidates.distinct, sampled_wrong(vars(candidates))
    sources = candidates.sources or sampled * len(distinct)
    return Case(question, answer, wrong, candidates.branched, distinct[:most], sources[:most])


def read_again(
    run: Run, key: tuple[str, int], repeated: Repeated, setting: "Setting", cases: Sequence["Case"], label: str = ""
) -> None:
    """Puts the readings for numerical floors on record: the first right answers, each read twice.

    Args:
        run: where they are put on record.
        key: measure and set of the records.
        repeated: the reading that is taken twice.
        setting: the model in its format.
        cases: the questions with their right answers.
        label: what the reading is called where progress is shown; "": by its measure.
    """
    recorded(
        run,
        key,
        {case.question.id: case for case in cases[: repeated.most]},
        repeated.chunk,
        partial(repeated.measure, setting),
        setting,
        label=label,
        whole=min(repeated.most, run.foreseen(len(cases))),
    )


def asked_on_record(
    run: Run,
    setting: "Setting",
    questions: Sequence[Question],
    *,
    free: bool,
    match: MatchName = "words",
    bar: "tqdm | None" = None,
) -> dict[str, Record]:
    """The record of each question's answer, by its id; asks what is not on record yet.

    Records of right answers hold the transcript as well. free: the model writes its whole reply. match: when an
    answer is right. bar: a progress bar that the caller moves."""

    def asked(chunk: Sequence[Question]) -> Iterator[Record]:
        for question, record in zip(chunk, asked_for(setting, chunk, free=free, match=match), strict=True):
            if record["right"]:
                record["transcript"] = transcript_record(setting.prompter.transcript(question, record["answer"]))
            yield record

    recorded(run, ("answer", 0), {q.id: q for q in questions}, ASKED_AT_ONCE, asked, setting, bar=bar, label="answers")
    wanted = {q.id for q in questions}
    return {record["id"]: record for record in run.records("answer") if record["id"] in wanted}


def sampled_on_record(
    run: Run, setting: "Setting", questions: Sequence[Question], search: "Search"
) -> dict[str, Record]:
    """The record of each question's candidate answers, by its id; searches for what is not on record yet."""
    from interp.pipelines.candidates import candidate_answers

    def sampled(chunk: Sequence[Question]) -> Iterator[Record]:
        return map(asdict, candidate_answers(setting, chunk, search))

    by_id = {q.id: q for q in questions}
    recorded(run, ("sample", 0), by_id, SAMPLED_AT_ONCE, sampled, setting, label="wrong answers")
    return {record["id"]: record for record in run.records("sample")}
