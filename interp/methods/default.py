"""Default: one pass, the likeliest level, and beside it the expected confidence."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.methods.base import Answered, Asking, Draws, Method, Score, expected, stated
from interp.records import ConfidenceDistribution, Question, Transcript
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.elicitation import Continuation
    from interp.models.prefix import PromptsRead
    from interp.models.setting import Setting


def read(setting: "Setting", answered: Sequence[Answered], draws: Draws) -> list[Record]:
    """The confidence after each answer, and the answer's own likelihood."""
    return spoken(setting, [(one.question, one.answer) for one in answered])


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
        records = spoken(setting, [(question, answer) for question, answer, _ in put], prompts, [p for *_, p in put])
        seconds = (time.perf_counter() - began) / max(len(put), 1)
        for (question, answer, _), record in zip(put, records, strict=True):
            found[question.id] = {"seconds": seconds, "of_answer": answer, **record}

    return asked_for(setting, questions, heard, free=free), found


def spoken(
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
        confidence_fields(setting, transcript, reading.distribution)
        | {"logprob": reading.answer_logprob, "answer_tokens": reading.answer_tokens}
        for transcript, reading in zip(transcripts, readings, strict=True)
    ]


def confidence_fields(setting: "Setting", transcript: Transcript, distribution: ConfidenceDistribution) -> Record:
    """The plain fields of a confidence, and how many tokens its likeliest level takes."""
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
    scores=(Score("default", "Default", stated), Score("default_expected", "Default, expected", expected)),
)
