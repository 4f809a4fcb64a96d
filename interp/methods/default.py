"""The default method: one pass gives the stated confidence (the likeliest level) and the expected confidence.

Other methods use its functions: `read` reads the confidence after given answers, `spoken` after prompts that have been
read already."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.datasets.grading import MatchName
from interp.methods.base import Answered, Asking, Draws, Method, Score, expected, stated
from interp.records import ConfidenceDistribution, Question, Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.elicitation import Continuation
    from interp.models.prefix import PromptsRead
    from interp.models.setting import Setting


def read(setting: "Setting", answered: Sequence[Answered], draws: Draws) -> list[Record]:
    """The confidence after each answer, and the answer's own likelihood; the asking of the default method."""
    return spoken(setting, [(item.question, item.answer) for item in answered])


def read_apart(setting: "Setting", answered: Sequence[Answered], draws: Draws) -> list[Record]:
    """`read` in a prompt of its own: its tokens are recorded, since they come on top of those of the answer."""
    records = read(setting, answered, draws)
    for item, record in zip(answered, records, strict=True):
        record["prompt_tokens"] = len(setting.prompter.transcript(item.question, item.answer).ids)
    return records


def answered_and_read(
    setting: "Setting", questions: Sequence[Question], *, free: bool, match: MatchName = "words"
) -> tuple[list[Record], dict[str, Record]]:
    """Asks the questions and reads the confidence in the model's own answers; prompts are read once for both.

    Args:
        setting: the model in its format.
        questions: those with a response are not asked.
        free: the model writes its whole reply.
        match: when an answer is right.

    Returns:
        The record of each question's answer, as `interp.answers.asked_for` makes it. And, by the id of each question
        that the model answered, the record that `read` gives, with the answer ("of_answer") and the seconds that the
        reading took.
    """
    from interp.answers import answer_of, asked_for
    from interp.models.elicitation import free_reply, slot_reply

    asked = [question for question in questions if question.response is None]
    confidences: dict[str, Record] = {}

    def heard(
        numbers: Sequence[int], written: "Sequence[Continuation]", prompts: "PromptsRead", owners: Sequence[int]
    ) -> None:
        """Reads the confidences after a batch of answers while its prompts are at hand, as `elicitation.Heard` says."""
        began = time.perf_counter()
        put: list[tuple[Question, str, int]] = []  # question, answer, number of its prompt
        for number, continuation, prompt in zip(numbers, written, owners, strict=True):
            reply = free_reply(continuation, setting.prompter) if free else slot_reply(continuation, asked[number])
            if answer := answer_of(setting, asked[number], reply.answer):
                put.append((asked[number], answer, prompt))
        records = spoken(
            setting, [(question, answer) for question, answer, _ in put], prompts, [prompt for *_, prompt in put]
        )
        seconds = (time.perf_counter() - began) / max(len(put), 1)
        for (question, answer, _), record in zip(put, records, strict=True):
            confidences[question.id] = {"seconds": seconds, "of_answer": answer, **record}

    return asked_for(setting, questions, heard, free=free, match=match), confidences


def spoken(
    setting: "Setting",
    answered: Sequence[tuple[Question, str]],
    prompts: "PromptsRead | None" = None,
    owners: Sequence[int] = (),
) -> list[Record]:
    """The confidence after each answer.

    Args:
        setting: the model in its format.
        answered: questions with their answers.
        prompts: prompts that have been read and are continued; None: transcripts are read from the shared prefix on.
        owners: for each question the number of its prompt among `prompts`.

    Returns:
        For each answer the fields of `confidence_fields`, its log-probability (nats) and its number of tokens.
    """
    transcripts = [setting.prompter.transcript(question, answer) for question, answer in answered]
    if not transcripts:
        return []
    reader = setting.reader
    readings = reader.readings_below(prompts, owners, transcripts) if prompts else reader.readings(transcripts)
    return [
        confidence_fields(setting, transcript, reading.distribution)
        | {"logprob": reading.answer_logprob, "answer_tokens": reading.answer_tokens}
        for transcript, reading in zip(transcripts, readings, strict=True)
    ]


def confidence_fields(setting: "Setting", transcript: Transcript, distribution: ConfidenceDistribution) -> Record:
    """The plain fields of a confidence, and how many tokens its likeliest level takes, the end of the line included."""
    return {
        "probability": list(distribution.probability),
        "outside": distribution.off_scale,
        "expected": distribution.expected,
        "stated": distribution.stated,
        "level_tokens": len(setting.prompter.level_suffixes(transcript)[distribution.stated]) + 1,
    }


READ = Asking(name="read", put=read)
DEFAULT = Method(
    name="default",
    about="One pass: the likeliest level, and the expected confidence.",
    asking=READ,
    scores=(
        Score("default", "Default", stated, within_levels=True),
        Score("default_expected", "Default, expected", expected, within_levels=True),
    ),
)
