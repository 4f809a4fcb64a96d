"""Every instrument, by its name: the package's four, then those of other packages."""

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
    """The readings that are repeated for the floors of these instruments, each once."""
    found = {one.name: one for name in names if (one := INSTRUMENTS[name].repeated)}
    return list(found.values())


def floors_of(records: Sequence[Record]) -> dict[str, Estimate]:
    """The numerical floors by their key in summary.json, from any records of a run; none where it has measured none."""
    found: dict[str, Estimate] = {}
    for one in repeated_by(INSTRUMENTS):
        if ours := [record for record in records if record["measure"] == one.name]:
            found |= estimates(one.metrics, ours)
    return found
