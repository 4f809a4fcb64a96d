"""`--dry-run`: estimates what a run will take from the first chunks of each of its parts, which stay on record.

A part is an instrument, the asking for answers, or the updates of a training. Its first chunk includes one-time costs
(a module imported, a kernel chosen). A second chunk therefore gives the rate, unless the first took so long that these
costs do not matter. The module measures time and bytes; it knows nothing of what is measured."""

import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from interp.records import Question, Transcript
from interp.run.shards import Key

Clock = Callable[[], int | float]
LONG, LONG_ENOUGH = 10.0, 1.0
"""Seconds from which on a first chunk of several questions gives the rate by itself; the same for all later chunks."""
FEW, MOST_CHUNKS = 4, 4
"""Questions that a first chunk must hold to give the rate by itself; the most chunks that are measured."""
MEASURED_LENGTHS = 500
"""The most prompts that are rendered to learn how long the questions are."""
ENOUGH_RIGHT, ENOUGH_ASKED = 32, 256
"""Right answers from which the share of right ones is extrapolated; questions after which fewer must suffice."""


@runtime_checkable
class Recording(Protocol):
    """The run that is measured, as far as its time and size depend on it."""

    @property
    def done(self) -> Set[Key]:
        """The keys of the records on disk."""

    @property
    def written(self) -> int:
        """Bytes of records that this process has appended."""


@runtime_checkable
class Rendering(Protocol):
    """The prompter of the questions, as far as their lengths depend on it."""

    @property
    def shared_prefix(self) -> Sequence[int]:
        """The token ids with which all prompts begin."""

    def transcript(self, question: Question, /) -> Transcript:
        """The prompt of a question."""


@dataclass(frozen=True)
class Chunk:
    """One batch of items that was measured at a time."""

    items: int
    """Questions, updates or points of a learning curve."""
    size: int | float
    """The items' tokens below the shared prefix; the number of items where lengths are not known."""
    seconds: int | float
    """How long the chunk took."""
    written: int
    """Bytes of the items' records."""


@dataclass
class Part:
    """One part of a run: what was measured of it, and how much it is in the whole run."""

    name: str
    """What is measured."""
    whole: int | float
    """Items in the whole run."""
    size: int | float = 1.0
    """Mean size of an item of the whole run, in the unit of the chunks' sizes."""
    kept: int = 0
    """Items that were on record before this command."""
    chunks: list[Chunk] = field(default_factory=list)
    """The chunks that this command measured, in order."""
    times: int | float = 1.0
    """How often the whole run repeats the part, as before and after a training."""
    known: set[str] = field(default_factory=set)
    """The ids of the items that were kept or measured."""

    def keep(self, ids: Iterable[str]) -> None:
        """Counts those of the ids as kept that this command has not measured."""
        fresh = set(ids) - self.known
        self.kept += len(fresh)
        self.known |= fresh

    def take(self, chunk: Chunk, ids: Iterable[str]) -> None:
        """Adds a chunk that this command has measured, and its ids."""
        self.chunks.append(chunk)
        self.known |= set(ids)

    @property
    def measured(self) -> int:
        """How many items this command has measured."""
        return sum(chunk.items for chunk in self.chunks)

    @property
    def settled(self) -> bool:
        """Whether enough is measured to separate the rate from one-time costs."""
        if len(self.chunks) < 2:
            return bool(self.chunks) and self.chunks[0].items >= FEW and self.chunks[0].seconds >= LONG
        return len(self.chunks) >= MOST_CHUNKS or sum(chunk.seconds for chunk in self.chunks[1:]) >= LONG_ENOUGH

    @property
    def unknown(self) -> bool:
        """Whether items are left and none was measured, so that no time can be estimated."""
        return not self.chunks and self.kept < self.whole

    @property
    def rate(self) -> int | float:
        """Seconds for one item of mean size, by the later chunks where there are any; 0 where nothing was measured."""
        later = self.chunks[1:] or self.chunks
        size = sum(chunk.size for chunk in later)
        return self.size * sum(chunk.seconds for chunk in later) / size if size else 0.0

    @property
    def once(self) -> int | float:
        """One-time costs: the seconds that the first chunk took beyond the rate of the others."""
        if len(self.chunks) < 2 or not self.size:
            return 0.0
        return max(0.0, self.chunks[0].seconds - self.rate * self.chunks[0].size / self.size)

    @property
    def seconds(self) -> int | float:
        """Seconds for the part in the whole run."""
        return self.times * (self.once + self.rate * self.whole)

    @property
    def left(self) -> int | float:
        """Seconds for the items that are not on record yet."""
        missing = max(0.0, self.whole - self.kept - self.measured)
        repeats = (self.times - 1) * (self.once + self.rate * self.whole)  # nothing of the later rounds is on record
        return repeats + (self.once + self.rate * missing if missing else 0.0)

    @property
    def written(self) -> int | float:
        """Bytes of the part's records in the whole run."""
        measured = self.measured
        return self.times * self.whole * sum(chunk.written for chunk in self.chunks) / measured if measured else 0.0


class DryRun:
    """What a command measures of itself under `--dry-run`: its parts, its start and what it writes."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        """
        Args:
            clock: returns seconds since any fixed moment.
        """
        self.clock, self.began = clock, clock()
        self.parts: dict[str, Part] = {}
        """The parts by name, in the order in which they began."""
        self.disk: dict[str, int | float] = {}
        """Bytes that are written beside the records, by what they are."""
        self.cases: int | float = 0
        """How many questions the whole run will measure, as far as that can be estimated."""
        self.scale: int | float = 1.0
        """Items of the whole run for each item that a part is handed, where only some are known yet."""
        self.times = 1
        """How often the whole run repeats the parts that are measured now."""
        self._sizes: dict[str, int] = {}
        self._within = ""

    def know_lengths(self, prompter: Rendering, questions: Sequence[Question]) -> None:
        """Measures the prompts of these questions: time is extrapolated by tokens, not by questions."""
        shared = len(prompter.shared_prefix)
        lengths = {q.id: len(prompter.transcript(q).ids) - shared for q in questions[:MEASURED_LENGTHS]}
        self._sizes = {identity: max(1, length) for identity, length in lengths.items()}

    @property
    def mean_size(self) -> int | float:
        """Mean number of tokens of a question below the shared prefix; 1 where no lengths are known."""
        return float(np.mean([*self._sizes.values()])) if self._sizes else 1.0

    def part(self, name: str, handed: int | float, whole: int | float | None = None) -> Part | None:
        """The part of this name, with the number of items in the whole run.

        Args:
            name: what is measured.
            handed: how many items are known now.
            whole: how many the whole run has; by default `handed` times `scale`.

        Returns:
            None where `whole` is 0, so that there is nothing to do.
        """
        if whole == 0:
            return None
        part = self.named(name)
        part.whole = handed * self.scale if whole is None else whole
        return part

    def named(self, name: str) -> Part:
        """The part of this name within the present context, made at the first call."""
        name = f"{self._within}{name}"
        return self.parts.setdefault(name, Part(name, 0.0, self.mean_size, times=self.times))

    def foresees(self, right: int, asked: int, at_once: int, *, enough: int, wanted: int, available: int) -> bool:
        """Whether enough was asked to estimate how many questions must be asked until `wanted` are right.

        Sets `cases` and the size of the part "answers" on the way.

        Args:
            right: right answers so far.
            asked: questions asked so far.
            at_once: questions in a chunk.
            enough: how many right answers suffice for the estimate.
            wanted: how many right answers the whole run needs.
            available: how many questions the data has.
        """
        if not right:
            return False
        self.cases = min(wanted, right * available / asked)
        part = self.named("answers")
        # `cases` right answers take cases * asked / right questions, in whole chunks; the data may end before
        part.whole = min(available, max(asked, at_once * math.ceil(self.cases * asked / right / at_once)))
        return right >= wanted or (bool(part.chunks) and (right >= enough or asked >= part.kept + ENOUGH_ASKED))

    def enough(self, run: Recording, wanted: int) -> int:
        """How many of a run's first right questions must be known: more than any measure has on record already."""
        recorded = Counter(measure for measure, *_ in run.done if measure != "answer")
        return min(wanted, ENOUGH_RIGHT + max(recorded.values(), default=0))

    def timer(self, run: Recording) -> Callable[[Sequence[str]], Chunk]:
        """Starts the measurement of a chunk.

        Returns:
            A function to be called at the end, with the ids of the items that were measured; it returns their chunk.
        """
        began, written_before = self.clock(), run.written

        def finish(ids: Sequence[str]) -> Chunk:
            size = sum(self._sizes.get(identity, self.mean_size) for identity in ids)
            return Chunk(len(ids), size, self.clock() - began, run.written - written_before)

        return finish

    @contextmanager
    def within(self, name: str, times: int = 1) -> Iterator[None]:
        """Within this context parts have `name` before their own name, and the whole run repeats them `times` times."""
        outer, self._within = (self._within, self.times), f"{self._within}{name}, " if name else self._within
        self.times *= times
        try:
            yield
        finally:
            self._within, self.times = outer

    def forget(self, *names: str) -> None:
        """Drops parts that are no work, such as those taken over from another run."""
        for name in names:
            self.parts.pop(f"{self._within}{name}", None)

    def repeat(self, name: str, named: str) -> None:
        """Renames a part, if there is one, and doubles how often the whole run repeats it.

        Args:
            name: the part's present name.
            named: its new name.
        """
        self.parts = {named if key == name else key: part for key, part in self.parts.items()}
        if part := self.parts.get(named):
            part.name, part.times = named, 2 * part.times

    @property
    def seconds(self) -> int | float:
        """Seconds for the whole run, its start included."""
        return self.start + sum(part.seconds for part in self.parts.values())

    @property
    def left(self) -> int | float:
        """Seconds for the same command without `--dry-run`, its own start included."""
        return self.start + sum(part.left for part in self.parts.values())

    @property
    def start(self) -> int | float:
        """Seconds so far that belong to no part: imports, loading, checks, prompts."""
        return self.clock() - self.began - sum(chunk.seconds for part in self.parts.values() for chunk in part.chunks)


def peak_memory() -> Mapping[str, int]:
    """The peak memory of the process in bytes: main memory, and GPU memory where a GPU was used."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    peaks = {"main memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        peaks["GPU memory"] = sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
    return peaks
