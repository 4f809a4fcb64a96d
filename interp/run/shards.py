"""Records that several processes write at once, each to a file of its own, until the first merges them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from interp.errors import UserError
from interp.plain import plain_json

Key = tuple[str, int, str]
KEY = ("measure", "set", "id")
"""The fields that tell a record from all others of its run."""
Place = tuple[Path, int, int]
"""A file, and from which byte to which a record stands in it."""


def shard_of(folder: Path, index: int) -> Path:
    """The records file of one process."""
    return folder / f"records.{index}.jsonl"


def left_shards(folder: Path) -> list[Path]:
    """The records files of processes that are at work, or that died at it."""
    return sorted(folder.glob("records.[0-9]*.jsonl"))


class Shards:
    """What stands in the processes' files and not yet in records.jsonl."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.places: dict[Key, Place] = {}
        """Where each record stands."""

    def look(self) -> None:
        """Takes in what was written since the last look."""
        for path in left_shards(self._folder):
            start = self._read.get(path, 0)
            for record, stop in whole_lines(path, start):
                self.places[key_of(record)] = path, start, stop
                self._read[path] = start = stop

    def taken(self, keys: Iterable[Key]) -> Iterator[bytes]:
        """The lines of those records that are here, in the order of the keys; they are forgotten."""
        for key in keys:
            if key in self.places:
                path, start, stop = self.places.pop(key)
                with path.open("rb") as stream:
                    stream.seek(start)
                    yield stream.read(stop - start)


def whole_lines(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """(record, the byte after its line) for every whole line from byte `start` on; none where there is no file.

    Errors: UserError naming the line, where it is not a record."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        stream.seek(start)
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            start += len(line)
            try:
                record = _with_key(plain_json(line))
            except ValueError:
                raise UserError(f"{path}, line {number}: not a record of a run") from None
            yield record, start


def _with_key(record: object) -> dict[str, Any]:
    if isinstance(record, dict) and tuple(type(record.get(name)) for name in KEY) == (str, int, str):
        return record
    raise ValueError("not a record of a run")


def key_of(record: dict[str, Any]) -> Key:
    """The fields that tell a record from all others of its run."""
    measure, number, identity = (record[name] for name in KEY)
    return measure, number, identity


def whole_bytes(path: Path) -> int:
    """How many bytes of a file are whole lines."""
    if not path.exists():
        return 0
    with path.open("rb") as stream:
        end = stream.seek(0, 2)
        while end:
            start = max(0, end - 65536)
            stream.seek(start)
            found = stream.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
