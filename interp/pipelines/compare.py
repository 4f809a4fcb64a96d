"""The comparison of two checkpoints: what a training changed, question by question, with the usual instruments or more.

It is made of two diagnoses and an evaluation, whose runs lie in its directory. The module measures nothing itself."""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import tyro

from interp.instruments.base import relations_of
from interp.instruments.registry import INSTRUMENTS, by_default, floors_of, renamed, repeated_by, with_old_keys
from interp.intervals import Estimate, difference, effect_size, holm, mcnemar, of_record, sign_flips
from interp.models.checkpoints import EXAMPLE_NAME
from interp.models.embedded import EMBEDDED_NAME
from interp.options import (
    MACHINE_ONLY,
    Added,
    Asked,
    Common,
    Computing,
    Engine,
    Output,
    Positional,
    Prompt,
    Replies,
    Tested,
    at_least,
    dry_run_of,
    identity_of,
    loading_of,
    refuse_sets_of_nothing,
    refuse_unknown,
)
from interp.pipelines.diagnose import diagnosed, refuse_unfit
from interp.pipelines.diagnosis import Chosen, Diagnose, OfInstruments, Replacing, idle_options, instrument_options
from interp.pipelines.elicit import WrongAnswers
from interp.pipelines.evaluate import evaluated, short_names
from interp.pipelines.evaluation import Evaluate
from interp.run.dryrun import DryRun
from interp.run.processes import launched
from interp.run.runs import Record, Run, averaged, read_records, read_run, with_relations

SideName = Literal["before", "after"]
SIDES: tuple[SideName, SideName] = ("before", "after")

PRIMARY = "jsd.near_zero_share"
"""The share of questions whose divergence is at most 0.1: of the paper's numbers the one that a cure should move."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare two checkpoints."""

    before: Annotated[Positional[str], tyro.conf.arg(metavar="BEFORE")] = EMBEDDED_NAME
    """The checkpoint before training."""
    after: Annotated[Positional[str], tyro.conf.arg(metavar="AFTER")] = EXAMPLE_NAME
    """The checkpoint after it; an adapter on the same base shares the base's memory."""
    answered_by: SideName = "before"
    """The checkpoint, before or after, whose right answers decide which questions are measured; both are given its
    right and wrong answers, which favours it."""
    n_calibration: int = 200
    """How many questions of the data calibration is measured on, each checkpoint with its own answers; 0: none."""
    primary: str = PRIMARY
    """The outcome that is named before the run, by its key in summary.json; the p-values of the other headline numbers
    are corrected for their count."""
    asked: Asked = field(default_factory=lambda: Asked(data="facts:test"))
    prompt: Prompt = field(default_factory=Prompt)
    replies: Replies = field(default_factory=Replies)
    wrong_answers: WrongAnswers = field(default_factory=WrongAnswers)
    instruments: Chosen = field(default_factory=Chosen)
    replacing: Replacing = field(default_factory=Replacing)
    of_instruments: OfInstruments = field(default_factory=instrument_options)
    added: Added = field(default_factory=Added)
    output: Output = field(default_factory=Output)
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        at_least(0, "n_calibration", self.n_calibration)
        refuse_unknown("primary", self.primary, sorted(headline_keys()))
        refuse_sets_of_nothing(self.prompt.shot_sets, self.prompt.shots)
        self.added.refuse_free(self.replies)

    @property
    def folder(self) -> Path:
        """The directory of the comparison, which holds those of its runs."""
        return self.output.out or Path("results/compare")

    @property
    def order(self) -> tuple[SideName, SideName]:
        """Both sides in the order in which they are diagnosed: the second one takes over the cases of the first."""
        return SIDES if self.answered_by == "before" else SIDES[::-1]

    def checkpoint(self, name: SideName) -> str:
        """The checkpoint of one of the two sides."""
        return self.before if name == "before" else self.after

    def side(self, name: SideName) -> Diagnose:
        """The diagnosis of one of the two."""
        return Diagnose(
            ckpt=self.checkpoint(name),
            cases=None if name == self.answered_by else self.folder / self.answered_by,
            asked=self.asked,
            prompt=self.prompt,
            replies=self.replies,
            wrong_answers=self.wrong_answers,
            instruments=self.instruments,
            replacing=self.replacing,
            of_instruments=self.of_instruments,
            added=self.added,
            output=replace(self.output, out=self.folder / name),
            common=self.common,
            computing=self.computing,
            engine=self.engine,
        )

    @property
    def calibration(self) -> Evaluate:
        """The evaluation of both."""
        return Evaluate(
            ckpt=(self.before, self.after),
            methods=("default", "question-only"),
            tested=Tested(data=(self.asked.data,), formats=(self.asked.format,), n=self.n_calibration),
            prompt=replace(self.prompt, shot_sets=1, wordings=1),
            replies=self.replies,
            added=self.added,
            output=replace(self.output, out=self.folder / "calibration"),
            common=self.common,
            computing=self.computing,
            engine=self.engine,
        )


def diagnosed_before(options: Compare) -> None:
    """Diagnoses the first checkpoint, before the second one exists; `compared` continues from its records.

    Where the questions are those that the second one answers right, nothing can be measured before it exists."""
    if options.answered_by == "before":
        diagnosed(options.side("before"), by_default(), "compare")


def foreseen(options: Compare, dry: DryRun) -> None:
    """What a dry run can measure of a comparison whose second checkpoint is still to be trained.

    One diagnosis takes over answers and wrong answers of the other, so that they cost nothing; all other parts are
    expected to cost as much as in that one. Where the questions are those that the second checkpoint answers right, the
    first one stands in for it: times are measured, and no record of its answers is kept.

    Args:
        options: those of the comparison.
        dry: the dry run that it is a part of.
    """
    side = options.answered_by
    if side == "before":
        with dry.within(side):
            diagnosed(options.side(side), by_default(), "compare", dry=dry)
    else:
        _stood_in(options, dry)
    names = options.instruments.chosen(by_default())
    for name in (*names, *(repeated.label for repeated in repeated_by(names))):
        dry.repeat(f"{side}, {name}", f"before and after, {name}")
    if options.n_calibration:
        evaluated(options.calibration, dry, to_come=(options.after,))


def _stood_in(options: Compare, dry: DryRun) -> None:
    """Measures the times of the second checkpoint's diagnosis with the first one, whose records are thrown away."""
    earlier = set(dry.parts)
    with TemporaryDirectory() as folder, dry.within("after"):
        side = options.side("after")
        stand_in = replace(side, ckpt=options.before, output=replace(side.output, out=Path(folder) / "after"))
        diagnosed(stand_in, by_default(), "compare", dry=dry)
    for part in (part for name, part in dry.parts.items() if name not in earlier):
        part.kept -= part.measured  # so that nothing counts as on record


def compared(options: Compare, dry: DryRun | None = None) -> Path:
    """Measures both checkpoints, or what an earlier run has left to measure.

    Args:
        options: those of the comparison.
        dry: the dry run that it is a part of; None: the options say whether it is a dry run.

    Returns:
        The comparison's directory.
    """
    dry = dry or dry_run_of(options)
    names = list(short_names("ckpt", (options.before, options.after)))
    from interp.models.checkpoints import each_checkpoint, loaded_checkpoint, source_of

    code, loading = options.common.trust_remote_code, loading_of(options.common, options.computing, options.engine)
    ckpts = [options.checkpoint(name) for name in options.order]
    bases = [source_of(ckpt, remote_code=code).base_name for ckpt in ckpts]
    if bases[0] != bases[1]:  # on one base the first diagnosis refuses for both what cannot be measured
        refuse_unfit(loaded_checkpoint(ckpts[1], loading), options.instruments.chosen(by_default()))
    idle = idle_options(options.instruments.chosen(by_default()))
    identity = identity_of(options, (*MACHINE_ONLY, *idle))
    with Run(options.folder, identity, launched(options.computing.device), dry, kind="compare") as run:
        loaded = each_checkpoint(ckpts, loading)
        for name in options.order:
            with dry.within(name) if dry else nullcontext():
                diagnosed(options.side(name), by_default(), "compare", next(loaded), dry)
        del loaded
        calibrated = evaluated(options.calibration, dry) if options.n_calibration else None
        if dry is None:
            calibration = read_run(calibrated)[1] if calibrated else None
            run.write_summary(comparison(options, names, calibration))
    return options.folder


def comparison(options: Compare, names: Sequence[str], calibration: Record | None) -> Record:
    """The content of the comparison's summary.json.

    Args:
        options: those of the comparison, whose directory holds both diagnoses.
        names: what the two checkpoints are called in the evaluation's summary.
        calibration: the evaluation's summary; None where calibration was not measured.

    Returns:
        Every number before and after, with the paired difference and its effect size. With calibration also the
        headline numbers on parts of the questions, by what the other checkpoint answers; see `_parts`.

    Raises:
        UserError: where the directory does not hold two finished diagnoses.
    """
    folder = options.folder
    (_, before, _), (_, after, _) = (read_run(folder / side) for side in SIDES)
    measured = read_run(folder / "before")[0]["identity"]["instruments"]
    records = [list(read_records(folder / side)) for side in SIDES]
    instruments = {key: row for name in measured for key, row in paired_records(records, name).items()}
    corrected(instruments, options.primary)
    summary = {
        "models": {side: read_run(folder / side)[1]["model"] for side in SIDES},
        "data": after["data"],
        "format": before["format"],
        "answered_by": options.answered_by,
        "comparison": with_old_keys(instruments),
        "primary": options.primary,
        "renamed": {old: new for old, new in renamed().items() if new in instruments},
    }
    if calibration:
        summary["calibration"] = _calibration(calibration, names)
        other = names[SIDES.index(options.order[1])]
        summary |= _parts(options, records, measured, right_by(folder / "calibration", other))
    return summary


def _parts(
    options: Compare,
    records: Sequence[Sequence[Record]],
    instruments: Collection[str],
    right_and_asked: tuple[set[str], set[str]],
) -> Record:
    """The measured questions apart by what the checkpoint answers that they were not chosen by.

    They are questions that one checkpoint answers right, which favours it. "both_right" holds the headline numbers on
    those that the other one answers right as well, "only_first" or "only_second" those on the others, unparsed replies
    among them. The latter is absent where there are none.

    Args:
        options: those of the comparison.
        records: all records of each run, before and after.
        instruments: those that were run.
        right_and_asked: by `right_by`, of the other checkpoint.

    Returns:
        For each part the rows, "_questions", how many there are, and "_unknown", how many more were measured that the
        evaluation did not ask.
    """
    right, asked = right_and_asked
    measured = {record["id"] for record in records[0] if record["measure"] in instruments}
    only = "only_first" if options.answered_by == "before" else "only_second"
    summary: Record = {}
    for part, ids in (("both_right", measured & right), (only, measured & (asked - right))):
        summary |= {f"{part}_unknown": len(measured - asked), f"{part}_questions": len(ids)}
        if ids or part == "both_right":
            rows = {key: row for name in instruments for key, row in paired_records(records, name, ids).items()}
            summary[part] = {key: row for key, row in rows.items() if key in headline_keys()}
            corrected(summary[part], options.primary)
    return summary


def headline_keys() -> set[str]:
    """The keys of the headline numbers."""
    return {
        metric.key for instrument in INSTRUMENTS.values() for metric in instrument.metrics if metric.place == "headline"
    }


def corrected(rows: Record, primary: str) -> None:
    """Adds Holm's correction to the headline numbers other than the primary one, which was named beforehand."""
    others = {key: rows[key]["p"] for key in headline_keys() - {primary} if key in rows and rows[key]["p"] is not None}
    for key, p in holm(others).items():
        rows[key]["p_holm"] = p


def right_by(folder: Path, name: str) -> tuple[set[str], set[str]]:
    """The questions that a checkpoint answers right by itself, by the records of an evaluation.

    Args:
        folder: the evaluation's directory.
        name: what the checkpoint is called there.

    Returns:
        (ids of the questions answered right, ids of all that were asked); an unparsed reply is not right.
    """
    answers = [
        record
        for record in read_records(folder)
        if record["measure"].startswith(f"{name}|") and record["measure"].endswith("|answer")
    ]
    return {answer["id"] for answer in answers if answer["right"]}, {answer["id"] for answer in answers}


def paired_records(records: Sequence[Sequence[Record]], name: str, ids: Collection[str] | None = None) -> Record:
    """An instrument's numbers in both runs, on the questions that both have measured.

    Args:
        records: all records of each run, before and after.
        name: the instrument's name.
        ids: the questions that count; None: all.

    Returns:
        By the number's key in summary.json: "before", "after", their "difference", its "effect_size" (of means) and the
        p-value "p" (of headline numbers; exchanged sides, or McNemar's for shares).
    """
    instrument = INSTRUMENTS[name]
    measured = [
        with_relations(
            (record for record in run if record["measure"] == name),
            (record for record in run if record["measure"] == "answer"),
        )
        for run in records
    ]
    by_id = [{record["id"]: record for record in averaged(side)} for side in measured]
    both = [key for key in by_id[0] if key in by_id[1] and (ids is None or key in ids)]
    floored = all(instrument.has_floor(record) for side in measured for record in side)
    questions = [[side[key] for key in both] for side in by_id]  # the same questions in the same order on both sides
    estimates = [
        instrument.estimates(side, floors_of(run), floored=floored)
        for side, run in zip(questions, records, strict=True)
    ]
    before, after = (instrument.columns(side) for side in questions)
    groups, headline, rows = relations_of(questions[0]), headline_keys(), {}
    for key, (values, statistic, interval, bounds) in before.items():
        if key in after:
            changed = after[key][0]
            change = difference(values, changed, statistic, interval, groups, bounds=bounds)
            size = effect_size(values, changed) if statistic is np.mean and interval is None else None
            rows[key] = _row(estimates[0][key], estimates[1][key], change, size)
            if key in headline:
                shares = interval == "wilson" and statistic is np.mean
                rows[key]["p"] = mcnemar(values, changed) if shares else sign_flips(values, changed, statistic)
    return rows


def _row(before: Estimate, after: Estimate, change: Estimate, size: float | None) -> Record:
    """One number before and after. size: the effect size, of means alone. The floor of the difference is the sum of the
    floors of both sides."""
    sizes = [side.floor for side in (before, after) if side.floor is not None]
    return {
        "before": before.as_record(),
        "after": after.as_record(),
        "difference": replace(change, floor=sum(sizes) if sizes else None).as_record(),
        "effect_size": size,
    }


def _calibration(summary: Record, names: Sequence[str]) -> Record:
    """By data, method and format: each measure of both, and the differences on the questions that both answered.

    summary: the evaluation's; names: what the two checkpoints are called there."""
    before, after = names
    table: Record = {}
    for data, by_method in summary["differences"][f"{after} less {before}"].items():
        for method, by_format in by_method.items():
            for format_name, measures in by_format.items():
                sides = [summary["calibration"][name][data][method][format_name] for name in names]
                table.setdefault(data, {}).setdefault(method, {})[format_name] = {
                    name: _row(of_record(sides[0][name]), of_record(sides[1][name]), of_record(change), None)
                    for name, change in measures.items()
                }
    return table
