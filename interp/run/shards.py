"""Shards: records that several processes write at once, each to a file of its own, until the first process merges them.

    records.jsonl      merged, in the questions' order
    records.0.jsonl    what process 0 has measured, in the order of measuring
    records.1.jsonl    likewise of process 1

The module reads lines and their keys; it knows nothing of what a record holds besides."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from interp.errors import UserError
from interp.plain import plain_json

Key = tuple[str, int, str]
KEY = ("measure", "set", "id")
"""The fields that identify a record within its run."""
Place = tuple[Path, int, int]
"""Where a record stands: the file, the first byte of its line, and the byte after it."""


def shard_of(folder: Path, index: int) -> Path:
    """The records file of one process."""
    return folder / f"records.{index}.jsonl"


def left_shards(folder: Path) -> list[Path]:
    """The records files of processes that are at work, or that died before their records were merged."""
    return sorted(folder.glob("records.[0-9]*.jsonl"))


class Shards:
    """The records that stand in the processes' files, but not yet in records.jsonl."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}  # how many bytes of each file were read
        self.places: dict[Key, Place] = {}
        """Where each record stands."""

    def look(self) -> None:
        """Reads the records that were written since the last look."""
        for path in left_shards(self._folder):
            start = self._read.get(path, 0)
            for record, stop in whole_lines(path, start):
                self.places[key_of(record)] = path, start, stop
                self._read[path] = start = stop

    def taken(self, keys: Iterable[Key]) -> Iterator[bytes]:
        """The lines of those records that the shards hold, in the order of the keys; their places are forgotten."""
        for key in keys:
            if key in self.places:
                path, start, stop = self.places.pop(key)
                with path.open("rb") as stream:
                    stream.seek(start)
                    yield stream.read(stop - start)


def whole_lines(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Reads a records file.

    Args:
        path: the file; where it does not exist there are no lines.
        start: the byte to start at, which must be the beginning of a line.

    Yields:
        (record, the byte after its line) for every line that ends in a newline; a torn last line is left out.

    Raises:
        UserError: naming the line (counted from `start`) that is not a record.
    """
    if not path.exists():
        return
    with path.open("rb") as stream:
        stream.seek(start)
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):  # still being written, or torn by a crash
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
    """The record's measure, set and id, which identify it within its run."""
    measure, number, identity = (record[name] for name in KEY)
    return measure, number, identity


def whole_bytes(path: Path) -> int:
    """How many bytes of a file are whole lines; it is read in blocks from its end."""
    if not path.exists():
        return 0
    with path.open("rb") as stream:
        end = stream.seek(0, 2)
        while end:
            start = max(0, end - 65536)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
