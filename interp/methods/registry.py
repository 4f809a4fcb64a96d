"""Every method, by its name: the package's own, then those of other packages.

Commands and pipelines find methods here alone; no other module lists them."""

from functools import cache

from interp.formats import ConfidenceFormat
from interp.methods.base import GROUP, Asking, Method, Score, Verdict
from interp.methods.default import DEFAULT
from interp.methods.p_true import P_TRUE
from interp.methods.probe import PROBE
from interp.methods.prompting import PROMPTING
from interp.methods.question_only import QUESTION_ONLY
from interp.methods.recalibrated import RECALIBRATED
from interp.methods.self_consistency import SELF_CONSISTENCY
from interp.methods.sequence import SEQUENCE
from interp.methods.steered import STEERED
from interp.registry import Registry
from interp.run.runs import Record


def given(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """The confidence that the data bring; a verdict as in `Score`."""
    return None if answer is None or record["confidence"] is None else Verdict(answer, record["confidence"])


GIVEN = Method(
    name="given",
    about="The answers and confidences in the data, which need no model.",
    asking=None,
    scores=(Score("given", "given", given),),
)
METHODS = Registry(
    GROUP,
    Method,
    lambda: (
        DEFAULT,
        SELF_CONSISTENCY,
        P_TRUE,
        SEQUENCE,
        QUESTION_ONLY,
        PROMPTING,
        RECALIBRATED,
        PROBE,
        STEERED,
        GIVEN,
    ),
)


@cache
def scores() -> dict[str, tuple[Asking | None, Score]]:
    """Every row that a table can have, by its key: (the asking that it is computed from, the score)."""
    return {score.key: (method.asking, score) for method in METHODS.values() for score in method.scores}
