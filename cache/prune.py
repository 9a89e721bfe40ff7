"""Garbage collection: a run records the keys it reaches; what no kept run reached may go.

Every call that records something new for a run writes a file of its own, named by its content,
below `<root>/runs/<id>/`: tasks of one run end at the same time on several machines, and none
must lose what another recorded. `<root>/runs/<id>.json`, a run's whole record, is of an older
version and counts as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

from cache.files import (
    BAD,
    TEMPORARY,
    CacheError,
    reporting,
    set_aside,
    trouble,
    write_file,
)
from cache.keys import key, short
from cache.schemas import SCHEMAS
from cache.store import Store

CHEAPEST = ("features", "flow")
"""what goes first when space is short: large, and quick to compute anew"""

ORPHANED = "orphaned temporary file"


class Prunable(NamedTuple):
    """A file that may go, and why."""

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
    min_age_s: float = 3600,
    keep_runs: int | None = None,
    delete: bool = False,
) -> list[Prunable]:
    """What may go; it goes only with delete=True.

    That is: what no kept run reached, orphaned temporary files, damaged files, and the
    records of runs not kept; then, while more than max_bytes would stay, files that runs
    did reach: features and flow first, oldest first. Nothing younger than min_age_s
    goes, since a run under way may be about to use it. stages: only their files (and only
    they count for max_bytes). keep_runs: only the newest so many runs count; None: all.
    Raises CacheError for an unknown stage and if a record is damaged (what it reached would be
    lost), which is then set aside.
    """
    if unknown := set(stages or ()) - set(SCHEMAS):
        raise CacheError(
            f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(SCHEMAS)}"
        )
    kept, dropped = _runs(store, keep_runs)
    marked = {short(k) for record in kept for k in (*record["keys"], *record["memo_keys"])}
    entries = [e for e in _entries(store) if stages is None or e.stage in stages]
    oldest = time.time() - min_age_s
    found = [
        Prunable(e.path, e.bytes, reason)
        for e in entries
        if e.modified <= oldest and (reason := _reason(e, marked))
    ]
    if stages is None:
        found += _drafts(store, oldest)
    if max_bytes is not None:
        found += _excess(entries, {p.path for p in found}, max_bytes, oldest)
    found += [Prunable(path, path.stat().st_size, "record of a run not kept") for path in dropped]
    if delete:
        for item in found:
            with reporting(item.path):
                item.path.unlink(missing_ok=True)
    return found


def usage(store: Store) -> dict[str, Usage]:
    """Files and bytes of every stage, also of those without any."""
    total = dict.fromkeys(SCHEMAS, Usage(0, 0))
    for entry in _entries(store):
        before = total[entry.stage]
        total[entry.stage] = Usage(before.files + 1, before.bytes + entry.bytes)
    return total


def _reason(entry: Entry, marked: Collection[str]) -> str:
    """Why a file may go; empty if it may not."""
    if entry.path.suffix == TEMPORARY:
        return ORPHANED
    if entry.path.suffix == BAD:
        return "damaged"
    return "" if entry.name in marked else "reached by no kept run"


def _drafts(store: Store, oldest: float) -> Iterator[Prunable]:
    """Orphans outside the stages' folders: of run records, digests and probes."""
    for pattern in (f"*{TEMPORARY}", f"*/*{TEMPORARY}", f"*/*/*{TEMPORARY}"):
        for path in store.root.glob(pattern):
            status = path.stat()
            if status.st_mtime <= oldest:
                yield Prunable(path, status.st_size, ORPHANED)


def _excess(
    entries: Iterable[Entry], going: Collection[Path], max_bytes: int, oldest: float
) -> Iterator[Prunable]:
    staying = sorted(
        (e for e in entries if e.path not in going),
        key=lambda e: (e.stage not in CHEAPEST, e.modified, e.path),
    )
    excess = sum(e.bytes for e in staying) - max_bytes
    for entry in staying:
        if excess > 0 and entry.modified <= oldest:
            excess -= entry.bytes
            yield Prunable(entry.path, entry.bytes, "over the size limit")


def _entries(store: Store) -> Iterator[Entry]:
    for stage, schema in SCHEMAS.items():
        for path in sorted((store.root / schema.folder).glob("*/*/*.*")):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            yield Entry(path, stage, status.st_size, status.st_mtime)


def _runs(store: Store, keep: int | None) -> tuple[list[Record], list[Path]]:
    """Records of the runs that count, and the paths of the other records."""
    folder = store.root / "runs"
    runs: dict[str, dict[Path, Record]] = {}
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        run_id = path.stem if path.parent == folder else path.parent.name
        runs.setdefault(run_id, {})[path] = _load(path)
    newest = sorted(
        runs.values(), key=lambda run: max(record["time"] for record in run.values()), reverse=True
    )
    count = len(newest) if keep is None else keep
    kept = [record for run in newest[:count] for record in run.values()]
    return kept, [path for run in newest[count:] for path in run]


def _load(path: Path) -> Record:
    """A record; CacheError if it is damaged. Those in a run's folder are named after their keys."""
    try:
        record = json.loads(path.read_bytes())
        keys, memo_keys = record["keys"], record["memo_keys"]
        name = short(key({"keys": keys, "memo_keys": memo_keys}))
        if path.parent.name == "runs" or path.stem == name:
            return Record(time=float(record["time"]), keys=keys, memo_keys=memo_keys)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    set_aside(path)
    raise CacheError(
        f"{path} is damaged, and set aside: run its command once more, which records anew what it "
        "reaches, or prune again without it"
    )
