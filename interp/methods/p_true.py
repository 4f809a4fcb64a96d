"""P(True) (Kadavath et al. 2022): the probability of "True" after the answer, in a prompt of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.formats import ConfidenceFormat
from interp.methods.base import Answered, Asking, Draws, Method, Score, expected
from interp.methods.default import read
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.setting import Setting

TRUTH = ConfidenceFormat(
    "PTrue", ("False", "True"), (0.0, 1.0), "one word: True if the answer is right, False if it is wrong"
)
"""P(True) as a format of two levels: its expected value is the probability of "True"."""


def judged(setting: "Setting", answered: Sequence[Answered], draws: Draws) -> list[Record]:
    """The probability of "True" after each answer, in a prompt of its own.

    setting: its format is `TRUTH`. The prompt's tokens are recorded, since they come on top of those of the answer."""
    records = read(setting, answered, draws)
    for item, record in zip(answered, records, strict=True):
        record["prompt_tokens"] = len(setting.prompter.transcript(item.question, item.answer).ids)
    return records


P_TRUE = Method(
    name="p-true",
    about="The probability that the model calls its answer true.",
    asking=Asking(name="judged", put=judged, format=TRUTH),
    scores=(Score("p_true", "P(True)", expected),),
)
