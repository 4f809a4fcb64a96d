"""A run's directory: configuration, records appended as they come, resume, summary."""

import fcntl
import io
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from interp.errors import UserError
from interp.plain import plain_json
from interp.run.processes import Processes
from interp.run.shards import Key, Shards, key_of, left_shards, shard_of, whole_bytes, whole_lines
from interp.version import VERSION

if TYPE_CHECKING:
    from interp.run.dryrun import DryRun

Record = dict[str, Any]
"""One line of records.jsonl: plain JSON, the boundary beyond which no model is needed."""

RunKind = Literal["diagnose", "evaluate", "compare", "training", "ablation", "triplets"]
_NUMBERS: dict[str, RunKind] = {
    "training": "training",
    "ablation": "ablation",
    "comparison": "compare",
    "calibration": "evaluate",
    "triplets": "triplets",
    "model": "diagnose",
}
"""What only the summary of such a run holds, by which runs of version 0.1 are told apart."""
RECORDS = "records.jsonl"
PACKAGES = ("torch", "transformers", "transformer-lens", "captum", "peft", "numpy")


class Run:
    """An open run. Use as a context manager: while it is open no other command may write to its directory.

    Of several processes each writes what it measured to a file of its own; `gather` merges them. So does a run that
    finds such files, left by processes that died."""

    def __init__(
        self,
        folder: Path,
        identity: Record,
        processes: Processes | None = None,
        dry: "DryRun | None" = None,
        *,
        kind: RunKind = "diagnose",
    ) -> None:
        """identity: what must be equal for a run to continue; differing, UserError with the difference.

        processes: those that measure together; by default this one alone. dry: what a dry run measures goes there."""
        self.folder, self.kind = folder, kind
        self.dry = dry
        self.written = 0
        """Bytes of records that were appended here."""
        self.identity = json.loads(json.dumps(identity))
        self.processes = processes or Processes()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("a")
        except OSError as error:
            raise UserError(f"--out {folder}: cannot be written to ({error.strerror})") from None

    def __enter__(self) -> "Run":
        try:
            if self.processes.first:
                self._alone(self._lock)
                self._take_up()
            self.processes.wait()
            self._records = self._opened()
            self.processes.wait()  # all must have seen the same records before one writes more
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._records.close()
        try:
            if kind is None:
                self.processes.wait()
                self._shards.look()
                if self.processes.first and not self._shards.places:
                    for path in left_shards(self.folder):
                        path.unlink()
        finally:
            self._lock.close()

    def _alone(self, opened: io.IOBase) -> None:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            opened.close()
            raise UserError(f"--out {self.folder}: another process is writing to it") from None

    def _take_up(self) -> None:
        config = self.folder / "config.json"
        if config.exists():
            self._refuse_another(*_begun(config))
        else:
            head = {"kind": self.kind, "version": VERSION}
            self._write(config, head | {"identity": self.identity, "made_with": surroundings()})
        for path in left_shards(self.folder):
            with path.open("a") as stream:
                self._alone(stream)  # a process of a launch that died may still be at work

    def _opened(self) -> io.FileIO:
        """Where this process writes, after it has seen what is there."""
        self.done: set[Key] = set()
        """The records that are on disk."""
        self._read = 0
        self._look()
        self._shards = Shards(self.folder)
        self._shards.look()
        self._merged = not self._shards.places and self.processes.count == 1
        for key in self.done & self._shards.places.keys():
            del self._shards.places[key]  # its process died between merging and removing
        self.done |= self._shards.places.keys()
        path = self.folder / RECORDS if self._merged else shard_of(self.folder, self.processes.index)
        opened = _appended(path)
        self._alone(opened)
        return opened

    def _look(self) -> None:
        """Takes in what records.jsonl has come to hold."""
        for record, stop in whole_lines(self.folder / RECORDS, self._read):
            self.done.add(key_of(record))
            self._read = stop

    def gather(self, measure: str, number: int, ids: Sequence[str]) -> None:
        """Returns when the records that any process has of these questions are in records.jsonl, in this order."""
        if self._merged:
            return
        os.fsync(self._records)  # so that another machine sees them
        self.processes.wait()
        keys = [(measure, number, identity) for identity in ids]
        if self.processes.first:
            self._shards.look()
            with _appended(self.folder / RECORDS) as records:
                for line in self._shards.taken(keys):
                    self._put(records, line)
        self.processes.wait()
        self._look()

    def _refuse_another(self, kind: RunKind | None, before: Record) -> None:
        """kind: of the run that was begun; None for one of version 0.1, which did not say."""
        if kind not in (None, self.kind):
            raise UserError(f"--out {self.folder} holds a run of another kind, {kind}; give another --out")
        keys = sorted(set(before) | set(self.identity))
        unlike = [k for k in keys if before.get(k) != self.identity.get(k)]
        if unlike:
            shown = "; ".join(f"{k}: {before.get(k)!r} there, {self.identity.get(k)!r} now" for k in unlike)
            what = "a run of another configuration" if kind else "a run of version 0.1 or of another configuration"
            raise UserError(f"--out {self.folder} holds {what} ({shown}); give another --out")

    def append(self, record: Record) -> None:
        """Writes one record to disk, whole or not at all as far as a later reader is concerned."""
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        self._put(self._records, line)
        self.written += len(line)
        self.done.add(key_of(record))

    def _put(self, stream: io.FileIO, line: bytes) -> None:
        try:
            while line:  # unbuffered: what a full disk did not take must not come back when the file is closed
                line = line[stream.write(line) :]
        except OSError as error:
            raise UserError(f"{self.folder}: {error.strerror}; what was measured so far is kept there") from None

    def foreseen(self, known: int) -> int | float:
        """How many right questions the run has where so many are known: in a dry run not all are."""
        return known * self.dry.scale if self.dry else known

    def records(self, measure: str) -> Iterator[Record]:
        """The records of one measure, in the order in which they were measured."""
        return (record for record in self.all_records() if record["measure"] == measure)

    def all_records(self) -> Iterator[Record]:
        """Every record, in the order in which they were measured."""
        return read_records(self.folder)

    def write_summary(self, summary: Record) -> None:
        """Replaces summary.json; of several processes the first does."""
        if self.processes.first:
            self._write(self.folder / "summary.json", summary)

    def _write(self, path: Path, content: Record) -> None:
        beside = path.with_suffix(".tmp")
        try:
            beside.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; the records beside it are kept") from None


def _begun(config: Path) -> tuple[RunKind | None, Record]:
    """Kind and identity of a run that was begun."""
    try:
        begun = plain_json(config.read_bytes())
        return begun.get("kind"), {**begun["identity"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--out {config.parent}: its config.json cannot be read; give another --out") from None


def kind_of(config: Record, summary: Record) -> RunKind | None:
    """What kind of run it is; None where its summary holds no numbers of any."""
    held = [kind for name, kind in _NUMBERS.items() if isinstance(summary.get(name), dict)]
    kind: RunKind | None = config.get("kind", held[0] if held else None)
    return kind if kind in held and "identity" in config else None


def read_records(folder: Path) -> Iterator[Record]:
    """The records of a run on disk; a torn last line is passed over.

    Errors: UserError naming the line, where one in the middle is not a record."""
    return (record for record, _ in whole_lines(folder / RECORDS))


def read_run(folder: Path, *, finished: bool = True) -> tuple[Record, Record, list[Record]]:
    """(configuration, summary, records) of a finished run on disk; of one that only has to have begun, no summary.

    Errors: UserError where it is no run."""
    parts: list[Record] = []
    for name in ("config.json", "summary.json") if finished else ("config.json",):
        try:
            parts.append(plain_json((folder / name).read_bytes()))
            if not isinstance(parts[-1], dict):
                raise ValueError("not an object")
        except (OSError, ValueError):
            raise UserError(f"{folder}: no readable {name}; is it the directory of a finished run?") from None
    return parts[0], parts[1] if finished else {}, list(read_records(folder))


def surroundings() -> Record:
    """Versions, commit and hardware: what a reader needs to repeat the run, and what does not forbid continuing it."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(Path(__file__).parents[2]),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _commit(root: Path) -> str | None:
    """The commit of this checkout, marked where files differ from it; None where it is none."""
    told = []
    for command in (("rev-parse", "HEAD"), ("status", "--porcelain")):
        try:
            if not (root / ".git").exists():
                return None
            asked = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
        except OSError:
            return None
        told.append(asked.stdout.strip())
    return f"{told[0]}{' with changes' if told[1] else ''}" if told[0] else None


def _appended(path: Path) -> io.FileIO:
    """The file opened for appending, made where it is missing; a torn last line is cut off."""
    stream = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
    whole = whole_bytes(path)
    stream.truncate(whole)
    stream.seek(whole)
    return stream


def nested(flat: dict[str, Any]) -> Record:
    """{"jsd.median": x} as {"jsd": {"median": x}}."""
    tree: Record = {}
    for key, value in flat.items():
        *path, leaf = key.split(".")
        node = tree
        for name in path:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def averaged(records: Sequence[Record]) -> list[Record]:
    """One record per question: its values averaged over the sets of worked examples that have one."""
    by_question: dict[str, list[Record]] = {}
    for record in records:
        by_question.setdefault(record["id"], []).append(record["values"])
    return [{"id": key, "values": dict(_means(values))} for key, values in by_question.items()]


def _means(values: Sequence[Record]) -> Iterator[tuple[str, float | None]]:
    for name in dict.fromkeys(name for of_set in values for name in of_set):
        there = [of_set[name] for of_set in values if of_set.get(name) is not None]
        yield name, float(np.mean(there)) if there else None


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in order, `size` at a time."""
    return (items[i : i + size] for i in range(0, len(items), size))
