"""The processes of an `accelerate launch`: each measures its shard, all train, the first alone merges and saves.

The module knows how many processes there are and how they wait for each other, not what they measure."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from interp.errors import UserError, ran_out_of_memory

T = TypeVar("T")

PATIENCE = timedelta(days=2)
"""How long processes wait for a slower one."""


@contextmanager
def _connected() -> Iterator[None]:
    """Turns torch's RuntimeError for a broken connection to another process into a UserError of one sentence."""
    try:
        yield
    except RuntimeError as error:
        if ran_out_of_memory(error):
            raise
        raise UserError("another process of this run is gone; the same command finishes what is left") from None


@dataclass(frozen=True)
class Processes:
    """The place of this process among those that were launched together."""

    count: int = 1
    """How many processes there are, over all machines."""
    index: int = 0
    """The number of this process, from 0."""
    local: int = 0
    """Its number on its machine, and so the number of its GPU."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that merges records, writes summaries and saves."""
        return self.index == 0

    def device(self, wanted: str) -> str:
        """The device of this process where the user asked for `wanted`: each process takes a GPU of its own."""
        import torch

        if self.count == 1 or wanted not in ("auto", "cuda") or not torch.cuda.is_available():
            return wanted
        return f"cuda:{self.local}"

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """Every `count`-th item, starting at number `index`: all shards together are the items, each once."""
        return items[self.index :: self.count]

    def wait(self) -> None:
        """Returns when all processes have reached this call.

        Raises:
            UserError: where one of them is gone.
        """
        if self.count > 1:
            from accelerate import PartialState

            with _connected():
                PartialState().wait_for_everyone()

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value averaged over the processes, all of which must call this with the same keys.

        Raises:
            UserError: where one of them is gone.
        """
        if self.count == 1:
            return dict(values)
        import torch
        from accelerate import PartialState
        from accelerate.utils import reduce

        local_values = torch.tensor(list(values.values()), dtype=torch.float64, device=PartialState().device)
        with _connected():
            return dict(zip(values, reduce(local_values, "mean").tolist(), strict=True))


def launched(device: str) -> Processes:
    """The processes with which this one was launched; itself alone where no launcher started it.

    Args:
        device: the device that the user asked for.

    Raises:
        UserError: where the processes do not find each other: each would take itself for the only one.
    """
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) == 1:
        return Processes()
    import torch
    from accelerate import PartialState

    # accelerate must be told that the processes are on a CPU, also where auto finds no GPU
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
    if state.num_processes != count:
        raise UserError(f"{count} processes were launched and do not find each other; measure in one")
    return Processes(state.num_processes, state.process_index, state.local_process_index)
