"""P(True) (Kadavath et al. 2022): the probability of "True" after the answer, in a prompt of its own."""

from interp.formats import ConfidenceFormat
from interp.methods.base import Asking, Method, Score, expected
from interp.methods.default import read_apart

TRUTH = ConfidenceFormat(
    "PTrue", ("False", "True"), (0.0, 1.0), "one word: True if the answer is right, False if it is wrong"
)
"""P(True) as a format of two levels: its expected value is the probability of "True"."""

P_TRUE = Method(
    name="p-true",
    about="The probability that the model calls its answer true.",
    asking=Asking(name="judged", put=read_apart, format=TRUTH),
    scores=(Score("p_true", "P(True)", expected),),
)
