"""The confidence that the question alone gives: the answer's tokens are replaced before it is read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.methods.base import Answered, Asking, Draws, Method, Score, expected, stated
from interp.methods.default import confidence_fields
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.setting import Setting


def hidden(setting: "Setting", answered: Sequence[Answered], draws: Draws) -> list[Record]:
    """The confidence with the answer's tokens replaced by a neutral one: what the question alone gives."""
    from interp.instruments.masking import distributions, replacement_embeddings, variants

    transcripts = [setting.prompter.transcript(one.question, one.answer) for one in answered]
    replacements = {"neutral": replacement_embeddings(setting)["neutral"]}
    length = setting.prefix.shared_length([transcript.ids for transcript in transcripts])
    of_each = [variants(setting, t, length, replacements=replacements, seen=False) for t in transcripts]
    found = distributions(setting, length, of_each, replacements)
    return [confidence_fields(setting, t, variants["neutral"]) for t, variants in zip(transcripts, found, strict=True)]


QUESTION_ONLY = Method(
    name="question-only",
    about="The confidence with the answer's tokens replaced: what the question alone gives.",
    asking=Asking(name="hidden", put=hidden),
    scores=(
        Score("question_only", "question only", stated),
        Score("question_only_expected", "question only, expected", expected),
    ),
)
