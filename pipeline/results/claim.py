"""Runs of one kind at a time work in an output folder, however many they are.

Runs with the same settings share it. A run with others has to hold all videos that are there,
and to find nobody at work.
"""

from __future__ import annotations

import errno
import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.errors import UserError
from pipeline.results.files import cannot_write
from pipeline.results.made import MADE, present, read_record, write_record

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""from file systems that know no locks; two runs at a time are not told of one another there"""

_held: dict[Path, tuple[IO[bytes], Mapping[str, Any]]] = {}
"""OUT/.made/use by output folder, locked while this process works there, with its settings"""


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """The block in which no other process puts files into the folder; it waits for its turn."""
    with _open(out, "lock") as file:
        _lock(file, fcntl.LOCK_EX)
        yield


def claim(
    out: Path, settings: Mapping[str, Any], defaults: Mapping[str, Any], videos: Iterable[str]
) -> None:
    """Work in an output folder until release() or the end of the process.

    settings: what all of its videos are made with, by name. defaults: values of what was not
    recorded. UserError if other videos there were made with other settings, or if
    a run with other settings is at work.
    """
    mine = _held.get(out)
    if mine and mine[1] == settings:
        return
    with alone(out):
        there = read_record(out / MADE / "settings") or _of_run(out)
        differing = _differences(there, settings, defaults)
        others = sorted(present(out) - set(videos))
        if differing and others:
            raise UserError(
                f"{out}: holds {listed(others)}, made with other settings ({differing}); give "
                "another folder as --output, the same settings, or all of these videos"
            )
        release(out)
        file = _open(out, "use")
        if differing and not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            file.close()
            raise UserError(
                f"{out}: a run with other settings is at work there ({differing}); wait for its "
                "end, or give another folder as --output"
            )
        if differing:
            # All videos there are this run's: none may be reported with rows of the other one.
            for rows in (out / MADE).glob("*.rows"):
                rows.unlink()
        if there != settings:
            write_record(out / MADE / "settings", settings)
        _lock(file, fcntl.LOCK_SH)
        _held[out] = file, settings


def release(out: Path) -> None:
    """Let runs with other settings work there."""
    if mine := _held.pop(out, None):
        mine[0].close()


def listed(things: Sequence[str]) -> str:
    """Some things in a message: `a, b` or `a, b, c and 7 more`."""
    more = f" and {len(things) - 3} more" if len(things) > 3 else ""
    return ", ".join(things[:3]) + more


def _differences(
    there: Mapping[str, Any], here: Mapping[str, Any], defaults: Mapping[str, Any]
) -> str:
    """What the settings differ in, in words; empty where nothing is known of those there."""
    if not there:
        return ""
    names = dict.fromkeys([*here, *there])
    values = [(n, there.get(n, defaults.get(n)), here.get(n, defaults.get(n))) for n in names]
    found = [f"{name}: {a} there, {b} here" for name, a, b in values if a != b]
    return listed(found)


def _of_run(out: Path) -> dict[str, Any]:
    """What is known from run.json, where no settings were recorded or the record is damaged."""
    try:
        run = json.loads((out / "run.json").read_text(encoding="utf-8"))
        return {"dataset": run["dataset"], "split": run["split"]} | flat(run["settings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def flat(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Settings by full name, from settings by section."""
    return {f"{part}.{name}": v for part, values in settings.items() for name, v in values.items()}


def _open(out: Path, name: str) -> IO[bytes]:
    path = out / MADE / name
    with cannot_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # NFS gives a shared lock only on what can be read.
        return path.open("a+b")


def _lock(file: IO[bytes], kind: int) -> bool:
    """Whether the lock was given; only with LOCK_NB it may not be."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
