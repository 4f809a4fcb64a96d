"""Linear probes of the residual stream: what can be read from it about an answer, fitted on other relations.

A probe is a logistic regression to whether the answer is right, or a ridge regression to the expected confidence, on
the first principal components of the streams that it is fitted on. Each dimension of the stream is divided by its
standard deviation first, since a few dimensions of a language model are far larger than all others and would fill the
first components by themselves. Components are divided by one number, the root mean square of all their scores, so that
a penalty means the same in each layer. Whole relations are left out, one at a time;
layer and penalty are chosen among the others alone. The module takes arrays; it knows no model and no file.

Layers below are places in the arrays, 0, 1, ...; what they are in a model is the caller's business."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from interp.calibration import auroc

COMPONENTS = 64
"""A probe sees so many principal components, or fewer where it is fitted on fewer streams."""
PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""scikit-learn's C of the logistic regression, from the strongest penalty to the weakest."""
RIDGE = 4.0
"""A ridge regression's penalty is this over C: it shrinks as the logistic regression with C does around one half."""
FOLDS, RELATIONS_APART = 5, 20
"""Folds inside, and the most folds outside: with more relations, several are left out at a time."""
PERMUTATIONS = 20
"""How often labels are shuffled."""
SEED = 0
"""The seed of folds of questions, and of all permutations."""
STEPS, CONVERGED = 100, 1e-9
"""scikit-learn's max_iter and tol of the logistic regression, which is solved by Newton's method."""

Kind = Literal["means", "probe", "stated"]
"""means: mean of right answers minus mean of wrong ones, within relations. probe: the weights of the logistic
regression. stated: those of the ridge regression to the stated confidence."""
Target = Shaped[np.ndarray, " questions"]
"""What a probe is fitted to: right or wrong (bool), or a confidence (float)."""
Streams = Shaped[np.ndarray, "questions layers width"]


@dataclass(frozen=True, eq=False)
class Linear:
    """A fitted probe."""

    direction: Float[np.ndarray, " width"]
    """What one unit of the stream adds to the score."""
    offset: float
    """The score of a stream of zeros."""

    def scores(self, streams: Shaped[np.ndarray, "questions width"]) -> Float[np.ndarray, " questions"]:
        """Log-odds that the answer is right, or the expected confidence."""
        scores: np.ndarray = streams @ self.direction + self.offset
        return scores


@dataclass(frozen=True, eq=False)
class Components:
    """The principal components of some streams."""

    mean: Float[np.ndarray, " width"]
    """The mean of the streams."""
    basis: Float[np.ndarray, "width components"]
    """The components, divided by the standard deviation of each dimension and by the root mean square of all scores."""

    def scores(self, streams: Shaped[np.ndarray, "questions width"]) -> Float[np.ndarray, "questions components"]:
        """The streams in these components."""
        scores: np.ndarray = (streams - self.mean) @ self.basis
        return scores

    def linear(self, weights: Float[np.ndarray, " components"], intercept: float) -> Linear:
        """The probe in the streams' own space."""
        direction = self.basis @ weights
        return Linear(direction, float(intercept - self.mean @ direction))


def components(streams: Shaped[np.ndarray, "questions width"], count: int = COMPONENTS) -> Components:
    """The first principal components of standardised streams, by the smaller one of Gram matrix and covariance; none
    where nothing varies."""
    from scipy.linalg import eigh

    exact = streams.astype(np.float64)
    mean = exact.mean(0)
    deviation = exact.std(0)
    varies = deviation > 1e-9 * max(float(np.abs(exact).max(initial=0)), 1e-30)
    weight = np.where(varies, 1 / np.where(varies, deviation, 1), 0)  # [width]
    centred = (exact - mean) * weight
    wide = len(centred) <= centred.shape[1]
    product = centred @ centred.T if wide else centred.T @ centred
    size = len(product)
    kept = min(count, len(centred) - 1, size)
    if kept < 1:
        return Components(mean, np.zeros((centred.shape[1], 0)))
    squares, vectors = eigh(product, subset_by_index=(size - kept, size - 1))
    squares, vectors = squares[::-1], vectors[:, ::-1]  # the largest first
    real = squares > 1e-10 * max(float(squares[0]), 1e-30)
    squares, vectors = squares[real], vectors[:, real]
    if not len(squares):
        return Components(mean, np.zeros((centred.shape[1], 0)))
    basis = centred.T @ vectors / np.sqrt(squares) if wide else vectors  # [width, components], of length 1 each
    # the sum over questions of a component's squared scores is its eigenvalue
    return Components(mean, weight[:, None] * basis / np.sqrt(squares.sum() / (len(centred) * len(squares))))


Fit = Callable[
    [Float[np.ndarray, "questions components"], Target, Sequence[float]], list[tuple[np.ndarray, float]] | None
]
"""(scores of components, target, penalties) -> weights and intercept for each penalty; None where nothing can be
fitted."""


def logistic(
    scores: Float[np.ndarray, "questions components"], target: Target, penalties: Sequence[float]
) -> list[tuple[np.ndarray, float]] | None:
    """Logistic regression with an intercept that is not penalised; each penalty starts from the one before.

    Returns:
        The weights and the intercept for each penalty; None where all labels are equal.
    """
    from sklearn.linear_model import LogisticRegression

    right = target.astype(bool)
    if right.all() or not right.any():
        return None
    if not scores.shape[1]:  # streams that do not vary have no component: their score is the base rate's log-odds
        return [(np.zeros(0), float(np.log(right.mean() / (1 - right.mean()))))] * len(penalties)
    model = LogisticRegression(solver="newton-cholesky", tol=CONVERGED, max_iter=STEPS, warm_start=True)
    fitted = []
    for penalty in penalties:
        model.set_params(C=penalty).fit(scores, right)
        fitted.append((model.coef_[0].copy(), float(model.intercept_[0])))
    return fitted


def ridge(
    scores: Float[np.ndarray, "questions components"], target: Target, penalties: Sequence[float]
) -> list[tuple[np.ndarray, float]] | None:
    """Ridge regression on components that are centred and uncorrelated, so that each weight stands by itself.

    Returns:
        The weights and the intercept for each penalty; None where there is no question.
    """
    if not len(target):
        return None
    mean = float(target.mean())
    product, squares = scores.T @ (target - mean), (scores**2).sum(0)
    return [(product / (squares + RIDGE / penalty), mean) for penalty in penalties]


def within(
    score: Shaped[np.ndarray, "*batch questions"],
    right: Shaped[np.ndarray, "*batch questions"],
    cell: Shaped[np.ndarray, "*batch questions"],
    axis: int = -1,
) -> np.ndarray:
    """AUROC of any score, pairs compared within one cell (a relation); 0.5 by chance, NaN where there is no pair.

    axis: that of the questions, the last."""
    from scipy.stats import rankdata

    return np.asarray(auroc(rankdata(score, axis=axis), right.astype(bool), cell.astype(int)))


def _nearness(
    score: Float[np.ndarray, "*batch questions"], target: Target, cell: Int[np.ndarray, " questions"]
) -> np.ndarray:
    """Minus the mean squared error of the deviations from the cell's mean, so that a cell's level earns nothing."""
    error = score - target
    means = np.stack([error[..., cell == number].mean(-1) for number in range(int(cell.max()) + 1)], -1)
    nearness: np.ndarray = -((error - means[..., cell]) ** 2).mean(-1)
    return nearness


def _concordance(
    score: Float[np.ndarray, "*batch questions"], target: Target, cell: Int[np.ndarray, " questions"]
) -> np.ndarray:
    """`within`, for several scores of the same questions; 0.5 where no pair can be compared."""
    rows = np.broadcast_to(target, score.shape), np.broadcast_to(cell, score.shape)
    concordance: np.ndarray = np.nan_to_num(within(score, *rows), nan=0.5)
    return concordance


@dataclass(frozen=True, eq=False)
class Learner:
    """What a probe is fitted to, and what makes one layer and penalty better than another."""

    fit: Fit
    """Fits all penalties."""
    merit: Callable[[np.ndarray, Target, np.ndarray], np.ndarray]
    """(scores [..., questions], target, cells) -> how well scores follow the target within cells, [...]; higher is
    better."""


RIGHT = Learner(logistic, _concordance)
"""Whether the answer is right; layer and penalty are chosen by AUROC within relation."""
STATED = Learner(ridge, _nearness)
"""The expected confidence; layer and penalty are chosen by squared error within relation."""


@dataclass(frozen=True, eq=False)
class Source:
    """What probes are fitted on, where it is not what they are applied to."""

    streams: Streams
    """Its residual streams."""
    target: Target
    """What they are fitted to."""
    groups: Sequence[str]
    """Each question's relation."""
    ids: Sequence[str]
    """Each question's id: a question is never judged by a probe that saw it."""


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The scores of probes that were fitted on other relations."""

    scores: Float[np.ndarray, " questions"]
    """Log-odds that the answer is right, or the expected confidence, at the layer chosen inside; NaN where nothing
    could be fitted."""
    by_layer: Float[np.ndarray, "layers questions"]
    """The same at each layer, the penalty chosen inside."""
    fold: Int[np.ndarray, " questions"]
    """The outer fold in which each question was left out."""
    layer: tuple[int, ...]
    """The layer chosen in each outer fold, its place in the array."""
    penalty: tuple[tuple[float, ...], ...]
    """The penalty chosen in each outer fold at each layer."""
    source: Source = field(repr=False)
    """What the probes were fitted on."""
    trained: tuple[np.ndarray, ...] = field(repr=False)
    """For each outer fold the questions of the source that its probe was fitted on."""


def folds(groups: Sequence[str], target: Target, most: int) -> Int[np.ndarray, " questions"]:
    """The fold of each question, from 0.

    With two relations or more each lies whole in one fold, alone where there are at most `most`; a question without
    one is a relation of its own. Otherwise there are `FOLDS` of questions, over which the target is spread evenly in an
    order drawn by `SEED`."""
    if len(set(groups) - {""}) >= 2:
        from sklearn.model_selection import GroupKFold

        named = [group or f"\0{number}" for number, group in enumerate(groups)]
        numbers = np.zeros(len(named), dtype=int)
        for number, (_, members) in enumerate(GroupKFold(min(most, len(set(named)))).split(named, groups=named)):
            numbers[members] = number
        return numbers
    drawn = np.random.default_rng(SEED).permutation(len(target))
    order = drawn[np.argsort(target[drawn], kind="stable")]
    fold: np.ndarray = np.argsort(order) % FOLDS  # the place of each question in that order: 0 1 2 3 4 0 1 ...
    return fold


def cells(groups: Sequence[str], fold: Int[np.ndarray, " questions"]) -> Int[np.ndarray, " questions"]:
    """The number of each question's cell, within which scores are compared: its relation, and its fold."""
    relation = np.unique(np.array(groups, dtype=str), return_inverse=True)[1] if len(groups) else np.zeros(0, dtype=int)
    return np.unique(relation * (int(fold.max(initial=0)) + 1) + fold, return_inverse=True)[1]


def out_of_fold(
    streams: Streams,
    target: Target,
    groups: Sequence[str],
    learner: Learner = RIGHT,
    *,
    source: Source | None = None,
    ids: Sequence[str] = (),
) -> OutOfFold:
    """Scores every question by a probe that was fitted on other relations, layer and penalty chosen among those.

    Args:
        streams: the residual streams at one place.
        target: what is predicted. Where there is a source, it only spreads questions without relations over folds.
        groups: each question's relation; "" where it has none.
        learner: `RIGHT` or `STATED`.
        source: what probes are fitted on; None: the same questions. The tested relation is left out there as well.
        ids: each question's id, where there is a source.
    """
    fold = folds(groups, target, RELATIONS_APART)
    tested = [np.flatnonzero(fold == number) for number in range(int(fold.max(initial=-1)) + 1)]
    if source is None:
        trained = [np.flatnonzero(fold != number) for number in range(len(tested))]
        source, both = Source(streams, target, groups, ids), streams
    else:
        trained = [
            _others(source, {groups[int(i)] for i in members}, {ids[int(i)] for i in members}) for members in tested
        ]
        both = np.concatenate([source.streams, streams])
    layers = [both[:, layer] for layer in range(both.shape[1])]
    first = len(both) - len(streams)  # where the tested questions begin
    by_layer, scores = np.full((len(layers), len(streams)), np.nan), np.full(len(streams), np.nan)
    chosen = [_chosen(layers, source, train, learner) for train in trained]
    for members, train, (best, penalties) in zip(tested, trained, chosen, strict=True):
        for layer, (rows, penalty) in enumerate(zip(layers, penalties, strict=True)):
            for probe in _fits(rows[train], source.target[train], learner, [penalty]):
                by_layer[layer, members] = probe.scores(rows[first + members])
        scores[members] = by_layer[best, members]
    best_layers, all_penalties = tuple(layer for layer, _ in chosen), tuple(penalties for _, penalties in chosen)
    return OutOfFold(scores, by_layer, fold, best_layers, all_penalties, source, tuple(trained))


def _others(source: Source, relations: AbstractSet[str], ids: AbstractSet[str]) -> Int[np.ndarray, " trained"]:
    """The questions of a source that are neither among the tested ones nor of one of their relations."""
    pairs = enumerate(zip(source.groups, source.ids, strict=True))
    return np.array([i for i, (group, identity) in pairs if group not in relations - {""} and identity not in ids], int)


def _fits(rows: np.ndarray, target: Target, learner: Learner, penalties: Sequence[float]) -> list[Linear]:
    """The probes of some streams with each penalty; empty where nothing can be fitted."""
    if not len(rows):
        return []
    parts = components(rows)
    fitted = learner.fit(parts.scores(rows), target, penalties)
    return [parts.linear(*weights) for weights in fitted or ()]


def _chosen(
    layers: Sequence[np.ndarray], source: Source, train: np.ndarray, learner: Learner
) -> tuple[int, tuple[float, ...]]:
    """The best layer, and the best penalty of each layer, by folds of whole relations among the training questions.

    Among equals the first layer and the strongest penalty count."""
    target, groups = source.target[train], [source.groups[int(i)] for i in train]
    inner = folds(groups, target, FOLDS)
    scores = np.zeros((len(layers), len(PENALTIES), len(train)))
    for number in range(int(inner.max(initial=-1)) + 1):
        tested, others = np.flatnonzero(inner == number), np.flatnonzero(inner != number)
        for layer, rows in enumerate(layers):
            probes = _fits(rows[train[others]], target[others], learner, PENALTIES)
            for place, probe in enumerate(probes):
                scores[layer, place, tested] = probe.scores(rows[train[tested]])
    if not len(train):
        return 0, (PENALTIES[0],) * len(layers)
    merit = learner.merit(scores, target, cells(groups, inner))  # [layers, penalties]
    return int(merit.max(1).argmax()), tuple(PENALTIES[place] for place in merit.argmax(1))


@dataclass(frozen=True, eq=False)
class Shuffled:
    """Probes of labels that were shuffled within relations: what they find is found by chance."""

    scores: Float[np.ndarray, "permutations questions"]
    """The out-of-fold scores at the layers and penalties that were chosen for the real labels."""
    right: Shaped[np.ndarray, "permutations questions"]
    """The shuffled labels."""


def shuffled(result: OutOfFold, streams: Streams, right: Target, groups: Sequence[str]) -> Shuffled:
    """Shuffles the labels of training and tested questions within their relations, and fits probes to them.

    Args:
        result: of the real labels; its layers and penalties are used.
        streams: the tested questions' streams.
        right: their labels.
        groups: their relations.
    """
    source = result.source
    labels = np.stack(list(permuted_within(right, groups, PERMUTATIONS)))
    if source.streams is streams:  # a question has one label, trained or tested
        return Shuffled(refitted(result, streams, labels), labels)
    theirs = np.stack(list(permuted_within(source.target, source.groups, PERMUTATIONS)))
    return Shuffled(refitted(result, streams, theirs), labels)


def refitted(
    result: OutOfFold,
    streams: Streams,
    targets: Shaped[np.ndarray, "permutations trained"],
    learner: Learner = RIGHT,
) -> Float[np.ndarray, "permutations questions"]:
    """The out-of-fold scores of probes that are fitted to other targets, at the layers and penalties chosen before.

    Args:
        result: the probes whose folds, layers and penalties are used.
        streams: the tested questions' streams.
        targets: for every question of the source, once for each permutation.
        learner: `RIGHT` or `STATED`.
    """
    source, scores = result.source, np.full((len(targets), len(streams)), np.nan)
    for number, train in enumerate(result.trained):
        layer, tested = result.layer[number], np.flatnonzero(result.fold == number)
        if not len(train):
            continue
        parts = components(source.streams[train, layer])
        rows, ours = parts.scores(source.streams[train, layer]), parts.scores(streams[tested, layer])
        for row, target in enumerate(targets[:, train]):
            for weights, intercept in learner.fit(rows, target, [result.penalty[number][layer]]) or ():
                scores[row, tested] = ours @ weights + intercept
    return scores


def permuted_within(values: Target, groups: Sequence[str], count: int) -> Iterator[Target]:
    """`values` in `count` random orders within groups, drawn by `SEED`: all that ties them to other values is gone."""
    generator, names = np.random.default_rng(SEED), np.array(groups, dtype=str)
    members_of = [np.flatnonzero(names == name) for name in np.unique(names)]
    for _ in range(count):
        permuted = values.copy()
        for members in members_of:
            permuted[members] = values[generator.permutation(members)]
        yield permuted


def largest_by_chance(
    scores: Float[np.ndarray, "cells questions"], right: Target, groups: Sequence[str], count: int = 1000
) -> Float[np.ndarray, " count"]:
    """The largest AUROC within relation of several scores, where labels are in random order within relations.

    A score that beats the upper end of these does so by chance in few of such *sets* of scores, however many there are.

    Args:
        scores: several scores of the same questions.
        right: which answers are right.
        groups: the questions' relations.
        count: how many random orders.
    """
    from scipy.stats import rankdata

    names, ranks, fewest, pairs = np.array(groups, dtype=str), np.zeros(scores.shape), 0.0, 0
    for name in np.unique(names):
        members = names == name
        ranks[:, members] = rankdata(scores[:, members], axis=-1)
        rights = int(right[members].sum())
        fewest += rights * (rights + 1) / 2  # the ranks that right answers have among themselves
        pairs += rights * (int(members.sum()) - rights)
    orders = np.stack(list(permuted_within(right, groups, count)), -1)  # [questions, count]
    if not pairs:
        return np.full(count, np.nan)
    largest: np.ndarray = ((ranks @ orders.astype(float) - fewest) / pairs).max(0)
    return largest


def direction(
    streams: Shaped[np.ndarray, "questions width"],
    target: Target,
    groups: Sequence[str],
    kind: Kind,
    penalty: float = 0.1,
) -> Float[np.ndarray, " width"] | None:
    """A direction of length 1 in the stream at one place and layer, towards right answers or higher confidence.

    Args:
        streams: the residual streams there.
        target: which answers are right, for "means" and "probe"; the expected confidence, for "stated".
        groups: each question's relation; "" where it has none.
        kind: how it is found.
        penalty: C of the regression.

    Returns:
        None where there is none: all answers right or all wrong, or all confidences equal.
    """
    if kind == "means":
        found = _difference_of_means(streams, target, groups)
    else:
        probes = _fits(streams, target, RIGHT if kind == "probe" else STATED, [penalty])
        found = probes[0].direction if probes else np.zeros(streams.shape[1])
    length = float(np.linalg.norm(found))
    return found / length if length > 1e-12 else None


def _difference_of_means(streams: np.ndarray, right: Target, groups: Sequence[str]) -> np.ndarray:
    """The mean of right answers minus that of wrong ones, averaged over relations.

    A relation with r right and w wrong answers weighs r w / (r + w), as in a regression with a mean for each."""
    total, weight, names = np.zeros(streams.shape[1]), 0.0, np.array(groups, dtype=str)
    for name in np.unique(names):
        yes, no = streams[(names == name) & (right == 1)], streams[(names == name) & (right == 0)]
        if len(yes) and len(no):
            share = len(yes) * len(no) / (len(yes) + len(no))
            total += share * (yes.mean(0, dtype=np.float64) - no.mean(0, dtype=np.float64))
            weight += share
    difference: np.ndarray = total / weight if weight else total
    return difference
