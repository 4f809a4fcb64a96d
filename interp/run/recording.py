"""Measures items in chunks and records the results: each process its shard, in smaller batches where memory ran out.

The module does not know what is measured; an instrument passes in the function that makes the records."""

import gc
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from interp.errors import UserError, ran_out_of_memory
from interp.run.runs import Record, Run

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")
Measured = Callable[[Sequence[Item]], Iterable[Record]]
"""A function that returns one record for each item, in their order."""
LEAST_BATCH = 64
"""The fewest tokens of a batch: below this a single prompt fills it, and halving it further would change nothing."""


@runtime_checkable
class Batched(Protocol):
    """What reads in batches."""

    batch_tokens: int
    """The most tokens in a batch."""


@runtime_checkable
class BatchedSetting(Protocol):
    """The setting in which the items are measured, as far as its memory depends on it."""

    @property
    def prefix(self) -> Batched:
        """What reads the items' prompts."""


def recorded(
    run: Run,
    key: tuple[str, int],
    items: Mapping[str, Item],
    at_once: int,
    measured: Measured[Item],
    setting: BatchedSetting,
    *,
    bar: "tqdm | None" = None,
    label: str = "",
    whole: int | float | None = None,
) -> None:
    """Measures the items that are not on record yet, and appends their records.

    Args:
        run: the open run.
        key: the measure, and the number of the set of worked examples.
        items: the items by their ids.
        at_once: the most items that `measured` is handed at a time.
        measured: makes the records.
        setting: the setting whose batches are halved where memory runs out.
        bar: a progress bar that the caller moves; without it the first process shows one for these items.
        label: the name of the part in a progress bar and in a dry run's table; by default made of `key`.
        whole: in a dry run, how many items the whole run is expected to have; it then stops as soon as their time can
            be estimated. Without it all items are measured, in a dry run too.

    Raises:
        UserError: where a single item does not fit into memory, or records of other processes do not arrive.
    """
    mine = run.processes.shard(list(items))
    missing = [identity for identity in mine if (*key, identity) not in run.done]
    hidden = bar is not None or not run.processes.first
    part = run.dry.part(label or named(key), len(items), whole) if run.dry else None
    if part:
        part.keep(set(mine) - set(missing))
    with progress(label or key[0], len(mine), len(mine) - len(missing), hidden=hidden) as item_bar:
        while missing and not (part and whole is not None and part.settled):
            chunk = missing[:at_once]
            timer = run.dry.timer(run) if run.dry else None
            records = _within_memory(measured, [items[identity] for identity in chunk])
            if records is None:  # memory ran out: the same items again, fewer at a time
                at_once = max(1, len(chunk) // 2)
                _smaller_batches(setting, chunk)
                continue
            for identity, record in zip(chunk, records, strict=True):
                run.append({"measure": key[0], "set": key[1], "id": identity, **record})
            if part and timer:
                part.take(timer(chunk), chunk)
            item_bar.update(len(chunk))
            missing = missing[len(chunk) :]
    run.gather(*key, list(items))
    if run.dry is None and (lost := [identity for identity in items if (*key, identity) not in run.done]):
        raise UserError(f"--out {run.folder}: {len(lost)} records of other processes do not arrive; do all see it?")


def made_once(run: Run, label: str, make: Callable[[], Item]) -> Item:
    """What all items need, made before the first of them; in a dry run a part of its own, and no part of theirs.

    Args:
        run: the open run.
        label: what is made.
        make: makes it.
    """
    part, timer = (run.dry.part(label, 1, 1), run.dry.timer(run)) if run.dry else (None, None)
    made = make()
    if part and timer:
        part.take(replace(timer(()), items=1, size=part.size), [label])
    return made


def named(key: tuple[str, int]) -> str:
    """The name of a measure and set in a dry run's table."""
    measure = key[0].replace("|", ", ")
    return f"{measure}, set {key[1] + 1}" if key[1] else measure


def _within_memory(measured: Measured[Item], items: Sequence[Item]) -> list[Record] | None:
    """The items' records; None where memory ran out."""
    try:
        return list(measured(items))
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
    return None


def _smaller_batches(setting: BatchedSetting, chunk: Sequence[str]) -> None:
    """Halves the setting's batches.

    Raises:
        UserError: where a single item in the smallest batches does not fit.
    """
    gc.collect()  # the failed attempt's tensors must be gone before the next one
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(chunk) == 1 and setting.prefix.batch_tokens <= LEAST_BATCH:
        raise UserError(
            f"question {chunk[0]!r} alone does not fit into memory; take fewer --shots, a smaller --dtype, or another "
            "device; what was measured so far is kept"
        )
    setting.prefix.batch_tokens = max(LEAST_BATCH, setting.prefix.batch_tokens // 2)
    print(f"memory ran out: batches of {setting.prefix.batch_tokens} tokens from here on", file=sys.stderr)


def progress(label: str, total: int, done: int = 0, *, hidden: bool = False) -> "tqdm":
    """A progress bar with an estimate of the time left, on the terminal's error stream."""
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=f"{label:14}", unit="q", dynamic_ncols=True, disable=hidden)
