"""Garbage collection: a run records the keys it reaches; what no kept run reached may go.

Every call that records something new for a run writes a file of its own, named by its content,
below `<root>/runs/<id>/`: tasks of one run end at the same time on several machines, and none
must lose what another recorded. `<root>/runs/<id>.json`, a run's whole record, is of an older
version and counts as well.

A file was last used when a run that reaches it was last planned, which is the time of its record:
so reading writes nothing, and the root may be mounted without access times.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple, TypedDict

from cache.files import (
    BAD,
    GRACE_S,
    TEMPORARY,
    CacheError,
    reporting,
    set_aside,
    temporary,
    trouble,
    write_file,
)
from cache.holds import file_time, holds
from cache.keys import key, short
from cache.schemas import SCHEMAS
from cache.store import Store

CHEAPEST = ("features", "flow")
"""what goes first of a run when space is short: large, and quick to compute anew"""

DERIVED = {"unpacked": "images of an archive", "boxes": "mask drawn from a box"}
"""folders below the root of what is no artifact, and what they hold; a run makes it when needed"""
ORPHANED = "orphaned temporary file"
OURS = re.compile(r"([0-9a-f]{16}-)?[0-9a-f]{16}\.h5(\.[0-9a-f]+\.tmp|\.bad)?")
"""names of files below a stage's folder; others are not this program's"""


class Prunable(NamedTuple):
    """A file that may go, or a folder with all in it, and why."""

    path: Path
    bytes: int
    reason: str


class Usage(NamedTuple):
    """What a stage occupies."""

    files: int
    bytes: int


@dataclass(frozen=True)
class Entry:
    """A file below a stage's folder."""

    path: Path
    stage: str
    bytes: int
    modified: float

    @property
    def name(self) -> str:
        """The digits that record_run() knows it by."""
        return short(self.path.name)


class Record(TypedDict):
    """A file below `runs/`."""

    time: float
    """when it was written, seconds since the epoch"""
    keys: list[str]
    memo_keys: list[str]


Runs = Mapping[str, Mapping[Path, Record]]
"""Records by run and file."""


def record_run(
    store: Store, run_id: str, keys: Iterable[str], memo_keys: Iterable[str] = ()
) -> None:
    """Record what a run reaches, in addition to what was recorded under its id before.

    Best done before the run computes anything, and once more with the memo keys at its end.
    run_id: a file name. CacheError if it cannot be written.
    """
    reached = {"keys": sorted({*keys}), "memo_keys": sorted({*memo_keys})}
    path = store.root / "runs" / run_id / f"{short(key(reached))}.json"
    try:
        write_file(path, json.dumps({"time": time.time(), **reached}, indent=1).encode())
    except OSError as error:
        # One that is there says the same, of an earlier time.
        if not path.exists():
            raise trouble(path, error) from error


def prune(
    store: Store,
    *,
    stages: Collection[str] | None = None,
    max_bytes: int | None = None,
    min_age_s: float = GRACE_S,
    keep_runs: int | None = None,
    delete: bool = False,
) -> list[Prunable]:
    """What may go; it goes only with delete=True.

    That is: what no kept run reached, orphaned temporary files, damaged files, the records of
    runs not kept and, while no other process works, what DERIVED names, once it is older than
    GRACE_S; then, while more than max_bytes would stay, files that runs did reach: the least
    recently used first, of one run features and flow first. Nothing younger than min_age_s goes.
    While other processes work on runs (cache.holds), nothing goes that those runs reach, nor what
    is younger than the oldest of the processes: it may be about to use it. stages: only their
    files (and only they count for max_bytes). keep_runs: only the newest so many runs count, and
    those that are worked on; None: all. Raises CacheError for an unknown stage and if a record is
    damaged (what it reached would be lost), which is then set aside.
    """
    if unknown := set(stages or ()) - set(SCHEMAS):
        raise CacheError(
            f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(SCHEMAS)}"
        )
    # Listed before the holds are read: a run that begins later finds out itself what is gone.
    entries = [e for e in _entries(store) if stages is None or e.stage in stages]
    drafts = list(_drafts(store)) if stages is None else []
    derived = list(_derived(store)) if stages is None else []
    held = [hold for hold in holds(store.root) if not hold.mine]
    working = {hold.run_id for hold in held if hold.live}
    began = [hold.began for hold in held if hold.live]
    oldest = min([file_time(store.root) - min_age_s, *began])
    runs = _runs(store)
    kept = _newest(runs, keep_runs) | working
    used, needed = _last_use(runs, kept), _last_use(runs, working)
    old = [e for e in entries if e.modified <= oldest]
    found = [Prunable(e.path, e.bytes, reason) for e in old if (reason := _reason(e, used))]
    if max_bytes is not None:
        excess = sum(e.bytes for e in entries) - sum(item.bytes for item in found) - max_bytes
        free = [e for e in old if not _reason(e, used) and e.name not in needed]
        found += _excess(free, used, excess)
    found += [Prunable(e.path, e.bytes, ORPHANED) for e in drafts if e.modified <= oldest]
    if not working:
        # A run that is being planned holds nothing yet, and may just have made them.
        oldest = min(oldest, file_time(store.root) - GRACE_S)
        found += [Prunable(e.path, e.bytes, e.stage) for e in derived if e.modified <= oldest]
    found += [Prunable(hold.path, 0, "of a killed process") for hold in held if not hold.live]
    dropped = [path for run_id in set(runs) - kept for path in sorted(runs[run_id])]
    found += [Prunable(path, _bytes(path), "record of a run not kept") for path in dropped]
    if delete:
        for item in found:
            with reporting(item.path):
                _remove(item.path)
    return found


def sweep(store: Store) -> None:
    """Remove the drafts of killed writers among records and digests, once older than GRACE_S.

    Those beside an artifact are swept when it is written.
    """
    oldest = file_time(store.root) - GRACE_S
    for draft in _drafts(store):
        if draft.modified <= oldest:
            with suppress(OSError):
                draft.path.unlink()


def stage_files(store: Store, stage: str) -> list[Path]:
    """Files below a stage's folder, also temporary and damaged ones; none of other programs."""
    found = (store.root / SCHEMAS[stage].folder).glob("*/*/*.*")
    return sorted(path for path in found if OURS.fullmatch(path.name))


def usage(store: Store) -> dict[str, Usage]:
    """Files and bytes of every stage, also of those without any."""
    total = dict.fromkeys(SCHEMAS, Usage(0, 0))
    for entry in _entries(store):
        before = total[entry.stage]
        total[entry.stage] = Usage(before.files + 1, before.bytes + entry.bytes)
    return total


def _reason(entry: Entry, used: Collection[str]) -> str:
    """Why a file may go; empty if it may not."""
    if entry.path.suffix == TEMPORARY:
        return ORPHANED
    if entry.path.suffix == BAD:
        return "damaged"
    return "" if entry.name in used else "reached by no kept run"


def _drafts(store: Store) -> Iterator[Entry]:
    """Drafts outside the stages' folders: of run records, digests and probes."""
    for pattern in (f"*{TEMPORARY}", f"*/*{TEMPORARY}", f"*/*/*{TEMPORARY}"):
        for path in store.root.glob(pattern):
            with suppress(FileNotFoundError):
                status = path.stat()
                yield Entry(path, "", status.st_size, status.st_mtime)


def _derived(store: Store) -> Iterator[Entry]:
    """What DERIVED names, by what it is; last used at the time of its newest part."""
    for folder, what in DERIVED.items():
        for path in sorted((store.root / folder).glob("*")):
            with suppress(FileNotFoundError):
                parts = [part.stat() for part in (path, *path.rglob("*"))]
                files = [part.st_size for part in parts if not S_ISDIR(part.st_mode)]
                yield Entry(path, what, sum(files), max(part.st_mtime for part in parts))


def _remove(path: Path) -> None:
    """Remove a file, or a folder, which first loses its name: whoever finds it finds it whole."""
    with suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path.rename(temporary(path)))
        else:
            path.unlink()


def _excess(entries: Iterable[Entry], used: Mapping[str, float], excess: int) -> Iterator[Prunable]:
    """The least recently used, until they have `excess` bytes."""
    for entry in sorted(
        entries, key=lambda e: (used[e.name], e.stage not in CHEAPEST, e.modified, e.path)
    ):
        if excess <= 0:
            return
        excess -= entry.bytes
        yield Prunable(entry.path, entry.bytes, "over the size limit")


def _entries(store: Store) -> Iterator[Entry]:
    for stage in SCHEMAS:
        for path in stage_files(store, stage):
            with suppress(FileNotFoundError):
                status = path.stat()
                yield Entry(path, stage, status.st_size, status.st_mtime)


def _bytes(path: Path) -> int:
    """Size of a file; 0 if it is gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _runs(store: Store) -> Runs:
    """The records of all runs."""
    folder = store.root / "runs"
    runs: dict[str, dict[Path, Record]] = {}
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        run_id = path.stem if path.parent == folder else path.parent.name
        with suppress(FileNotFoundError):
            runs.setdefault(run_id, {})[path] = _load(path)
    return {run_id: records for run_id, records in runs.items() if records}


def _newest(runs: Runs, count: int | None) -> set[str]:
    """The newest so many runs; all if None."""
    last = {run_id: max(r["time"] for r in records.values()) for run_id, records in runs.items()}
    return set(sorted(last, key=last.__getitem__, reverse=True)[:count])


def _last_use(runs: Runs, chosen: Collection[str]) -> dict[str, float]:
    """When a chosen run was last planned or ended that reaches a file, by the file's digits."""
    used: dict[str, float] = {}
    for run_id in set(runs) & set(chosen):
        for record in runs[run_id].values():
            for reached in (*record["keys"], *record["memo_keys"]):
                name = short(reached)
                used[name] = max(used.get(name, 0.0), record["time"])
    return used


def _load(path: Path) -> Record:
    """A record; CacheError if it is damaged. Those in a run's folder are named after their keys."""
    try:
        record = json.loads(path.read_bytes())
        keys, memo_keys = record["keys"], record["memo_keys"]
        name = short(key({"keys": keys, "memo_keys": memo_keys}))
        if path.parent.name == "runs" or path.stem == name:
            return Record(time=float(record["time"]), keys=keys, memo_keys=memo_keys)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    set_aside(path)
    raise CacheError(
        f"{path} is damaged, and set aside: run its command once more, which records anew what it "
        "reaches, or prune again without it"
    )
