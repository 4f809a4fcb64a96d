"""The question-only method: the confidence where the answer's tokens are replaced by a neutral one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.methods.base import Answered, Asking, Draws, Method, Score, expected, stated
from interp.methods.default import confidence_fields
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.setting import Setting


def hidden(setting: "Setting", answered: Sequence[Answered], draws: Draws) -> list[Record]:
    """The confidence after each answer whose tokens are replaced by a neutral one."""
    from interp.instruments.masking import distributions, replacement_embeddings, variants

    transcripts = [setting.prompter.transcript(item.question, item.answer) for item in answered]
    replacements = {"neutral": replacement_embeddings(setting)["neutral"]}
    length = setting.prefix.shared_length([transcript.ids for transcript in transcripts])
    trees = [variants(setting, transcript, length, replacements=replacements, seen=False) for transcript in transcripts]
    replaced = [by_variant["neutral"] for by_variant in distributions(setting, length, trees, replacements)]
    return [
        confidence_fields(setting, transcript, distribution)
        for transcript, distribution in zip(transcripts, replaced, strict=True)
    ]


QUESTION_ONLY = Method(
    name="question-only",
    about="The confidence with the answer's tokens replaced: what the question alone gives.",
    asking=Asking(name="hidden", put=hidden),
    scores=(
        Score("question_only", "question only", stated, within_levels=True),
        Score("question_only_expected", "question only, expected", expected, within_levels=True),
    ),
)
