"""Digests of source files, memoised as git's index does: a no-change run reads none anew.

One small JSON file per source folder, below `<root>/digests/`. Writers replace it whole;
where two write at once, what one of them added is computed again later.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from cache import files

BLOCK = 1 << 20
RACY_NS = 2_000_000_000
"""A file changed so shortly before it was read may change again within the same tick of its
clock: its digest is not kept."""

Stamp = list[int]
"""Size, mtime, ctime (ns) and inode: ctime tells edits that set mtime back."""
Folder = dict[str, tuple[Stamp, str]]
"""Stamp and digest by file name."""


class FileDigests:
    """Digests of files; `with` it, or call save(), to keep what was computed."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root) / "digests"
        self._folders: dict[Path, Folder] = {}
        self._new: dict[Path, Folder] = {}

    def digest(self, path: str | Path) -> str:
        """blake2b-128 of a file's bytes, 32 hexadecimal digits. OSError if it is unreadable."""
        path = Path(os.path.abspath(path))  # noqa: PTH100 - links may lead elsewhere tomorrow
        stamp = stamp_of(path)
        known = self._folder(path.parent).get(path.name)
        if known is not None and known[0] == stamp:
            return known[1]
        read_at = time.time_ns()
        digest = _read(path)
        if stamp_of(path) == stamp and read_at - max(stamp[1:3]) >= RACY_NS:
            self._folders[path.parent][path.name] = (stamp, digest)
            self._new.setdefault(path.parent, {})[path.name] = (stamp, digest)
        return digest

    def save(self) -> None:
        """Keep what was computed. If the root cannot be written to, the files are read again."""
        for folder, new in self._new.items():
            path = self._path(folder)
            with suppress(OSError):
                files.write_record(path, {**_load(path), **new})
        self._new.clear()

    def __enter__(self) -> FileDigests:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()

    def _folder(self, folder: Path) -> Folder:
        if folder not in self._folders:
            self._folders[folder] = _load(self._path(folder))
        return self._folders[folder]

    def _path(self, folder: Path) -> Path:
        name = hashlib.blake2b(os.fsencode(folder), digest_size=8).hexdigest()
        return self._root / f"{name}.json"


def bytes_digest(data: bytes) -> str:
    """What digest() says of a file that holds these bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def stamp_of(path: Path) -> Stamp:
    """What changes when a file is written to. OSError if it is no regular file."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _load(path: Path) -> Folder:
    """A folder's memo; empty if there is none, or none that can be read."""
    return {name: (stamp, digest) for name, (stamp, digest) in files.read_record(path).items()}
