"""Recalibration: the stated confidence is mapped to how often answers with such a confidence are right.

The map is fitted on other questions with known answers: Platt scaling (Platt 1999) or isotonic regression (Zadrozny and
Elkan 2002). The model is asked nothing more than by the default method."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.methods.base import Method, Score, Verdict, stated
from interp.methods.default import READ

FOLDS = 5
"""Into how many folds the questions are divided; each is recalibrated by a map fitted on the others."""
CLIP = 0.01
"""Confidences are clipped to [CLIP, 1 - CLIP] before their logit is taken."""
SEED = 0
"""The seed of the folds, where relations do not give them."""

Confidences = Float[np.ndarray, " questions"]
Fit = Callable[[Confidences, Bool[np.ndarray, " questions"], Confidences], Confidences]
"""(confidence, right, other confidences) -> the other confidences, mapped as fits the first ones."""


def platt(
    confidence: Confidences, right: Bool[np.ndarray, " questions"], others: Float[np.ndarray, " others"]
) -> Float[np.ndarray, " others"]:
    """Platt scaling: a logistic regression on the confidence's logit, with scikit-learn's default penalty (C = 1)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(_logit(confidence)[:, None], right)
    chances: np.ndarray = model.predict_proba(_logit(others)[:, None])[:, 1]
    return chances


def isotonic(
    confidence: Confidences, right: Bool[np.ndarray, " questions"], others: Float[np.ndarray, " others"]
) -> Float[np.ndarray, " others"]:
    """Isotonic regression: the rising steps with the least squared error; flat beyond the confidences that it saw."""
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(out_of_bounds="clip", y_min=0, y_max=1).fit(confidence, right)
    chances: np.ndarray = model.predict(others)
    return chances


def _logit(confidence: np.ndarray) -> np.ndarray:
    """The logit of the clipped confidence."""
    clipped = np.clip(confidence, CLIP, 1 - CLIP)
    logit: np.ndarray = np.log(clipped / (1 - clipped))
    return logit


def folds_of(right: Bool[np.ndarray, " questions"], relations: Sequence[str]) -> Int[np.ndarray, " questions"]:
    """The fold of each question, from 0 to `FOLDS` - 1.

    Where there are at least `FOLDS` relations, each lies whole in one fold, and a question without one is a relation of
    its own. Otherwise right and wrong answers are spread evenly over the folds, in an order drawn by `SEED`."""
    if len(set(relations) - {""}) >= FOLDS:
        from sklearn.model_selection import GroupKFold

        groups = [relation or f"question {number}" for number, relation in enumerate(relations)]
        parts = GroupKFold(FOLDS).split(right, groups=groups)
        folds = np.zeros(len(right), dtype=int)
        for number, (_, members) in enumerate(parts):
            folds[members] = number
        return folds
    drawn = np.random.default_rng(SEED).permutation(len(right))
    order = drawn[np.argsort(right[drawn], kind="stable")]  # wrong answers first, each class in the order drawn
    return np.argsort(order) % FOLDS  # the place of each question in that order: 0 1 2 3 4 0 1 ...


def cross_fitted(
    fit: Fit,
    confidence: Confidences,
    right: Bool[np.ndarray, " questions"],
    folds: Int[np.ndarray, " questions"],
) -> Confidences:
    """The recalibrated confidences: those of a fold are mapped as fits the other folds.

    Where all answers in the other folds are right, or all wrong, the result is their accuracy: 1 or 0.

    Args:
        fit: how the map is fitted.
        confidence: the stated confidences, in [0, 1].
        right: which answers are right.
        folds: the fold of each question.
    """
    mapped = np.zeros(len(confidence))
    for number in np.unique(folds):
        inside, others = folds == number, folds != number
        if len(set(right[others].tolist())) < 2:
            mapped[inside] = right[others].mean()
            continue
        # each value is mapped once, so that equal confidences of a fold stay equal to the last bit
        values, place = np.unique(confidence[inside], return_inverse=True)
        mapped[inside] = fit(confidence[others], right[others], values)[place]
    return mapped


def _recalibrated(
    fit: Fit, verdicts: Sequence[Verdict], right: Sequence[bool], relations: Sequence[str]
) -> list[Verdict | None]:
    """The verdicts with cross-fitted confidences and their folds; None for all where there are fewer than `FOLDS`."""
    if len(verdicts) < FOLDS:
        return [None] * len(verdicts)
    outcomes = np.array(right, dtype=bool)
    folds = folds_of(outcomes, relations)
    confidences = cross_fitted(fit, np.array([verdict.confidence for verdict in verdicts]), outcomes, folds)
    return [
        replace(verdict, confidence=confidence, fold=fold)
        for verdict, confidence, fold in zip(verdicts, confidences.tolist(), folds.tolist(), strict=True)
    ]


RECALIBRATED = Method(
    name="recalibrated",
    about="The stated confidence after Platt scaling and after isotonic regression, fitted on the other questions.",
    asking=READ,
    scores=(
        Score("platt", "Platt scaling", stated, fitted=partial(_recalibrated, platt)),
        Score("isotonic", "isotonic regression", stated, fitted=partial(_recalibrated, isotonic)),
    ),
)
