"""The processes of an `accelerate launch`: each measures its share, all train, the first alone merges and saves."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from interp.errors import UserError, ran_out_of_memory

T = TypeVar("T")

PATIENCE = timedelta(days=2)
"""How long processes wait for one that is slower."""


@contextmanager
def _connected() -> Iterator[None]:
    """Says in one sentence that a connection to another process broke, of which torch says RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        if ran_out_of_memory(error):
            raise
        raise UserError("another process of this run is gone; the same command finishes what is left") from None


@dataclass(frozen=True)
class Processes:
    """What this process is among those that were launched together."""

    count: int = 1
    """How many there are, over all machines."""
    index: int = 0
    """Which of them this is."""
    local: int = 0
    """Which it is on its machine, and so its GPU."""

    @property
    def first(self) -> bool:
        """This is the one that merges records, writes summaries and saves."""
        return self.index == 0

    def device(self, wanted: str) -> str:
        """The device of this process where `wanted` was asked for: each takes a GPU of its own."""
        import torch

        if self.count == 1 or wanted not in ("auto", "cuda") or not torch.cuda.is_available():
            return wanted
        return f"cuda:{self.local}"

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """Every count-th of the items, from this process's own on: all shares together are the items, each once."""
        return items[self.index :: self.count]

    def wait(self) -> None:
        """Returns when all processes have come here. Errors: UserError where one of them is gone."""
        if self.count > 1:
            from accelerate import PartialState

            with _connected():
                PartialState().wait_for_everyone()

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value averaged over the processes."""
        if self.count == 1:
            return dict(values)
        import torch
        from accelerate import PartialState
        from accelerate.utils import reduce

        told = torch.tensor(list(values.values()), dtype=torch.float64, device=PartialState().device)
        with _connected():
            return dict(zip(values, reduce(told, "mean").tolist(), strict=True))


def launched(device: str) -> Processes:
    """The processes that this one was launched with; itself alone where it was not started by a launcher.

    Errors: UserError where they do not find each other: each would take itself for the only one."""
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) == 1:
        return Processes()
    import torch
    from accelerate import PartialState

    # accelerate must be told that the processes are on a CPU, also where auto finds no GPU
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
    if state.num_processes != count:
        raise UserError(f"{count} processes were launched and do not find each other; measure in one")
    return Processes(state.num_processes, state.process_index, state.local_process_index)
