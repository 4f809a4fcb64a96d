"""Every instrument, by its name: the package's four, then those of other packages.

Commands and pipelines find instruments here alone; no other module lists them."""

from collections.abc import Iterable, Sequence

from interp.instruments.attribution import ATTRIBUTION
from interp.instruments.base import GROUP, Instrument, Repeated, estimates
from interp.instruments.jsd import JSD
from interp.instruments.masking import MASKING
from interp.instruments.rollout import ROLLOUT
from interp.intervals import Estimate
from interp.registry import Registry
from interp.run.runs import Record

INSTRUMENTS = Registry(GROUP, Instrument, lambda: (JSD, ROLLOUT, MASKING, ATTRIBUTION))


def repeated_by(names: Iterable[str]) -> list[Repeated]:
    """The readings that are repeated for the floors of these instruments, each of them once."""
    by_name = {repeated.name: repeated for name in names if (repeated := INSTRUMENTS[name].repeated)}
    return list(by_name.values())


def floors_of(records: Sequence[Record]) -> dict[str, Estimate]:
    """The numerical floors by their keys in summary.json.

    records: all records of a run, of any measure; without repeated readings among them the result is empty."""
    floors: dict[str, Estimate] = {}
    for repeated in repeated_by(INSTRUMENTS):
        if differences := [record for record in records if record["measure"] == repeated.name]:
            floors |= estimates(repeated.metrics, differences)
    return floors
