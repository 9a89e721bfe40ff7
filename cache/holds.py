"""Runs under way: what they reach is not pruned.

A process that works on a run keeps `<root>/working/<run id>-<random>.hold` young: it touches the
file every TOUCH_S seconds and removes it at its end. The file of a killed process grows older
than LIVE_S and counts no more. Ages are taken by the clock of the root's file system, so that
the nodes' clocks need not agree, and nothing is locked.
"""

from __future__ import annotations

import atexit
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cache.files import temporary

FOLDER = "working"
SUFFIX = ".hold"
TOUCH_S = 15.0
LIVE_S = 180.0
"""Longer than a node's busiest moment and a network file system's memory of file times."""

_mine: dict[tuple[Path, str], Path] = {}
"""This process's holds by root and run."""
_touching: list[threading.Thread] = []


@dataclass(frozen=True)
class Hold:
    """A process that works on a run."""

    path: Path
    run_id: str
    began: float
    """0 if that cannot be read; by the file system's clock"""
    live: bool
    mine: bool
    """whether it is this process's own"""


def hold(root: Path, run_id: str) -> None:
    """Keep what a run reaches from pruning until release() or the end of this process.

    run_id: as record_run() has it. Does nothing in a root that cannot be
    written to, since nothing is pruned there.
    """
    if (root, run_id) in _mine:
        return
    path = root / FOLDER / f"{run_id}-{secrets.token_hex(8)}{SUFFIX}"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
        _mine[root, run_id] = path
        path.write_text(repr(path.stat().st_mtime))
        _keep_touching()


def release(root: Path, run_id: str) -> None:
    """End this process's hold of a run, if it has one."""
    if path := _mine.pop((root, run_id), None):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def holds(root: Path) -> Iterator[Hold]:
    """All holds below a root, also of killed processes."""
    now = file_time(root)
    own = set(_mine.values())
    for path in sorted((root / FOLDER).glob(f"*{SUFFIX}")):
        with suppress(FileNotFoundError):
            touched = path.stat().st_mtime
            run_id, live = path.name.rpartition("-")[0], touched > now - LIVE_S
            yield Hold(path, run_id, _began(path), live, path in own)


def file_time(root: Path) -> float:
    """Seconds since the epoch by the root's file system; this machine's where it is read-only."""
    probe = temporary(root / "clock")
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _began(path: Path) -> float:
    try:
        return float(path.read_text())
    except ValueError:
        return 0.0


def _keep_touching() -> None:
    """Start the thread that keeps this process's holds young; a forked child needs its own."""
    if not any(thread.is_alive() for thread in _touching):
        _touching[:] = [threading.Thread(target=_touch, name="cache holds", daemon=True)]
        _touching[0].start()


def _touch() -> None:
    while True:
        time.sleep(TOUCH_S)
        for path in list(_mine.values()):
            with suppress(OSError):
                os.utime(path)


@atexit.register
def _release_all() -> None:
    for root, run_id in list(_mine):
        release(root, run_id)
