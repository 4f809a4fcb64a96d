"""What a model answers, in slots or in a reply of its own, and whether that is right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.datasets.questions import LETTERS, choice_index, is_right
from interp.records import Question
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.elicitation import Heard, Reply
    from interp.models.setting import Setting


def _replies(
    setting: "Setting", questions: Sequence[Question], heard: "Heard | None" = None, *, free: bool
) -> "list[Reply]":
    from interp.models.elicitation import free_replies, slot_replies

    return (free_replies if free else slot_replies)(setting.generator, setting.prompter, questions, heard)


def asked_for(
    setting: "Setting", questions: Sequence[Question], heard: "Heard | None" = None, *, free: bool
) -> list[Record]:
    """A record of each question's answer, the user's response or the model's own, and of whether it is right.

    heard: told of each batch of the questions that have no response, in their order."""
    asked = [question for question in questions if question.response is None]
    written = dict(zip([q.id for q in asked], _replies(setting, asked, heard, free=free), strict=True))
    records = []
    for question in questions:
        said = written.get(question.id)
        answer = answer_of(setting, question, question.response if said is None else said.answer)
        records.append(
            {
                "id": question.id,
                "question": question.text,
                "relation": question.relation,
                "accepted": list(question.answers),
                "answer": answer,
                "right": answer is not None and is_right(question, answer),
                "tokens": said.tokens if said else None,
            }
        )
        if said and said.text != answer:
            records[-1]["reply"] = said.text
        if said and free:
            records[-1] |= {"reply": said.text, "stated": said.level, "parsed": said.parsed}
    return records


def answer_of(setting: "Setting", question: Question, answer: str | None) -> str | None:
    """An answer as it is put to the model; None where it cannot be.

    Of a choice that is named in more words the letter alone, so that right and wrong answers have one form."""
    named = choice_index(answer, question.choices) if answer and question.choices else None
    answer = answer if named is None else LETTERS[named]
    return None if answer is None or not setting.prompter.speakable(question, answer) else answer
