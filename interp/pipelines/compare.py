"""What a training changed, question by question, with all instruments."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from interp.instruments.floor import floors_of, with_floors
from interp.intervals import Estimate, difference, effect_size, estimated_columns
from interp.models.checkpoints import EXAMPLE_NAME
from interp.models.embedded import EMBEDDED_NAME
from interp.options import CommonOptions, Positional, at_least
from interp.pipelines.diagnose import (
    FLOOR_PARTS,
    Diagnose,
    InstrumentName,
    averaged,
    columns_of,
    diagnosed,
    refuse_unfit,
)
from interp.pipelines.evaluate import Evaluate, evaluated, short_names
from interp.run.dryrun import DryRun, dry_run_of
from interp.run.processes import launched
from interp.run.runs import Record, Run, read_records, read_run

INSTRUMENTS: tuple[InstrumentName, ...] = ("jsd", "rollout", "masking", "attribution")
SideName = Literal["before", "after"]
SIDES: tuple[SideName, SideName] = ("before", "after")


@dataclass(frozen=True, kw_only=True)
class Compare(Diagnose):
    """Compare two checkpoints."""

    before: Annotated[Positional[str], tyro.conf.arg(metavar="BEFORE")] = EMBEDDED_NAME
    """The checkpoint before training; its questions and answers are put to both."""
    after: Annotated[Positional[str], tyro.conf.arg(metavar="AFTER")] = EXAMPLE_NAME
    """The checkpoint after it; an adapter on the same base shares the base's memory."""
    ckpt: tyro.conf.Suppress[str] = EMBEDDED_NAME
    cases: tyro.conf.Suppress[Path | None] = None
    data: str = "facts:test"
    """facts[:train|test|unseen], triviaqa, mmlu, logiqa, sciq, or a JSONL file; training must not have seen it."""
    n_calibration: int = 200
    """How many questions of the data calibration is measured on, each checkpoint with its own answers; 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, "n_calibration", self.n_calibration)

    @property
    def folder(self) -> Path:
        """The directory of the comparison, which holds those of its runs."""
        return self.out or Path("results/compare")

    def side(self, name: SideName) -> Diagnose:
        """The diagnosis of one of the two."""
        shared = {one.name: getattr(self, one.name) for one in fields(Diagnose)}
        cases = None if name == "before" else self.folder / "before"
        return Diagnose(**shared | {"ckpt": getattr(self, name), "cases": cases, "out": self.folder / name})

    @property
    def calibration(self) -> Evaluate:
        """The evaluation of both."""
        shared = {name: getattr(self, name) for name in SHARED}
        return Evaluate(
            **shared,
            ckpt=(self.before, self.after),
            data=(self.data,),
            formats=(self.format,),
            methods=("default", "question-only"),
            n=self.n_calibration,
            out=self.folder / "calibration",
        )


SHARED = {one.name for one in fields(CommonOptions)} - {"ckpt", "data", "out"} | {"free"}
"""Options that a comparison hands on to its evaluation."""


def diagnosed_before(options: Compare) -> None:
    """Measures what can be measured before there is an adapter; `compared` takes it up."""
    diagnosed(options.side("before"), INSTRUMENTS, "compare")


def foreseen(options: Compare, dry: DryRun) -> None:
    """What a dry run can measure of a comparison whose second checkpoint is still to be trained.

    It takes over answers and wrong answers of the first; all else is taken to be as it is there."""
    with dry.within("before"):
        diagnosed(options.side("before"), INSTRUMENTS, "compare", dry=dry)
    for name in (*INSTRUMENTS, *FLOOR_PARTS.values()):
        dry.repeat(f"before, {name}", f"before and after, {name}")
    if options.n_calibration:
        evaluated(options.calibration, dry, to_come=(options.after,))


def compared(options: Compare, dry: DryRun | None = None) -> Path:
    """Measures both checkpoints, or what an earlier run has left, and returns the comparison's directory."""
    dry = dry or dry_run_of(options)
    names = list(short_names("ckpt", (options.before, options.after)))
    from interp.models.checkpoints import each_checkpoint, loaded_checkpoint, source_of

    bases = [
        source_of(ckpt, remote_code=options.trust_remote_code).base_name for ckpt in (options.before, options.after)
    ]
    if bases[0] != bases[1]:  # on one base the first diagnosis says for both what cannot be measured
        refuse_unfit(loaded_checkpoint(options.after, options.loading), options.instruments_of(INSTRUMENTS))
    with Run(options.folder, options.identity | {"cases": None}, launched(options.device), dry) as run:
        loaded = each_checkpoint([options.before, options.after], options.loading)
        for name in SIDES:
            with dry.within(name) if dry else nullcontext():
                diagnosed(options.side(name), INSTRUMENTS, "compare", next(loaded), dry)
        del loaded
        calibrated = evaluated(options.calibration, dry) if options.n_calibration else None
        if dry is None:
            calibration = read_run(calibrated)[1] if calibrated else None
            run.write_summary(comparison(options.folder, names, calibration))
    return options.folder


def comparison(folder: Path, names: Sequence[str], calibration: Record | None) -> Record:
    """Every number before and after, with the paired difference and its effect size.

    names: what the two are called in the evaluation's summary."""
    (_, before, _), (_, after, _) = (read_run(folder / side) for side in SIDES)
    measured = read_run(folder / "before")[0]["identity"]["instruments"]
    instruments = {key: value for name in measured for key, value in paired(folder, name).items()}
    summary = {
        "models": {side: read_run(folder / side)[1]["model"] for side in SIDES},
        "data": after["data"],
        "format": before["format"],
        "comparison": instruments,
    }
    if calibration:
        summary["calibration"] = _calibration(calibration, names)
    return summary


def paired(folder: Path, instrument: str) -> Record:
    """An instrument's numbers of both runs by their key in summary.json, on the questions that both have measured."""
    return paired_records([list(read_records(folder / side)) for side in SIDES], instrument)


def paired_records(records: Sequence[Sequence[Record]], instrument: str) -> Record:
    """The same from the records of both runs, before and after."""
    sides = [{r["id"]: r for r in averaged([r for r in own if r["measure"] == instrument])} for own in records]
    both = [key for key in sides[0] if key in sides[1]]
    before, after = (columns_of(instrument, [side[key] for key in both]) for side in sides)
    score = next((r["score"] for own in records for r in own if r["measure"] == "attribution"), "expected")
    found = [
        with_floors(estimated_columns(columns), floors_of(own), score=score)
        for columns, own in zip((before, after), records, strict=True)
    ]
    changes = {
        key: difference(values, after[key][0], statistic) for key, (values, statistic) in before.items() if key in after
    }
    return {key: _row(found[0][key], found[1][key], change) for key, change in changes.items()}


def _row(before: Estimate, after: Estimate, change: Estimate) -> Record:
    """A difference can be off by as much as both of its sides together."""
    sizes = [side.floor for side in (before, after) if side.floor is not None]
    return {
        "before": before.as_record(),
        "after": after.as_record(),
        "difference": replace(change, floor=sum(sizes) if sizes else None).as_record(),
        "effect_size": effect_size(change),
    }


def _calibration(summary: Record, names: Sequence[str]) -> Record:
    """By data, method and format: each measure of both, and the differences on the questions that both answered."""
    before, after = names
    found: Record = {}
    for data, by_method in summary["differences"][f"{after} less {before}"].items():
        for method, by_format in by_method.items():
            for form, measures in by_format.items():
                sides = [summary["calibration"][name][data][method][form] for name in names]
                found.setdefault(data, {}).setdefault(method, {})[form] = {
                    name: _row(*(Estimate(**one) for one in (sides[0][name], sides[1][name], change)))
                    for name, change in measures.items()
                }
    return found
