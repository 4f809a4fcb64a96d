"""A run's directory: its configuration, the records appended as they are made, and its summary.

    config.json      kind, version, identity and surroundings, written once
    records.jsonl    one record a line; a run that was interrupted continues behind the last whole one
    summary.json     the numbers of a finished run

The module knows nothing of models and instruments; what a record holds beside its key is theirs."""

import fcntl
import io
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np

from interp.errors import UserError
from interp.plain import plain_json
from interp.run.dryrun import DryRun
from interp.run.processes import Processes
from interp.run.shards import Key, Shards, key_of, left_shards, shard_of, whole_bytes, whole_lines
from interp.version import VERSION

Record = dict[str, Any]
"""One line of records.jsonl, in plain JSON. Everything that is computed from records needs no model."""

RunKind = Literal["diagnose", "evaluate", "compare", "training", "ablation", "organisms", "triplets"]
_NUMBERS: dict[str, RunKind] = {
    "training": "training",
    "ablation": "ablation",
    "organisms": "organisms",
    "comparison": "compare",
    "calibration": "evaluate",
    "triplets": "triplets",
    "model": "diagnose",
}
"""For each key of a summary, the kind of run whose numbers it holds. Runs of version 0.1 record no kind: the first of
these keys that their summary holds decides it."""
RECORDS = "records.jsonl"
PACKAGES = ("torch", "transformers", "transformer-lens", "captum", "peft", "numpy")

CAUSES = {
    "model": "weights of the checkpoint or of its adapter",
    "questions": "questions, by their texts and ids",
    "prompts": "prompts, by the chat template and the examples",
    "cases": "the run that --cases names",
    "steer": "the vector that --steer names",
}
"""What a fingerprint in a run's identity stands for, for errors; other parts are called by their options."""


class Run:
    """An open run, used as a context manager: while it is open no other command may write to its directory.

    Each of several processes writes its records to a shard; `gather` merges the shards. A run that finds shards of
    processes that died does the same, even if it is a single process."""

    def __init__(
        self,
        folder: Path,
        identity: Record,
        processes: Processes | None = None,
        dry: DryRun | None = None,
        *,
        kind: RunKind = "diagnose",
    ) -> None:
        """
        Args:
            folder: the run's directory, made where it is missing.
            identity: everything that must be equal for a run to continue.
            processes: the processes that measure together; by default this one alone.
            dry: collects times and sizes in a dry run.
            kind: the kind of the run, which must be equal too.

        Raises:
            UserError: where the directory cannot be written to. Entering the context raises it where another process
                writes there, or the directory holds a run of another kind or identity.
        """
        self.folder, self.kind = folder, kind
        self.dry = dry
        self.written = 0
        """Bytes of records that this process has appended."""
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
                if self.processes.first:  # another process would look at files that are just being removed
                    self._shards.look()
                    if not self._shards.places:
                        for path in left_shards(self.folder):
                            path.unlink()
        finally:
            self._lock.close()

    def _alone(self, opened: io.IOBase) -> None:
        """Locks an open file for as long as it is open.

        Raises:
            UserError: where another process holds the lock.
        """
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            opened.close()
            raise UserError(f"--out {self.folder}: another process is writing to it") from None

    def _take_up(self) -> None:
        """Begins the run, or continues the one that the directory holds.

        Raises:
            UserError: where that is another run, or a process of it is still at work.
        """
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
        """Reads all records on disk, then opens and locks the file to which this process appends."""
        self.done: set[Key] = set()
        """The keys of the records on disk, in records.jsonl or in a shard."""
        self._read = 0  # how many bytes of records.jsonl were read
        self._look()
        self._shards = Shards(self.folder)
        self._shards.look()
        # a single process without shards writes to records.jsonl itself: nothing is to be merged
        self._merged = not self._shards.places and self.processes.count == 1
        for key in self.done & self._shards.places.keys():
            del self._shards.places[key]  # merged already; the run died before it removed the shard
        self.done |= self._shards.places.keys()
        path = self.folder / RECORDS if self._merged else shard_of(self.folder, self.processes.index)
        opened = _appended(path)
        self._alone(opened)
        return opened

    def _look(self) -> None:
        """Reads the records that were added to records.jsonl since the last look."""
        for record, stop in whole_lines(self.folder / RECORDS, self._read):
            self.done.add(key_of(record))
            self._read = stop

    def gather(self, measure: str, number: int, ids: Sequence[str]) -> None:
        """Merges the shards' records of these questions into records.jsonl, in this order; all processes call it.

        Args:
            measure: the measure of the records.
            number: the number of their set of worked examples.
            ids: the questions' ids. One without a record in any shard is passed over.
        """
        if self._merged:
            return
        os.fsync(self._records)  # so that processes on other machines see them
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
        """Refuses to continue a run of another kind or identity.

        Args:
            kind: the kind of the run on disk; None for one of version 0.1, which recorded none.
            before: its identity.

        Raises:
            UserError: naming the keys in which the two identities differ, with both values.
        """
        if kind not in (None, self.kind):
            raise UserError(f"--out {self.folder} holds a run of another kind, {kind}; give another --out")
        if kind is None:
            before = _named_as_now(before, self.identity)
        keys = sorted(set(before) | set(self.identity))
        unequal = [k for k in keys if before.get(k) != self.identity.get(k)]
        if unequal:
            shown = "; ".join(
                f"{CAUSES.get(k, k)}: {before.get(k)!r} there, {self.identity.get(k)!r} now" for k in unequal
            )
            what = "a run of another configuration" if kind else "a run of version 0.1 or of another configuration"
            raise UserError(f"--out {self.folder} holds {what} ({shown}); give another --out")

    def append(self, record: Record) -> None:
        """Appends one record to disk. A later reader sees it whole or not at all, since it ignores a torn last line."""
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        self._put(self._records, line)
        self.written += len(line)
        self.done.add(key_of(record))

    def _put(self, stream: io.FileIO, line: bytes) -> None:
        try:
            while line:  # unbuffered: bytes that a full disk refused must not be written when the file is closed
                line = line[stream.write(line) :]
        except OSError as error:
            raise UserError(f"{self.folder}: {error.strerror}; what was measured so far is kept there") from None

    def foreseen(self, known: int) -> int | float:
        """The number of right questions that the run is expected to have: a dry run knows some of them only."""
        return known * self.dry.scale if self.dry else known

    def records(self, measure: str) -> Iterator[Record]:
        """The records of one measure, in the order in which they were measured."""
        return (record for record in self.all_records() if record["measure"] == measure)

    def all_records(self) -> Iterator[Record]:
        """Every record, in the order in which they were measured."""
        return read_records(self.folder)

    def write_summary(self, summary: Record) -> None:
        """Replaces summary.json; of several processes the first one does it."""
        if self.processes.first:
            self._write(self.folder / "summary.json", summary)

    def _write(self, path: Path, content: Record) -> None:
        temporary = path.with_suffix(".tmp")  # then renamed, so that no reader sees half a file
        try:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; the records beside it are kept") from None


NO_LONGER = ("ckpt", "cases", "reply_tokens", "leave_out", "diagnose", "diagnose_data", "wrong", "turned")
"""What the identity of a run of version 0.1 may hold that it does not hold now."""


def _named_as_now(before: Record, now: Record) -> Record:
    """The identity of a run of version 0.1 as this version would have written it."""
    new: Record = {"shot_sets": 1, "wordings": 1, "n_wrong": before.get("wrong"), "greedy_wrong": before.get("turned")}
    identity = {name: value for name, value in before.items() if name in now or name not in NO_LONGER}
    identity |= {name: value for name, value in new.items() if name in now and name not in before}
    if identity.get("wrong") == "foil":
        identity["wrong"] = "distractor"
    if identity.get("cases"):  # a path then, a fingerprint now
        identity["cases"] = now.get("cases")
    return identity


def _begun(config: Path) -> tuple[RunKind | None, Record]:
    """Kind and identity of the run on disk.

    Raises:
        UserError: where its config.json cannot be read.
    """
    try:
        content = plain_json(config.read_bytes())
        return content.get("kind"), {**content["identity"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--out {config.parent}: its config.json cannot be read; give another --out") from None


def kind_of(config: Record, summary: Record) -> RunKind | None:
    """The kind of a run; None where its summary does not hold the numbers of that kind.

    Args:
        config: its config.json. A run of version 0.1 records no kind, which the summary then tells.
        summary: its summary.json.
    """
    possible = [kind for name, kind in _NUMBERS.items() if isinstance(summary.get(name), dict)]
    kind: RunKind | None = config.get("kind", possible[0] if possible else None)
    return kind if kind in possible and "identity" in config else None


def read_records(folder: Path) -> Iterator[Record]:
    """The records of a run on disk; a torn last line is left out.

    Raises:
        UserError: naming the whole line that is not a record.
    """
    return (record for record, _ in whole_lines(folder / RECORDS))


def read_run(folder: Path, *, finished: bool = True) -> tuple[Record, Record, list[Record]]:
    """Reads a run from disk.

    Args:
        folder: the run's directory.
        finished: whether the run must be finished; otherwise it needs to have begun, and its summary is not read.

    Returns:
        (configuration, summary, records); the summary is empty without `finished`.

    Raises:
        UserError: where the directory holds no such run, or a line of its records is not one.
    """
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
    """Versions, commit and hardware. A reader needs them to repeat the run; a run continues where they differ."""
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
    """The commit of this checkout, marked where files differ from it; None without a Git repository."""
    outputs = []
    for command in (("rev-parse", "HEAD"), ("status", "--porcelain")):
        try:
            if not (root / ".git").exists():
                return None
            process = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
        except OSError:
            return None
        outputs.append(process.stdout.strip())
    return f"{outputs[0]}{' with changes' if outputs[1] else ''}" if outputs[0] else None


def _appended(path: Path) -> io.FileIO:
    """The file, opened unbuffered for appending and made where it is missing; a torn last line is cut off."""
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
    """One record per question, each of its values averaged over the sets of worked examples that have it."""
    means = means_by_question((record["id"], record["values"]) for record in records)
    relations = {record["id"]: record["relation"] for record in records if "relation" in record}
    return [
        {"id": key, "values": values} | ({"relation": relations[key]} if key in relations else {})
        for key, values in means.items()
    ]


def with_relations(records: Iterable[Record], answers: Iterable[Record]) -> list[Record]:
    """The records, each with the relation of its question. answers: the records of the questions' answers."""
    relations = {answer["id"]: answer.get("relation", "") for answer in answers}
    return [{**record, "relation": relations.get(record["id"], "")} for record in records]


Name = TypeVar("Name")


@overload
def means_by_question(questions: Iterable[tuple[str, Mapping[Name, float]]]) -> Mapping[str, Mapping[Name, float]]: ...
@overload
def means_by_question(
    questions: Iterable[tuple[str, Mapping[Name, float | None]]],
) -> Mapping[str, Mapping[Name, float | None]]: ...
def means_by_question(
    questions: Iterable[tuple[str, Mapping[Name, float | None]]],
) -> Mapping[str, Mapping[Name, float | None]]:
    """Each question's values averaged over the sets of worked examples that have them.

    Args:
        questions: (the question's id, its values under one set by their names), in any order.

    Returns:
        By the question's id, the means by their names; None where no set has a value.
    """
    by_question: dict[str, list[Mapping[Name, float | None]]] = {}
    for identity, values in questions:
        by_question.setdefault(identity, []).append(values)
    return {identity: dict(_means(values)) for identity, values in by_question.items()}


def _means(values: Sequence[Mapping[Name, float | None]]) -> Iterator[tuple[Name, float | None]]:
    """(name, mean over the sets that have a value) of each name that occurs; None where no set has one."""
    for name in dict.fromkeys(name for set_values in values for name in set_values):
        numbers = [value for set_values in values if (value := set_values.get(name)) is not None]
        yield name, float(np.mean(numbers)) if numbers else None


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in order, `size` at a time."""
    return (items[i : i + size] for i in range(0, len(items), size))
