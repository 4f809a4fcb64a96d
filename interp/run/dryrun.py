"""`--dry-run`: what a run will take, from the first chunk of each of its parts, which stays on record.

A part is an instrument, an asking, or the updates of a training. Its first chunk holds what happens only once (a module
imported, a kernel chosen), so that a second one gives the rate, but where the first took long enough to outweigh it."""

import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from interp.models.prompts import Prompter
    from interp.records import Question
    from interp.run.runs import Run

Clock = Callable[[], int | float]
LONG, LONG_ENOUGH = 10.0, 1.0
"""Seconds after which a first chunk of several questions gives the rate, and after which later ones do."""
FEW, MOST_CHUNKS = 4, 4
"""Questions that a first chunk must hold to give the rate by itself; chunks that are measured at most."""
MEASURED_LENGTHS = 500
"""Prompts that are rendered at most to know how long the questions are."""
ENOUGH_RIGHT, ENOUGH_ASKED = 32, 256
"""Right answers that tell how many of the others will be right; questions after which fewer right answers have to."""


@dataclass(frozen=True)
class Chunk:
    """What was measured at one go."""

    items: int
    """Questions, updates or points of a learning curve."""
    size: int | float
    """Their tokens beside what all prompts share; their number where lengths are not known."""
    seconds: int | float
    """How long it took."""
    written: int
    """Bytes of their records."""


@dataclass
class Part:
    """One part of a run: what was measured of it, and how much there is."""

    name: str
    """What is measured."""
    whole: int | float
    """Items in the whole run."""
    size: int | float = 1.0
    """Mean size of an item of the whole run, in the unit of the chunks' sizes."""
    kept: int = 0
    """Items that were on record before."""
    chunks: list[Chunk] = field(default_factory=list)
    """What was measured now, in this order."""
    times: int | float = 1.0
    """How often the run has such a part: once more after a training, say."""
    known: set[str] = field(default_factory=set)
    """The ids of what was kept or measured."""

    def keep(self, ids: Iterable[str]) -> None:
        """Those are on record, and were before where they were not measured now."""
        fresh = set(ids) - self.known
        self.kept += len(fresh)
        self.known |= fresh

    def take(self, chunk: Chunk, ids: Iterable[str]) -> None:
        """A chunk that was measured now, of these ids."""
        self.chunks.append(chunk)
        self.known |= set(ids)

    @property
    def measured(self) -> int:
        """Items that were measured now."""
        return sum(chunk.items for chunk in self.chunks)

    @property
    def settled(self) -> bool:
        """Enough is measured to tell the rate from what happens only once."""
        if len(self.chunks) < 2:
            return bool(self.chunks) and self.chunks[0].items >= FEW and self.chunks[0].seconds >= LONG
        return len(self.chunks) >= MOST_CHUNKS or sum(chunk.seconds for chunk in self.chunks[1:]) >= LONG_ENOUGH

    @property
    def unknown(self) -> bool:
        """Something is left of it and nothing was measured."""
        return not self.chunks and self.kept < self.whole

    @property
    def rate(self) -> int | float:
        """Seconds for one item of mean size; 0 where nothing was measured."""
        later = self.chunks[1:] or self.chunks
        size = sum(chunk.size for chunk in later)
        return self.size * sum(chunk.seconds for chunk in later) / size if size else 0.0

    @property
    def once(self) -> int | float:
        """Seconds that the first chunk took beyond its rate."""
        if len(self.chunks) < 2 or not self.size:
            return 0.0
        return max(0.0, self.chunks[0].seconds - self.rate * self.chunks[0].size / self.size)

    @property
    def seconds(self) -> int | float:
        """For the whole."""
        return self.times * (self.once + self.rate * self.whole)

    @property
    def left(self) -> int | float:
        """Seconds for what is not on record now."""
        missing = max(0.0, self.whole - self.kept - self.measured)
        again = (self.times - 1) * (self.once + self.rate * self.whole)
        return again + (self.once + self.rate * missing if missing else 0.0)

    @property
    def written(self) -> int | float:
        """Bytes of the records of the whole."""
        measured = self.measured
        return self.times * self.whole * sum(chunk.written for chunk in self.chunks) / measured if measured else 0.0


class DryRun:
    """What a command has measured of itself under `--dry-run`: its parts, its start, memory and disk."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        """clock: seconds from any moment on."""
        self.clock, self.began = clock, clock()
        self.parts: dict[str, Part] = {}
        """By name, in the order in which they were met."""
        self.disk: dict[str, int | float] = {}
        """Bytes of what is written beside the records, by what it is."""
        self.cases: int | float = 0
        """How many questions the whole run will measure, as far as that is foreseen."""
        self.scale: int | float = 1.0
        """Items of the whole run for each one that is handed over here, where only some are known yet."""
        self.times = 1
        """How often the whole run does what is measured now."""
        self._sizes: dict[str, int] = {}
        self._within = ""

    def know_lengths(self, prompter: "Prompter", questions: "Sequence[Question]") -> None:
        """Measures the prompts of these questions: time is extrapolated by tokens, not by questions."""
        shared = len(prompter.shared_prefix)
        found = {q.id: len(prompter.transcript(q).ids) - shared for q in questions[:MEASURED_LENGTHS]}
        self._sizes = {identity: max(1, size) for identity, size in found.items()}

    @property
    def mean_size(self) -> int | float:
        """Tokens of a question in the mean, beside what all prompts share; 1 where no lengths are known."""
        return float(np.mean([*self._sizes.values()])) if self._sizes else 1.0

    def part(self, name: str, handed: int | float, whole: int | float | None = None) -> Part | None:
        """The part of this name with its size; None where `whole` is 0, for what is no work.

        handed: items that are known here; whole: those of the whole run, where that is not `handed` times `scale`."""
        if whole == 0:
            return None
        part = self.named(name)
        part.whole = handed * self.scale if whole is None else whole
        return part

    def named(self, name: str) -> Part:
        """The part of this name, made where it is new."""
        name = f"{self._within}{name}"
        return self.parts.setdefault(name, Part(name, 0.0, self.mean_size, times=self.times))

    def foresees(self, right: int, asked: int, at_once: int, *, enough: int, wanted: int, there: int) -> bool:
        """Whether enough was asked to foresee how many questions have to be asked until `wanted` are right.

        right, asked: so far, `at_once` at a time; enough: right ones that tell; there: questions in the data."""
        if not right:
            return False
        self.cases = min(wanted, right * there / asked)
        part = self.named("answers")
        part.whole = min(there, max(asked, at_once * math.ceil(self.cases * asked / right / at_once)))
        return right >= wanted or (bool(part.chunks) and (right >= enough or asked >= part.kept + ENOUGH_ASKED))

    def enough(self, run: "Run", wanted: int) -> int:
        """How many of the first right questions of a run have to be known: more than were measured before."""
        before = Counter(measure for measure, *_ in run.done if measure != "answer")
        return min(wanted, ENOUGH_RIGHT + max(before.values(), default=0))

    def timer(self, run: "Run") -> "Callable[[Sequence[str]], Chunk]":
        """Begins to measure; what it gives is called with the ids of what was measured, at the end."""
        began, before = self.clock(), run.written

        def ended(ids: Sequence[str]) -> Chunk:
            size = sum(self._sizes.get(identity, self.mean_size) for identity in ids)
            return Chunk(len(ids), size, self.clock() - began, run.written - before)

        return ended

    @contextmanager
    def within(self, name: str, times: int = 1) -> Iterator[None]:
        """Parts that are met here bear this name before their own, and happen so often in the whole run."""
        before, self._within = (self._within, self.times), f"{self._within}{name}, " if name else self._within
        self.times *= times
        try:
            yield
        finally:
            self._within, self.times = before

    def forget(self, *names: str) -> None:
        """Those parts are no work, as what was taken over from another run."""
        for name in names:
            self.parts.pop(f"{self._within}{name}", None)

    def repeat(self, name: str, named: str, times: int = 2) -> None:
        """The part of this name, if there is one, happens so often in the whole run, and is called so."""
        self.parts = {named if key == name else key: part for key, part in self.parts.items()}
        if part := self.parts.get(named):
            part.name, part.times = named, part.times * times

    @property
    def seconds(self) -> int | float:
        """For the whole run, its start included."""
        return self.start + sum(part.seconds for part in self.parts.values())

    @property
    def left(self) -> int | float:
        """Seconds for the same command without `--dry-run`, which starts once more."""
        return self.start + sum(part.left for part in self.parts.values())

    @property
    def start(self) -> int | float:
        """Seconds so far that went into no part: imports, loading, checks, prompts."""
        return self.clock() - self.began - sum(chunk.seconds for part in self.parts.values() for chunk in part.chunks)


def peak_memory() -> Mapping[str, int]:
    """Bytes held at a time at most since the process began: in main memory, and on the GPU where one was used."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"main memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        found["GPU memory"] = sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
    return found
