"""How a file appears: whole, or not at all. Imports nothing but the standard library."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
BAD = ".bad"
GRACE_S = 3600.0
"""A draft that nobody has written to for so long is a killed writer's."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CacheError(Exception):
    """The artifact root cannot serve; one line that says where and what mends it."""


class MissingArtifact(CacheError):
    """The artifact is not there (any more)."""


class DamagedArtifact(CacheError):
    """The artifact's bytes are not those that were written; it is out of the way now."""


class UnfitValues(CacheError):
    """What was computed is not finite, so it is not kept."""


@contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a CacheError that names `path` and what mends it."""
    try:
        yield
    except OSError as error:
        raise trouble(path, error) from error


def trouble(path: Path, error: OSError) -> CacheError:
    """The CacheError for a failed access to `path`."""
    mend = "free space there (dyenet prune)" if error.errno in FULL else "mend that"
    return CacheError(
        f"{path}: {error.strerror or error}; {mend}, or choose another folder with "
        "[cache] root in luigi.cfg or the environment variable DYENET_CACHE"
    )


def readable(count: float) -> str:
    """A number of bytes: 12.3 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; CacheError if that fails."""
    with reporting(folder):
        folder.mkdir(parents=True, exist_ok=True)


def temporary(path: Path) -> Path:
    """A name in the folder of `path` that no other writer has."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{TEMPORARY}")


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it; nothing is left if that fails."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def publish(temporary: Path, path: Path) -> None:
    """Give a durably written file its final name, unless another writer was first."""
    with suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
    _sync_folder(path.parent)


def sweep_drafts(path: Path) -> None:
    """Remove drafts older than GRACE_S in the folder of a file that was just written."""
    written = path.stat().st_mtime
    for draft in path.parent.glob(f"*{TEMPORARY}"):
        with suppress(OSError):
            if draft.stat().st_mtime <= written - GRACE_S:
                draft.unlink()


def write_file(path: Path, data: bytes) -> None:
    """Write `path` anew, its folder too: a reader sees the old content or the new, never a part.

    The disk has it before it gets its name, and no two writers share a draft. OSError if that
    fails; nothing is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = temporary(path)
    write_durably(draft, data)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink()
        raise


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write a dict as JSON with a checksum; OSError as write_file()."""
    write_file(path, json.dumps({"values": values, "checksum": checksum(values)}).encode())


def read_record(path: Path) -> dict[str, Any]:
    """What write_record() wrote; empty if there is none.

    A damaged one, or one of a version without checksums, is set aside: what it says can be
    found again.
    """
    try:
        stored = json.loads(path.read_bytes())
        values: dict[str, Any] = stored["values"]
        if stored["checksum"] == checksum(values):
            return values
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    set_aside(path)
    return {}


def checksum(values: Any) -> str:
    """Of a record's values, as write_record() adds it."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def set_aside(path: Path) -> None:
    """Take a damaged file out of the way, where the folder can be written to."""
    with suppress(OSError):
        path.replace(f"{path}{BAD}")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
