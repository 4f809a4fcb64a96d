"""What came of the experiment: the primary outcome, and each goal with its number and whether it was reached.

The goals were named before the trainings (LOG.md). Everything is read from finished runs; this module asks no model."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from figures.captions import digits, interval
from figures.grid import csv_of, for_markdown
from interp.formats import FORMATS
from interp.intervals import Estimate, of_record
from interp.run.runs import Record, read_run
from training.triplets import FORMATS_TRAINED

FORM, METHOD = "ScoreNumber", "default"
"""Where the outcomes are measured: the stated level, in one of the trained formats."""
HEADER = ("outcome", "number", "wanted", "reached")


@dataclass(frozen=True)
class Outcome:
    """One goal, or a number that stands beside the goals."""

    name: str
    """What is measured."""
    number: str
    """Its value with its intervals, or one for each seed."""
    wanted: str = ""
    """The goal in words; empty where the number is there to compare with."""
    reached: bool | None = None
    """Whether it was reached; None: no goal, or it cannot be told."""

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        reached = ("no", "yes")[self.reached] if self.reached is not None else "cannot be told" if self.wanted else "–"
        return self.name, self.number, self.wanted or "–", reached


def in_full(estimate: Estimate) -> str:
    """A value with its interval for these relations and, in braces, for relations like these."""
    if estimate.value is None:
        return "–"
    across = estimate.relations
    braces = f" {{{digits(across.low)}, {digits(across.high)}}}" if across else ""
    return f"{digits(estimate.value)} {interval(estimate)}{braces} (n = {estimate.n}, {estimate.left_out} left out)"


@dataclass(frozen=True)
class Measured:
    """The numbers of the experiment's runs."""

    final: Record
    """Summary of the evaluation on the new relations."""
    formats: Record
    """Summary of the evaluation in all formats."""
    rivals: Record
    """Summary of the other methods, on the base."""
    dependence: Mapping[str, Record]
    """By the checkpoint's name the summary of its divergences; "base" for the base's."""

    @property
    def data(self) -> str:
        """The short name of the new relations' data."""
        return str(next(iter(self.final["calibration"][self.base])))

    @property
    def base(self) -> str:
        """The base's name in the tables."""
        return str(next(iter(self.final["calibration"])))

    def seeds(self, training: str) -> list[str]:
        """Names of the checkpoints of a training: its own with a number behind it."""
        return [name for name in self.final["calibration"] if re.fullmatch(rf"{re.escape(training)}-\d+", name)]

    def change(self, name: str, measure: str, summary: Record | None = None, form: str = FORM) -> Estimate:
        """The paired difference of a measure from the base. name: a checkpoint, or "TRAINING, mean of seeds"."""
        table = (summary or self.final)["differences"][f"{name} less {self.base}"]
        return of_record(table[self.data][METHOD][form][measure])

    def value(self, name: str, measure: str, method: str = METHOD, summary: Record | None = None) -> Estimate:
        """A checkpoint's own measure."""
        return of_record((summary or self.final)["calibration"][name][self.data][method][FORM][measure])

    def divergences(self, names: Sequence[str], key: str) -> list[Estimate]:
        """A number of the divergences, of each checkpoint; without a value where no question has it.

        key: as in summary.json, with points."""
        estimates = []
        for name in names:
            numbers = self.dependence[name]
            for part in key.split("."):
                numbers = numbers.get(part, {})
            estimates.append(of_record(numbers) if numbers else Estimate(None, None, None, 0, 0))
        return estimates


def outcomes(measured: Measured, training: str) -> Iterator[Outcome]:
    """The outcomes of one training, in the order of the protocol; the primary one first."""
    seeds, pooled = measured.seeds(training), f"{training}, mean of seeds"
    yield _primary(measured, seeds, pooled)
    yield _within(measured, pooled, "accuracy", "at least -0.02", lambda change: change >= -0.02)
    yield _halved(measured, seeds)
    yield _within(measured, pooled, "brier", "", None)
    for key, words, wanted, holds in DEPENDENCE:
        by_seed = measured.divergences(seeds, key)
        before = measured.divergences(["base"], key)[0]
        reached = all(seed.value is not None and holds(seed.value) for seed in by_seed) if holds else None
        number = f"{'; '.join(map(in_full, by_seed))}; base {in_full(before)}"
        yield Outcome(words, number, wanted, reached)
    yield from _untrained(measured, seeds[0])


def _primary(measured: Measured, seeds: Sequence[str], pooled: str) -> Outcome:
    change = measured.change(pooled, "auroc_within")
    by_seed = [measured.change(seed, "auroc_within").value for seed in seeds]
    low = change.relations.low if change.relations else None
    reached = None if low is None else low > 0 and all(gain is not None and gain > 0 for gain in by_seed)
    number = f"{in_full(change)}; by seed {', '.join('–' if gain is None else digits(gain) for gain in by_seed)}"
    wanted = "lower end over relations above 0, and each seed"
    return Outcome("primary: AUROC within relation, change from the base", number, wanted, reached)


def _within(
    measured: Measured, pooled: str, measure: str, wanted: str, holds: Callable[[float], bool] | None
) -> Outcome:
    change = measured.change(pooled, measure)
    reached = None if holds is None or change.value is None else holds(change.value)
    return Outcome(f"{measure}, change from the base", in_full(change), wanted, reached)


def _halved(measured: Measured, seeds: Sequence[str]) -> Outcome:
    """The debiased squared calibration error: the mean of the seeds against the base's."""
    before = measured.value(measured.base, "squared_ce")
    after = [measured.value(seed, "squared_ce").value for seed in seeds]
    known = [value for value in after if value is not None]
    reached = None
    if before.value is not None and len(known) == len(seeds):
        reached = sum(known) / len(known) <= before.value / 2
    number = f"by seed {', '.join(map(digits, known))}; base {in_full(before)}"
    return Outcome("squared calibration error, debiased", number, "half of the base's or less", reached)


DEPENDENCE: tuple[tuple[str, str, str, Callable[[float], bool] | None], ...] = (
    ("jsd.noise_floor", "noise floor (letter case, full stop), median, nats", "below 0.02", lambda value: value < 0.02),
    ("jsd.variants.letter_case", "the same, letter case (in training)", "", None),
    ("jsd.variants.quotation_marks", "the same, quotation marks (in training)", "", None),
    ("jsd.variants.full_stop", "the same, full stop (not in training)", "", None),
    ("jsd.variants.article", "the same, article (not in training)", "", None),
    ("jsd.variants.title_case", "the same, title case (not in training)", "", None),
    (
        "jsd.branched.near_zero_share",
        "JSD at most 0.1, share of questions, branched",
        "below 0.3",
        lambda value: value < 0.3,
    ),
    ("jsd.same_relation.near_zero_share", "the same, distractors of the relation", "", None),
    ("jsd.above_noise.branched", "JSD less the question's noise floor, branched, median, nats", "", None),
    (
        "jsd.branched.direction.share_positive",
        "confidence higher after the right answer, branched",
        "above 0.85",
        lambda value: value > 0.85,
    ),
    ("jsd.same_relation.direction.share_positive", "the same, distractors of the relation", "", None),
)
"""(key in summary.json, in words, the goal, when it is reached): each seed has to reach it."""


def _untrained(measured: Measured, checkpoint: str) -> Iterator[Outcome]:
    """Formats that were not trained: worse where the Brier score is higher for sure, in these relations."""
    for form in (form for form in FORMATS if form not in FORMATS_TRAINED):
        change = measured.change(checkpoint, "brier", measured.formats, form)
        reached = None if change.low is None else change.low <= 0
        yield Outcome(f"Brier in {form}, change from the base, first seed", in_full(change), "not above 0", reached)


CEILINGS = {
    "sequence": "answer's log-probability",
    "probe": "probe",
    "platt": "recalibrated by Platt scaling",
    "steered_expected": "steered by the probe, expected",
}
"""What the base's answers allow one to know, and what needs no training: rows of the evaluation of rivals."""


def ceilings(measured: Measured) -> Iterator[Outcome]:
    """The AUROC within relation of other confidences in the base's own answers."""
    by_method = measured.rivals["calibration"][measured.base][measured.data]
    for key, words in ({METHOD: "as stated"} | CEILINGS).items():
        if key in by_method:
            estimate = of_record(by_method[key][FORM]["auroc_within"])
            yield Outcome(f"AUROC within relation of the base: {words}", in_full(estimate))


def reported_outcomes(out: Path) -> None:
    """Writes outcomes.csv and outcomes.md, and prints which goals were reached.

    Args:
        out: The directory of the whole experiment, all its runs finished.
    """
    summaries = {name: read_run(out / name)[1] for name in ("final", "formats", "rivals")}
    dependence = {
        folder.name.removeprefix("dependence-"): read_run(folder)[1] for folder in sorted(out.glob("dependence-*"))
    }
    measured = Measured(**summaries, dependence=dependence)
    rows = [
        (training, *outcome.cells()) for training in ("advice", "conftuner") for outcome in outcomes(measured, training)
    ] + [("base", *outcome.cells()) for outcome in ceilings(measured)]
    header = ("training", *HEADER)
    lines = [header, ("---",) * len(header), *rows]
    table = "".join(f"| {' | '.join(map(for_markdown, line))} |\n" for line in lines)
    (out / "outcomes.md").write_text(table, encoding="utf-8")
    (out / "outcomes.csv").write_text(csv_of(header, rows), encoding="utf-8")
    for training, name, number, wanted, reached in rows:
        if wanted != "–":
            print(f"{training}: {name}: {number}; wanted: {wanted}; reached: {reached}")
