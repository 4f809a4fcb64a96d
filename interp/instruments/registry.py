"""Every instrument, by its name: the package's four, then those of other packages.

Commands and pipelines find instruments here alone; no other module lists them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from interp.instruments.attribution import ATTRIBUTION
from interp.instruments.base import GROUP, Instrument, Repeated, estimates
from interp.instruments.flow import FLOW
from interp.instruments.jsd import JSD
from interp.instruments.masking import MASKING
from interp.instruments.probe import PROBE
from interp.instruments.rollout import ROLLOUT
from interp.instruments.steering import STEERING
from interp.intervals import Estimate
from interp.registry import Registry
from interp.run.runs import Record

INSTRUMENTS = Registry(GROUP, Instrument, lambda: (JSD, ROLLOUT, MASKING, ATTRIBUTION, FLOW, PROBE, STEERING))


def by_default() -> list[str]:
    """The instruments that run where none is named."""
    return [name for name, instrument in INSTRUMENTS.items() if not instrument.on_request]


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


T = TypeVar("T")


def renamed() -> dict[str, str]:
    """The keys of version 0.1 that are called otherwise now, by the old one."""
    return {
        metric.old: metric.key for instrument in INSTRUMENTS.values() for metric in instrument.metrics if metric.old
    }


def with_old_keys(numbers: Mapping[str, T]) -> dict[str, T]:
    """The numbers by their keys, and by those of version 0.1 as well."""
    return {**numbers, **{old: numbers[new] for old, new in renamed().items() if new in numbers}}


def by_new_keys(numbers: Mapping[str, T]) -> dict[str, T]:
    """The numbers of a run of any version by their keys of now."""
    names = renamed()
    return {names.get(key, key): number for key, number in numbers.items()}
