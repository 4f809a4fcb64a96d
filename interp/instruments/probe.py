"""The probe: what a linear readout of the residual stream knows about whether the answer is right, said or not.

Probes are fitted on other relations (`interp.probes`). Beside them stands what the model says on the same questions,
and what its answer's own probability, P(True) and the agreement of samples tell. A probe at the question's end, before
there is an answer, is the control: what it finds is not knowledge of the answer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import UserError
from interp.instruments.base import Instrument, Kept, Metric, Values
from interp.instruments.streams import STREAMS
from interp.intervals import Value
from interp.probes import (
    PERMUTATIONS,
    RIGHT,
    STATED,
    Learner,
    OutOfFold,
    Source,
    out_of_fold,
    permuted_within,
    refitted,
    shuffled,
    within,
)
from interp.records import PLACES, PlaceName
from interp.run.runs import Record, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from peft import PeftModel
    from transformers import PreTrainedModel

    from figures.captions import Page, RunData
    from interp.models.setting import Case, Setting


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """What only the probe is asked."""

    probe_place: PlaceName = "answer"
    """Where the stream is read: the last token of the question or of the answer, the first token after the answer, the
    colon of "Confidence:", or the token after which the levels part. The figure shows all of them."""
    probe_from: Path | None = None
    """A run with streams, of the base or of other data: probes are fitted on it, and applied to this run's streams."""
    probe_samples: int = 5
    """So many answers are sampled for the agreement that stands beside the probe; 0: none."""

    def __post_init__(self) -> None:
        if self.probe_samples < 0:
            raise UserError(f"--probe-samples {self.probe_samples}: must be at least 0")
        if self.probe_from and not (self.probe_from / "streams").is_dir():
            raise UserError(f"--probe-from {self.probe_from}: this directory holds no streams of a run of the probe")


@dataclass(frozen=True, eq=False)
class Streams:
    """The streams of some questions, and what is known about each."""

    ids: list[str]
    """The questions' ids."""
    values: np.ndarray
    """The streams in float32, [questions, places, layers, width]."""
    layers: tuple[int, ...]
    """How many layers each has passed."""
    right: np.ndarray
    """Whether each answer is right, [questions]."""
    expected: np.ndarray
    """The expected confidence in each answer, [questions]."""
    relations: list[str]
    """Each question's relation; "" where it has none."""

    def source(self, place: int, target: np.ndarray) -> Source:
        """What probes of a target at a place are fitted on."""
        return Source(self.values[:, place], target, self.relations, self.ids)


@dataclass(frozen=True, eq=False)
class Known:
    """What the measurement of every question needs."""

    by_id: Mapping[str, Record]
    """The part of each question's record that depends on all of them."""
    judging: "Setting"
    """The model ready to be asked whether an answer is true."""


def streams_of(folder: Path, records: Sequence[Record]) -> Streams:
    """The streams that a run has kept. records: those of the reading, of one set of worked examples and wording."""
    from interp.models.streams import loaded

    return Streams(
        [record["id"] for record in records],
        loaded(folder, {record["id"]: record["file"] for record in records}),
        tuple(records[0]["layers"]),
        np.array([bool(record["right"]) for record in records]),
        np.array([record["expected"] for record in records], dtype=float),
        [record["relation"] or "" for record in records],
    )


def streams_from(folder: Path, number: int, ours: Streams) -> Streams:
    """The streams of an earlier run.

    Args:
        folder: its directory.
        number: the set of worked examples and wording; the first one where the run does not have it.
        ours: the streams that its probes are applied to.

    Raises:
        UserError: where it has none, or they do not fit ours.
    """
    records = [record for record in read_run(folder, finished=False)[2] if record["measure"] == STREAMS.name]
    records = [record for record in records if record["set"] == number] or [r for r in records if r["set"] == 0]
    if not records:
        raise UserError(f"--probe-from {folder}: this run has no streams; run interp.probe there first")
    theirs = streams_of(folder, records)
    for what, one, other in (
        ("places", records[0]["places"], list(PLACES)),
        ("layers", theirs.layers, ours.layers),
        ("width", theirs.values.shape[-1], ours.values.shape[-1]),
    ):
        if one != other:
            raise UserError(f"--probe-from {folder}: its streams have the {what} {one}, here: {other}")
    return theirs


def prepared(setting: "Setting", cases: "Sequence[Case]", options: ProbeOptions, kept: Kept) -> Known:
    """The out-of-fold scores of all questions at every place, and the setting of P(True)."""
    by_id = {record["id"]: record for record in kept.readings[STREAMS.name]}
    records = [by_id[case.question.id] for case in cases if case.question.id in by_id]  # a dry run lacks some
    if not records:
        return Known({}, judging(setting, kept.number))
    ours = streams_of(kept.folder, records)
    theirs = streams_from(options.probe_from, kept.number, ours) if options.probe_from else None
    results = {place: _out_of_fold(ours, theirs, number, RIGHT) for number, place in enumerate(PLACES)}
    values = _values(ours, theirs, results, options.probe_place)
    fixed = results[options.probe_place]
    known = {
        identity: {
            "place": options.probe_place,
            "layers": list(ours.layers),
            "layer": ours.layers[fixed.layer[fixed.fold[i]]],
            "penalty": fixed.penalty[fixed.fold[i]][fixed.layer[fixed.fold[i]]],
            "scores": {place: _plain(result.by_layer[:, i]) for place, result in results.items()},
            "values": {name: _plain(column[i : i + 1])[0] for name, column in values.items()},
        }
        for i, identity in enumerate(ours.ids)
    }
    return Known(known, judging(setting, kept.number))


def _out_of_fold(ours: Streams, theirs: Streams | None, place: int, learner: Learner) -> OutOfFold:
    """The out-of-fold scores at the place of this number. theirs: what probes are fitted on; None: the same streams."""
    target = ours.right if learner is RIGHT else ours.expected
    source = theirs.source(place, theirs.right if learner is RIGHT else theirs.expected) if theirs else None
    return out_of_fold(ours.values[:, place], target, ours.relations, learner, source=source, ids=ours.ids)


def _values(
    ours: Streams, theirs: Streams | None, results: Mapping[PlaceName, OutOfFold], place: PlaceName
) -> dict[str, np.ndarray]:
    """The numbers of every question that depend on all of them, by their names, [questions] each."""
    number, result = PLACES.index(place), results[place]
    streams = ours.values[:, number]
    chance = shuffled(result, result.source.streams if theirs is None else streams, ours.right, ours.relations)
    stated = _out_of_fold(ours, theirs, number, STATED)
    fitted_on = theirs or ours
    classes = ["right" if right else "wrong" for right in fitted_on.right]
    orders = np.stack(list(permuted_within(fitted_on.expected, classes, PERMUTATIONS)))
    by_chance = refitted(stated, streams, orders, STATED)
    return {
        "right": ours.right.astype(float),
        "group": np.unique(np.array(ours.relations), return_inverse=True)[1].astype(float),
        "probe": result.scores,
        "probe_question": results["question"].scores,
        "ridge": stated.scores,
        **{f"shuffled.{i}": scores for i, scores in enumerate(chance.scores)},
        **{f"shuffled_right.{i}": right.astype(float) for i, right in enumerate(chance.right)},
        **{f"ridge_by_chance.{i}": scores for i, scores in enumerate(by_chance)},
    }


def _plain(numbers: np.ndarray) -> list[float | None]:
    """The numbers as JSON holds them: None for one that could not be computed."""
    return [float(number) if np.isfinite(number) else None for number in numbers]


def judging(setting: "Setting", number: int) -> "Setting":
    """The same model, worked examples and wording in the format of P(True).

    number: that of the set of worked examples and wording, which the number of the examples does not exceed."""
    from interp.methods.p_true import TRUTH
    from interp.models.prompts import Prompting
    from interp.models.setting import prepared as setting_of
    from interp.models.shots import shot_set

    prompter = setting.prompter
    shots = len(prompter.shots)
    seed = next(
        seed
        for seed in range(number + 1)
        if shot_set(shots, prompter.confidence, seed=seed, choices=prompter.choices) == prompter.shots
    )
    prompting = Prompting(
        template="plain" if prompter.template == "plain" else "chat",
        template_args=prompter.template_args,
        date=prompter.date,
        levels=setting.reader.levels,
        wording=prompter.wording,
    )
    return setting_of(
        setting.checkpoint,
        TRUTH,
        shots=shots,
        shot_seed=seed,
        choices=prompter.choices,
        prompting=prompting,
        pool=setting.pool,
        seed=setting.seed,
        batch_tokens=setting.prefix.batch_tokens,
        check=setting.check,
    )


def measured(setting: "Setting", cases: "Sequence[Case]", options: ProbeOptions, kept: Kept) -> list[Record]:
    """One record for each case: its out-of-fold scores, and what else tells whether its answer is right."""
    from interp.methods.base import Answered, Draws
    from interp.methods.p_true import P_TRUE
    from interp.methods.self_consistency import sampled, share_agreeing

    known: Known = kept.prepared
    read = {record["id"]: record for record in kept.readings[STREAMS.name]}
    answered = [Answered(case.question, case.answer) for case in cases]
    known.judging.prefix.batch_tokens = setting.prefix.batch_tokens  # halved where memory ran out
    draws = Draws(options.probe_samples, seed=setting.seed)
    assert P_TRUE.asking is not None
    judged = P_TRUE.asking.put(known.judging, answered, draws)
    samples = sampled(setting, answered, draws) if options.probe_samples else [None] * len(answered)
    records = []
    for case, judgement, sample in zip(cases, judged, samples, strict=True):
        identity = case.question.id
        record, stream = known.by_id.get(identity, {"values": {}}), read.get(identity, {})
        spoken = {name: stream.get(name) for name in ("stated", "expected", "logprob")}
        spoken["p_true"] = judgement["expected"]
        spoken["agreement"] = share_agreeing(sample, case.answer) if sample else None
        records.append({**record, "values": {**record["values"], **spoken}})
    return records


RIVALS = {
    "probe": "the probe",
    "probe_question": "a probe at the question's end",
    "logprob": "sequence probability",
    "p_true": "P(True)",
    "agreement": "agreement of samples",
    "expected": "expected confidence",
    "stated": "stated confidence",
}
"""What tells right answers from wrong ones, by its name among the values, in words."""


def _row(*names: str) -> Callable[[Values], Value]:
    """(first of the names, right, group, the other names) of a question; None where one of them is missing."""

    def row(values: Values) -> Value:
        numbers = [values.get(name) for name in (names[0], "right", "group", *names[1:])]
        known = tuple(number for number in numbers if number is not None)
        return known if len(known) == len(numbers) else None

    return row


def less(score: np.ndarray, right: np.ndarray, group: np.ndarray, *others: np.ndarray, axis: int = -1) -> np.ndarray:
    """The AUROC within relation of a score, minus the largest of those of the others."""
    rivals = [within(other, right, group, axis) for other in others]
    return np.asarray(within(score, right, group, axis) - np.maximum.reduce(rivals))


def correlation_within(
    x: np.ndarray, right: np.ndarray, group: np.ndarray, y: np.ndarray, axis: int = -1
) -> np.ndarray:
    """Pearson's correlation of the deviations from the relation's mean, in [-1, 1]; NaN where one has no spread."""
    first, second = _deviations(x, group), _deviations(y, group)
    spread = np.sqrt((first**2).sum(axis) * (second**2).sum(axis))
    product = (first * second).sum(axis)
    correlation: np.ndarray = np.divide(product, spread, out=np.full(np.shape(product), np.nan), where=spread > 1e-12)
    return correlation


def _deviations(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The values minus the mean of their group, [..., questions]."""
    means = np.zeros(values.shape)
    for number in np.unique(group):
        members = group == number
        sums, counts = np.where(members, values, 0).sum(-1, keepdims=True), members.sum(-1, keepdims=True)
        means = np.where(members, sums / np.maximum(counts, 1), means)
    return values - means


def _drawn(statistic: Callable[..., np.ndarray], *names: str) -> Callable[[Sequence[Values]], list[float]]:
    """The null of a number: its statistic of values whose names end with the number of a permutation, for each one.

    names: as those of `_row`, with "{}" for the number; the second one says which answers are right."""

    def drawn(questions: Sequence[Values]) -> list[float]:
        found = []
        for number in range(PERMUTATIONS):
            rows = [[values.get(name.format(number)) for name in names] for values in questions]
            columns = np.array([row for row in rows if None not in row], dtype=float).T
            found.append(float(statistic(*columns)) if len(columns) else np.nan)
        return found

    return drawn


KNOWN, UNSAID, DIRECTIONS = (
    "What tells right answers from wrong ones: AUROC within relation",
    "Known but not said: difference of AUROCs",
    "Directions of correctness and of stated confidence: correlation within relation",
)
METRICS = (
    Metric("probe.right", KNOWN, "answers that are right", "share", "right", interval="wilson"),
    *(
        Metric(
            f"probe.{name.replace('probe_', '')}" if name != "probe" else "probe.known",
            KNOWN,
            words,
            "AUROC",
            _row(name),
            within,
            "headline" if name == "probe" else "listed",
            needs=name,
            interval="logit",
            null=_drawn(within, "shuffled.{}", "shuffled_right.{}", "group") if name == "probe" else None,
        )
        for name, words in RIVALS.items()
    ),
    Metric(
        "probe.shuffled",
        KNOWN,
        "a probe of shuffled labels",
        "AUROC",
        lambda values: _row("shuffled.0")({**values, "right": values.get("shuffled_right.0")}),
        within,
        needs="shuffled.0",
        interval="logit",
    ),
    Metric(
        "probe.unsaid",
        UNSAID,
        "probe less the larger of sequence probability and question's end",
        "AUROC",
        _row("probe", "logprob", "probe_question"),
        less,
        "headline",
        needs="probe",
        interval="delong",
    ),
    Metric(
        "probe.less_stated",
        UNSAID,
        "probe less stated confidence",
        "AUROC",
        _row("probe", "stated"),
        less,
        needs="probe",
        interval="delong",
    ),
    Metric(
        "probe.stated_found",
        DIRECTIONS,
        "expected confidence and its own probe",
        "correlation",
        _row("ridge", "expected"),
        correlation_within,
        needs="ridge",
        interval="fisher",
    ),
    Metric(
        "probe.correlation",
        DIRECTIONS,
        "scores of both probes",
        "correlation",
        _row("probe", "ridge"),
        correlation_within,
        "headline",
        needs="ridge",
        interval="fisher",
        null=_drawn(correlation_within, "probe", "right", "group", "ridge_by_chance.{}"),
    ),
    Metric(
        "probe.correlation_by_chance",
        DIRECTIONS,
        "the same, stated confidence permuted within right and wrong",
        "correlation",
        _row("probe", "ridge_by_chance.0"),
        correlation_within,
        needs="ridge",
        interval="fisher",
    ),
)


def check(model: "PreTrainedModel | PeftModel") -> None:
    """Raises UserError where the model names no list of layers that its residual stream passes."""
    from interp.models.residual import decoder_layers

    decoder_layers(model)


def pages(run: "RunData") -> "Iterator[Page]":
    """The figure of the probe."""
    from figures.probe import probe_page

    yield probe_page(run, SHOWN)


def compared(before: "RunData", after: "RunData") -> "tuple[Figure, str]":
    """What is known, and what is said, in both runs."""
    from figures.probe import compared_probes

    return compared_probes(before, after, SHOWN)


SHOWN = {metric.key: metric.words for metric in METRICS if metric.section == KNOWN and metric.unit == "AUROC"}
"""The AUROCs that the figure shows, by their keys, in words."""
PROBE = Instrument(
    name="probe",
    about="What a linear probe of the residual stream knows about the answer, said or not.",
    metrics=METRICS,
    measure=measured,
    chunk=16,
    on_request=True,
    of_all_answers=True,
    needs=(STREAMS,),
    prepare=prepared,
    options=ProbeOptions,
    check=check,
    pages=pages,
    compared=compared,
)
