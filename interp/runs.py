"""A run's directory: configuration, records appended as they come, resume, summary."""

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from interp.errors import UserError
from interp.plain import plain_json

Record = dict[str, Any]
"""One line of records.jsonl: plain JSON, the boundary beyond which no model is needed."""

KEY = ("measure", "set", "id")
PACKAGES = ("torch", "transformers", "transformer-lens", "captum", "peft", "numpy")


class Run:
    """An open run. Use as a context manager: while it is open no other process may write to its directory."""

    def __init__(self, folder: Path, identity: Record) -> None:
        """identity: what must be equal for a run to continue; differing, UserError with the difference."""
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("w")
        except OSError as error:
            raise UserError(f"--out {folder}: cannot be written to ({error.strerror})") from None

    def __enter__(self) -> "Run":
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(f"--out {self.folder}: another process is writing to it") from None
        try:
            self._take_up()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._records.close()
        self._lock.close()

    def _take_up(self) -> None:
        config = self.folder / "config.json"
        if config.exists():
            self._refuse_another(_identity(config))
        else:
            self._write(config, {"identity": self.identity, "made_with": surroundings()})
        path = self.folder / "records.jsonl"
        whole = _whole_lines(path)
        self.done: set[tuple[str, int, str]] = {tuple(record[k] for k in KEY) for record in read_records(self.folder)}
        self._records = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._records.truncate(whole)
        self._records.seek(whole)

    def _refuse_another(self, before: Record) -> None:
        keys = sorted(set(before) | set(self.identity))
        unlike = [k for k in keys if before.get(k) != self.identity.get(k)]
        if unlike:
            shown = "; ".join(f"{k}: {before.get(k)!r} there, {self.identity.get(k)!r} now" for k in unlike)
            raise UserError(f"--out {self.folder} holds a run of another configuration ({shown}); give another --out")

    def append(self, record: Record) -> None:
        """Writes one record to disk, whole or not at all as far as a later reader is concerned."""
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            while line:  # unbuffered: what a full disk did not take must not come back when the file is closed
                line = line[self._records.write(line) :]
        except OSError as error:
            raise UserError(f"{self.folder}: {error.strerror}; what was measured so far is kept there") from None
        self.done.add(tuple(record[k] for k in KEY))

    def records(self, measure: str) -> Iterator[Record]:
        """The records of one measure, in the order in which they were measured."""
        return (record for record in self.all_records() if record["measure"] == measure)

    def all_records(self) -> Iterator[Record]:
        """Every record, in the order in which they were measured."""
        return read_records(self.folder)

    def write_summary(self, summary: Record) -> None:
        """Replaces summary.json."""
        self._write(self.folder / "summary.json", summary)

    def _write(self, path: Path, content: Record) -> None:
        beside = path.with_suffix(".tmp")
        try:
            beside.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; the records beside it are kept") from None


def _identity(config: Path) -> Record:
    try:
        read = plain_json(config.read_bytes())
        return {**read["identity"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--out {config.parent}: its config.json cannot be read; give another --out") from None


def read_records(folder: Path) -> Iterator[Record]:
    """The records of a run on disk; a torn last line is passed over.

    Errors: UserError naming the line, where one in the middle is not a record."""
    path = folder / "records.jsonl"
    whole = _whole_lines(path)
    if not whole:
        return
    read = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            read += len(line)
            if read > whole:
                return
            try:
                record = _with_key(plain_json(line))
            except ValueError:
                raise UserError(f"{path}, line {number}: not a record of a run") from None
            yield record


def _with_key(record: object) -> Record:
    kinds = tuple(type(record.get(name)) for name in KEY) if isinstance(record, dict) else ()
    if kinds != (str, int, str):
        raise ValueError("not a record of a run")
    return record


def read_run(folder: Path) -> tuple[Record, Record, list[Record]]:
    """(configuration, summary, records) of a finished run on disk. Errors: UserError where it is no run."""
    parts = []
    for name in ("config.json", "summary.json"):
        try:
            parts.append(plain_json((folder / name).read_bytes()))
            if not isinstance(parts[-1], dict):
                raise ValueError("not an object")
        except (OSError, ValueError):
            raise UserError(f"{folder}: no readable {name}; is it the directory of a finished run?") from None
    return parts[0], parts[1], list(read_records(folder))


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
        "commit": _commit(Path(__file__).parents[1]),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _commit(root: Path) -> str | None:
    """The commit of this checkout, marked where files differ from it; None where it is none."""
    if not (root / ".git").exists():
        return None
    told = []
    for command in (("rev-parse", "HEAD"), ("status", "--porcelain")):
        try:
            asked = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
        except OSError:
            return None
        told.append(asked.stdout.strip())
    return f"{told[0]}{' with changes' if told[1] else ''}" if told[0] else None


def _whole_lines(path: Path) -> int:
    """How many bytes of the file are whole lines."""
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


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in order, `size` at a time."""
    return (items[i : i + size] for i in range(0, len(items), size))
