"""The processes of an `accelerate launch`: all of them train, the first alone measures, records and saves."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

PATIENCE = timedelta(days=2)
"""How long processes wait for the first one, which measures while they do."""


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
        """This is the one that measures, records and saves."""
        return self.index == 0

    def device(self, wanted: str) -> str:
        """The device of this process where `wanted` was asked for: each takes a GPU of its own."""
        import torch

        if self.count == 1 or wanted not in ("auto", "cuda") or not torch.cuda.is_available():
            return wanted
        return f"cuda:{self.local}"

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value averaged over the processes."""
        if self.count == 1:
            return dict(values)
        import torch
        from accelerate import PartialState
        from accelerate.utils import reduce

        told = torch.tensor(list(values.values()), dtype=torch.float64, device=PartialState().device)
        return dict(zip(values, reduce(told, "mean").tolist(), strict=True))


def launched(device: str) -> Processes:
    """The processes that this one was launched with; itself alone where it was not started by a launcher."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    return Processes(state.num_processes, state.process_index, state.local_process_index)
