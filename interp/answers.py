"""Asks for a model's answers, in the answer's slot or as free replies, and records whether they are right.

The module makes records and does not write them; nothing here reads a confidence from the model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.datasets.choices import LETTERS, choice_index
from interp.datasets.grading import MatchName, is_right
from interp.records import Question
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.elicitation import Heard, Reply
    from interp.models.setting import Setting


def _replies(
    setting: "Setting", questions: Sequence[Question], heard: "Heard | None" = None, *, free: bool
) -> "list[Reply]":
    """The model's replies, in the order of the questions."""
    from interp.models.elicitation import free_replies, slot_replies

    return (free_replies if free else slot_replies)(setting.generator, setting.prompter, questions, heard)


def asked_for(
    setting: "Setting",
    questions: Sequence[Question],
    heard: "Heard | None" = None,
    *,
    free: bool,
    match: MatchName = "words",
) -> list[Record]:
    """A record of each question's answer, and of whether it is right.

    Args:
        setting: the model and its prompts.
        questions: those to answer. A question with a user's response keeps it; the model answers the others.
        heard: called with each batch of the model's replies; it numbers the questions that have no response, in order.
        free: whether the model writes whole replies; otherwise it fills the answer's slot.
        match: when an answer is right.

    Returns:
        One record for each question. With a reply of the model it holds `tokens`; `reply` where that differs from the
        answer; of free replies also the level that it states.
    """
    unanswered = [question for question in questions if question.response is None]
    replies = dict(zip([q.id for q in unanswered], _replies(setting, unanswered, heard, free=free), strict=True))
    records = []
    for question in questions:
        reply = replies.get(question.id)
        answer = answer_of(setting, question, question.response if reply is None else reply.answer)
        records.append(
            {
                "id": question.id,
                "question": question.text,
                "relation": question.relation,
                "accepted": list(question.answers),
                "answer": answer,
                "right": answer is not None and is_right(question, answer, match),
                "tokens": reply.tokens if reply else None,
            }
        )
        if reply and reply.text != answer:
            records[-1]["reply"] = reply.text
        if reply and free:
            records[-1] |= {"reply": reply.text, "stated": reply.level, "parsed": reply.parsed}
    return records


def answer_of(setting: "Setting", question: Question, answer: str | None) -> str | None:
    """An answer in the form in which the prompt holds it; None where the prompt cannot hold it.

    A choice that is named in more words becomes its letter, so that right and wrong answers have the same form; a reply
    that names no choice, or several, is no answer."""
    if answer and question.choices:
        choice = choice_index(answer, question.choices)
        answer = None if choice is None else LETTERS[choice]
    return answer if answer and setting.prompter.speakable(question, answer) else None
