"""Prompting: the confidence in the same answer where the instruction asks for caution, in a prompt of its own."""

from interp.methods.base import Asking, Method, Score, expected, stated
from interp.methods.default import read_apart

CAUTION = "Be careful and do not be overconfident: where your answer may be wrong, state a low confidence"
"""The sentence that the instruction has after the scale; our own."""

PROMPTING = Method(
    name="prompting",
    about="The confidence in the same answer where the instruction asks not to be overconfident.",
    asking=Asking(name="cautioned", put=read_apart, added=CAUTION),
    scores=(
        Score("prompting", "Prompting", stated, within_levels=True),
        Score("prompting_expected", "Prompting, expected", expected, within_levels=True),
    ),
)
