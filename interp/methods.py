"""How a confidence is had from a model: what is asked of it, and which numbers that gives.

An asking puts questions to a model and leaves one record each; a method reads confidences off those records. Several
methods share an asking: the stated confidence and the answer's own probability come out of one pass."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from interp.datasets.questions import choice_index, normalised
from interp.formats import ConfidenceFormat
from interp.records import ConfidenceDistribution, Question, Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.elicitation import Continuation
    from interp.models.prefix import PromptsRead
    from interp.models.setting import Setting

MethodName = Literal["default", "self-consistency", "p-true", "sequence", "question-only", "given"]

TRUTH = ConfidenceFormat(
    "PTrue", ("False", "True"), (0.0, 1.0), "one word: True if the answer is right, False if it is wrong"
)
"""P(True) of Kadavath et al. 2022 as a format of two levels: its expected value is the probability of "True"."""


@dataclass(frozen=True)
class Answered:
    """A question with the answer that is judged."""

    question: Question
    """The question."""
    answer: str
    """The model's greedy answer, or the user's response."""


@dataclass(frozen=True)
class Sampling:
    """How self-consistency samples."""

    samples: int = 5
    """Answers to a question; 5 in the paper."""
    top_p: float = 1.0
    """The nucleus; 1: the model as it is."""
    seed: int = 0
    """The source of chance."""


def read(setting: "Setting", answered: Sequence[Answered], sampling: Sampling) -> list[Record]:
    """The confidence after each answer, and the answer's own likelihood."""
    return _spoken(setting, [(one.question, one.answer) for one in answered])


def answered_and_read(
    setting: "Setting", questions: Sequence[Question], *, free: bool
) -> tuple[list[Record], dict[str, Record]]:
    """Each question's record of its answer, as `interp.answers.asked_for` makes it; and by its id what `read` gives
    for an answer of the model's own, with that answer and the seconds that it took. Prompts are read once for both."""
    from interp.answers import answer_of, asked_for
    from interp.models.elicitation import free_reply, slot_reply

    asked = [question for question in questions if question.response is None]
    found: dict[str, Record] = {}

    def heard(
        numbers: Sequence[int], written: "Sequence[Continuation]", prompts: "PromptsRead", owners: Sequence[int]
    ) -> None:
        began = time.perf_counter()
        put: list[tuple[Question, str, int]] = []
        for number, said, prompt in zip(numbers, written, owners, strict=True):
            reply = free_reply(said, setting.prompter) if free else slot_reply(said)
            if answer := answer_of(setting, asked[number], reply.answer):
                put.append((asked[number], answer, prompt))
        records = _spoken(setting, [(question, answer) for question, answer, _ in put], prompts, [p for *_, p in put])
        seconds = (time.perf_counter() - began) / max(len(put), 1)
        for (question, answer, _), record in zip(put, records, strict=True):
            found[question.id] = {"seconds": seconds, "of_answer": answer, **record}

    return asked_for(setting, questions, heard, free=free), found


def hidden(setting: "Setting", answered: Sequence[Answered], sampling: Sampling) -> list[Record]:
    """The confidence with the answer's tokens replaced by a neutral one: what the question alone gives."""
    from interp.instruments.masking import distributions, filler_embeddings, variants

    transcripts = [setting.prompter.transcript(one.question, one.answer) for one in answered]
    fillers = {"neutral": filler_embeddings(setting)["neutral"]}
    length = setting.prefix.shared_length([transcript.ids for transcript in transcripts])
    of_each = [variants(setting, t, length, fillers=fillers, seen=False) for t in transcripts]
    found = distributions(setting, length, of_each, fillers)
    return [_said(setting, t, said["neutral"]) for t, said in zip(transcripts, found, strict=True)]


def judged(setting: "Setting", answered: Sequence[Answered], sampling: Sampling) -> list[Record]:
    """The probability of "True" after each answer, in a prompt of its own; `setting` is one whose format is `TRUTH`."""
    records = read(setting, answered, sampling)
    for one, record in zip(answered, records, strict=True):
        record["prompt_tokens"] = len(setting.prompter.transcript(one.question, one.answer).ids)
    return records


def sampled(setting: "Setting", answered: Sequence[Answered], sampling: Sampling) -> list[Record]:
    """Several sampled answers to each question, each with the confidence stated after it; the prompt is read once."""
    from interp.models.elicitation import source_of_chance

    questions = [one.question for one in answered]
    asked = [setting.prompter.transcript(question).ids for question in questions]
    numbered = [(i, k) for i in range(len(questions)) for k in range(sampling.samples)]
    spoken: dict[tuple[int, str], Record] = {}

    def heard(
        numbers: Sequence[int], written: "Sequence[Continuation]", prompts: "PromptsRead", owners: Sequence[int]
    ) -> None:
        put: dict[tuple[int, str], int] = {}  # the same words to the same question are read once
        for number, said, prompt in zip(numbers, written, owners, strict=True):
            i, _ = numbered[number]
            if said.finished and said.text and setting.prompter.speakable(questions[i], said.text):
                put[i, said.text] = prompt
        records = _spoken(setting, [(questions[i], text) for i, text in put], prompts, list(put.values()))
        spoken.update(zip(put, records, strict=True))

    written = setting.generator.sampled(
        [asked[i] for i, _ in numbered],
        [source_of_chance(sampling.seed, questions[i], k) for i, k in numbered],
        top_p=sampling.top_p,
        heard=heard,
    )
    records = []
    for i, question in enumerate(questions):
        samples = [said for (j, _), said in zip(numbered, written, strict=True) if j == i]
        own = [
            spoken[i, said.text] | {"answer": said.text}
            for said in samples
            if said.finished and (i, said.text) in spoken
        ]
        tokens = sum(said.tokens for said in samples)
        tokens += sum(one["level_tokens"] for one in own)
        records.append({"samples": own, "of": sampling.samples, "tokens": tokens, "choices": list(question.choices)})
    return records


def _spoken(
    setting: "Setting",
    answered: Sequence[tuple[Question, str]],
    prompts: "PromptsRead | None" = None,
    owners: Sequence[int] = (),
) -> list[Record]:
    """What is said after each answer. prompts: that have been read, and of them the number of each question's."""
    transcripts = [setting.prompter.transcript(question, answer) for question, answer in answered]
    if not transcripts:
        return []
    reader = setting.reader
    readings = reader.readings_below(prompts, owners, transcripts) if prompts else reader.readings(transcripts)
    return [
        _said(setting, transcript, reading.distribution)
        | {"logprob": reading.answer_logprob, "answer_tokens": reading.answer_tokens}
        for transcript, reading in zip(transcripts, readings, strict=True)
    ]


def _said(setting: "Setting", transcript: Transcript, said: ConfidenceDistribution) -> Record:
    return {
        "probability": list(said.probability),
        "outside": said.outside,
        "expected": said.expected,
        "stated": said.stated,
        "level_tokens": len(setting.prompter.level_suffixes(transcript)[said.stated]) + 1,
    }


Asking = Callable[["Setting", Sequence[Answered], Sampling], list[Record]]
"""Puts questions and answers to a model in one setting, and leaves one record for each."""

ASKINGS: dict[str, Asking] = {"read": read, "hidden": hidden, "judged": judged, "sampled": sampled}


@dataclass(frozen=True)
class Verdict:
    """What a method makes of one question."""

    answer: str
    """The answer that it gives."""
    confidence: float
    """Its confidence in that answer, in [0, 1]."""


@dataclass(frozen=True)
class Method:
    """A number that can stand in a calibration table."""

    asking: str
    """The asking whose records it reads."""
    verdict: Callable[[Record, ConfidenceFormat, str | None], Verdict | None]
    """(record, format, greedy answer) -> verdict; None where there is none to be had."""
    speaks: bool = True
    """The model writes a confidence, which costs tokens."""


def _stated(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    if answer is None or record["stated"] is None:
        return None
    return Verdict(answer, confidence.values[record["stated"]])


def _expected(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    return None if answer is None else Verdict(answer, record["expected"])


def _sequence(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    return None if answer is None else Verdict(answer, min(1.0, math.exp(record["logprob"])))


def _per_token(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    mean = record["logprob"] / (record["answer_tokens"] + 1)  # the end of the line is a token too
    return None if answer is None else Verdict(answer, min(1.0, math.exp(mean)))


def _consistent(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    return _largest(record, [confidence.values[sample["stated"]] for sample in record["samples"]])


def _agreeing(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    return _largest(record, [1.0] * len(record["samples"]))


def _largest(record: Record, weights: Sequence[float]) -> Verdict | None:
    """The largest group of samples that give one answer, and the sum of its members' weights over all samples.

    Among groups of one size the one with more weight, then the one that came first."""
    groups: dict[object, list[int]] = {}
    for number, sample in enumerate(record["samples"]):
        groups.setdefault(_same(sample["answer"], record["choices"]), []).append(number)
    if not groups:
        return None
    largest = max(groups.values(), key=lambda members: (len(members), sum(weights[i] for i in members)))
    return Verdict(record["samples"][largest[0]]["answer"], sum(weights[i] for i in largest) / record["of"])


def _same(answer: str, choices: Sequence[str]) -> object:
    """What answers of one group have in common: the choice that they name, else the normalised text."""
    named = choice_index(answer, choices) if choices else None
    return named if named is not None else normalised(answer) or answer


METHODS: dict[str, dict[str, Method]] = {
    "default": {
        "default": Method("read", _stated),
        "default_expected": Method("read", _expected),
    },
    "self-consistency": {
        "self_consistency": Method("sampled", _consistent),
        "agreement": Method("sampled", _agreeing),
    },
    "p-true": {"p_true": Method("judged", _expected)},
    "sequence": {
        "sequence": Method("read", _sequence, speaks=False),
        "sequence_per_token": Method("read", _per_token, speaks=False),
    },
    "question-only": {
        "question_only": Method("hidden", _stated),
        "question_only_expected": Method("hidden", _expected),
    },
    "given": {},
}
"""What each name of --methods puts into the table. default: one pass, the most likely level and beside it the expected
confidence. self-consistency: the summed stated confidence of the largest group of samples, and plain agreement. p-true,
sequence, question-only: yardsticks, which a stated confidence is worth having only if it adds to. given: confidences in
the data, which need no asking."""


def tokens_written(method: Method, record: Record, answer_tokens: int) -> int:
    """How many tokens the model wrote for one question, ends of lines included."""
    if method.asking == "sampled":
        return int(record["tokens"])
    return answer_tokens + (record["level_tokens"] if method.speaks else 0)
