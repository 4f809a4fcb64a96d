"""How a measurement gets on record: in chunks, each process its share, in smaller batches where memory ran out."""

import gc
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from interp.errors import UserError, ran_out_of_memory
from interp.run.runs import Record, Run

if TYPE_CHECKING:
    from tqdm import tqdm

    from interp.models.setting import Setting

Item = TypeVar("Item")
Measured = Callable[[Sequence[Item]], Iterable[Record]]
"""Gives one record for each item that it is handed."""
LEAST_BATCH = 64
"""Tokens of a batch below which one prompt alone fills it, so that halving it further would change nothing."""


def recorded(
    run: Run,
    key: tuple[str, int],
    items: Mapping[str, Item],
    at_once: int,
    measured: Measured[Item],
    setting: "Setting",
    *,
    bar: "tqdm | None" = None,
    label: str = "",
    whole: int | float | None = None,
) -> None:
    """Measures the items, given by their ids, that are not on record under this measure and set.

    at_once: how many are handed over at a time, at most. bar: moved by the caller. whole: how many items a dry run,
    which measures no more of them than tell the time for all, foresees; without it those that are handed over, all of
    which are measured.
    Errors: UserError where a single item does not fit into memory."""
    mine = run.processes.shard(list(items))
    missing = [identity for identity in mine if (*key, identity) not in run.done]
    hidden = bar is not None or not run.processes.first
    part = run.dry.part(label or named(key), len(items), whole) if run.dry else None
    if part:
        part.keep(set(mine) - set(missing))
    with progress(label or key[0], len(mine), len(mine) - len(missing), hidden=hidden) as own:
        while missing and not (part and whole is not None and part.settled):
            chunk = missing[:at_once]
            timer = run.dry.timer(run) if run.dry else None
            found = _within_memory(measured, [items[identity] for identity in chunk])
            if found is None:
                at_once = max(1, len(chunk) // 2)
                _smaller_batches(setting, chunk)
                continue
            for identity, record in zip(chunk, found, strict=True):
                run.append({"measure": key[0], "set": key[1], "id": identity, **record})
            if part and timer:
                part.take(timer(chunk), chunk)
            own.update(len(chunk))
            missing = missing[len(chunk) :]
    run.gather(*key, list(items))
    if run.dry is None and (lost := [identity for identity in items if (*key, identity) not in run.done]):
        raise UserError(f"--out {run.folder}: {len(lost)} records of other processes do not arrive; do all see it?")


def named(key: tuple[str, int]) -> str:
    """What a measure and set are called in a dry run's table."""
    measure = key[0].replace("|", ", ")
    return f"{measure}, examples {key[1] + 1}" if key[1] else measure


def _within_memory(measured: Measured[Item], items: Sequence[Item]) -> list[Record] | None:
    """The items' records; None where memory ran out."""
    try:
        return list(measured(items))
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
    return None


def _smaller_batches(setting: "Setting", chunk: Sequence[str]) -> None:
    """Halves the setting's batches. Errors: UserError where there is nothing left to halve."""
    gc.collect()
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
