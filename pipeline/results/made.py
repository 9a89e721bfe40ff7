"""What this program wrote into an output folder: it replaces that, and nothing else.

    OUT/.made/<video>.json   the files of a video
    OUT/.made/<video>.masks  px and confidence of its masks, see pipeline/results/export.py
    OUT/.made/<video>.rows   its rows of the tables, see pipeline/results/tables.py
    OUT/.made/<video>.page   its page, where the report is of many videos
    OUT/.made/report         the tables, run.json and the report
    OUT/.made/sweep          sweep.csv and sweep.html, where OUT is a sweep's
    OUT/.made/ablation       its tables and page, where OUT is an ablation's
    OUT/.made/settings       what all videos of the folder were made with
    OUT/.made/lock           held while files are put into their places
    OUT/.made/use            held while a run works
    OUT/.made/drafts/        files in the making

Every one of them can go: the next run then makes its videos' files anew, and refuses to
replace what it cannot know to be its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from cache.holds import file_time
from pipeline.errors import UserError
from pipeline.results.files import write_text

MADE = ".made"
REPORT, SWEEP, ABLATION = "report", "sweep", "ablation"
"""ledgers of the files of a run, of a sweep, and of an ablation"""
GRACE = 3600
"""seconds after which a draft that nobody went on with is nobody's"""
DRAFT = re.compile(r"\.[0-9a-f]{16}\.tmp$")
"""ends of the names that cache.files.temporary() gives"""


class Ledger:
    """Files below an output folder that belong together: what they were made from, their bytes.

    begin() and finish() enclose their writing. A stop in between leaves a ledger that owns
    them and that is not whole.
    """

    def __init__(self, out: Path, name: str) -> None:
        """name: of the ledger's own file below OUT/.made."""
        self.out, self.path = out, out / MADE / name

    def whole(self, made_from: Any) -> bool:
        """Whether the files were made from this, are all there and hold what was written."""
        stored = self._read()
        if not stored["files"] or stored["made_from"] != made_from:
            return False
        # As text: making a Path of each name takes longer than looking at the file.
        return all(_unchanged(f"{self.out}/{name}", s) for name, s in stored["files"].items())

    def made_from(self) -> Any:
        """What its files were made from; None while they are being written, and without any."""
        return self._read()["made_from"]

    def owns(self) -> set[str]:
        """The files, relative to the output folder, whether or not they are there."""
        return set(self._read()["files"])

    def damaged(self, name: str) -> bool:
        """Whether a finished file does not hold what was written; False for a file not owned."""
        stamp = self._read()["files"].get(name)
        return stamp is not None and not _unchanged(f"{self.out}/{name}", stamp)

    def begin(self, names: Iterable[str], known: Iterable[str] = ()) -> None:
        """Own files that are about to be written, besides those owned already.

        known: files that are this program's although the ledger does not have them. UserError
        for one that is there and is not.
        """
        owned = self.owns() | set(known)
        new = set(names) - owned
        for name in sorted(new):
            refuse_foreign(self.out / name)
        self._write(None, dict.fromkeys(sorted(owned | new)))

    def finish(self, names: Iterable[str], made_from: Any) -> None:
        """Keep what was written, and remove what was owned and is not among it."""
        kept = sorted(names)
        for name in self.owns().difference(kept):
            (self.out / name).unlink(missing_ok=True)
        self._write(made_from, {name: _stamp(self.out / name) for name in kept})

    def _read(self) -> dict[str, Any]:
        stored = read_record(self.path)
        files = stored.get("files")
        if not isinstance(files, dict) or not all(map(_below, files)):
            return {"made_from": None, "files": {}}
        return {"made_from": stored.get("made_from"), "files": files}

    def _write(self, made_from: Any, files: Mapping[str, Any]) -> None:
        write_record(self.path, {"made_from": made_from, "files": files})


def check_undamaged(out: Path, name: str) -> None:
    """UserError if a file of one of these ledgers is gone, or is not what was written."""
    if any(Ledger(out, ledger).damaged(name) for ledger in (REPORT, SWEEP, ABLATION)):
        raise UserError(
            f"{out / name}: is not as it was written; run the same command again to mend it"
        )


def refuse_foreign(path: Path) -> None:
    """UserError if there is something at a place that is about to be written to."""
    if os.path.lexists(path):
        raise UserError(
            f"{path}: is there already, and {MADE} does not list it as made by this program; move "
            "it away, or give another folder as --output"
        )


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record of .made with a checksum; UserError as write_text()."""
    text = json.dumps(record, sort_keys=True)
    write_text(path, json.dumps({"sum": _digest(text.encode()), "record": text}))


def read_record(path: Path) -> dict[str, Any]:
    """A record of .made; empty if there is none, or if it is damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["sum"] == _digest(stored["record"].encode()):
            return dict(json.loads(stored["record"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def present(out: Path) -> set[str]:
    """Videos that this program has written something of into an output folder."""
    return {path.stem for end in ("json", "rows") for path in (out / MADE).glob(f"*.{end}")}


def listed_videos(out: Path) -> frozenset[str]:
    """Videos of the folder's run.json; none where it is not there, or not of this program."""
    path = out / "run.json"
    try:
        return _listed(path, tuple(_times(str(path))))
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


@lru_cache(maxsize=1)
def _listed(path: Path, times: tuple[int, ...]) -> frozenset[str]:
    """Videos of a run.json with these times; read once, as every new video is looked up in it."""
    run = json.loads(path.read_text(encoding="utf-8"))
    return frozenset(run["videos"] if {"command", "rule", "versions"} <= set(run) else ())


@contextmanager
def draft_folder(out: Path) -> Iterator[Path]:
    """A folder below OUT for files in the making; it is gone after the block."""
    folder = out / MADE / "drafts" / secrets.token_hex(8)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(out: Path, videos: Iterable[str]) -> None:
    """Remove what killed writers left in an output folder, once it is older than GRACE.

    That is drafts, and the `.PID.<video>` folders and films of earlier versions.
    """
    left = [*(out / MADE / "drafts").glob("*")]
    for folder in (out, out / MADE, out / "scores", out / "tables"):
        left += [path for path in folder.glob("*.tmp") if DRAFT.search(path.name)]
    names = {*videos}
    for folder in (out / "masks", out / "overlays", out / "pictures"):
        for path in folder.glob(".*.*"):
            number, _, name = path.name[1:].partition(".")
            if number.isdigit() and {name, name.removesuffix(".mp4")} & names:
                left.append(path)
    oldest = file_time(out / MADE) - GRACE
    for path in left:
        with suppress(OSError):
            if max(p.lstat().st_mtime for p in (path, *path.rglob("*"))) < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _below(name: str) -> bool:
    """Whether a name of a ledger leads to a file below its folder."""
    return not name.startswith("/") and ".." not in name.split("/")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _times(path: str) -> list[int]:
    """Size, mtime and ctime: the last tells of edits that set the other back."""
    status = os.stat(path)  # noqa: PTH116
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _stamp(path: Path) -> list[Any]:
    return [*_times(str(path)), digest_of(path)]


def digest_of(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        found = hashlib.blake2b(digest_size=16)
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _unchanged(path: str, stamp: Any) -> bool:
    """Whether a file holds what it held at its stamp; it is read only where its times differ."""
    if not isinstance(stamp, list):
        return False
    try:
        times = _times(path)
        return times == stamp[:3] or (times[0] == stamp[0] and digest_of(Path(path)) == stamp[3])
    except OSError:
        return False
