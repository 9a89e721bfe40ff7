"""The artifact root: every HDF5 file of the project is written and read here.

A file is written under a name of its own, reaches the disk, and then gets its final name
in one step; the first of two writers wins. Files never change, so reading takes no lock.
"""

from __future__ import annotations

import json
import platform
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from cache import files, keys
from cache.files import reporting
from cache.reader import Reader
from cache.schemas import SCHEMAS
from cache.writer import Ground, Writer

LIBRARIES = ("dyenet", "numpy", "h5py", "hdf5plugin", "opencv-python", "torch", "torchvision")


class Store:
    """Artifacts below one folder, at `<root>/<stage>/<dataset>/<video>/<key16>.h5`.

    A `group` goes before the key in the file's name: files that are looked up together.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def folder(self, stage: str, dataset: str, video: str) -> Path:
        """Where a stage keeps a video; characters that a path cannot hold are escaped."""
        return self.root / SCHEMAS[stage].folder / _component(dataset) / _component(video)

    def path(self, stage: str, dataset: str, video: str, key: str, group: str = "") -> Path:
        """The final name of an artifact, whether or not it exists."""
        prefix = f"{keys.short(group)}-" if group else ""
        return self.folder(stage, dataset, video) / f"{prefix}{keys.short(key)}.h5"

    def exists(self, stage: str, dataset: str, video: str, key: str) -> bool:
        """Whether the artifact is complete: one stat, since only complete files have names."""
        return self.path(stage, dataset, video, key).exists()

    @contextmanager
    def write(
        self,
        stage: str,
        dataset: str,
        video: str,
        content: keys.Content,
        *,
        inputs: Mapping[str, str] | None = None,
        device: str = "cpu",
        group: str = "",
        started: float | None = None,
    ) -> Iterator[Writer]:
        """Write the artifact of `content`; it appears at the end of the block, or not at all.

        inputs: the key of each input by name, for the record. started: when work on the
        artifact began (time.perf_counter()), if not with the block. Raises ValueError if the
        block leaves the schema unmet, CacheError if the disk is full or refuses.
        """
        began = time.perf_counter() if started is None else started
        key = keys.key(content)
        path = self.path(stage, dataset, video, key, group)
        files.make_folder(path.parent)
        draft = files.temporary(path)
        try:
            writer = Writer(SCHEMAS[stage], path, draft)
            try:
                yield writer
                writer.finish(
                    {
                        "recipe": keys.canonical(content),
                        "key": key,
                        "inputs": keys.canonical(inputs or {}),
                        "versions": _versions(),
                        "host": socket.gethostname(),
                        "device": device,
                        "wall_seconds": time.perf_counter() - began,
                        "complete": 1,
                    }
                )
            finally:
                writer.abandon()
            with reporting(path):
                files.publish(draft, path)
                files.sweep_drafts(path)
        finally:
            draft.unlink(missing_ok=True)

    @contextmanager
    def read(
        self, stage: str, dataset: str, video: str, key: str, group: str = ""
    ) -> Iterator[Reader]:
        """Open an artifact for the block; errors as Reader."""
        reader = Reader(SCHEMAS[stage], self.path(stage, dataset, video, key, group), key)
        try:
            yield reader
        finally:
            reader.close()

    def check_writable(self) -> None:
        """CacheError if the root cannot be made or written to, or its disk is full."""
        files.make_folder(self.root)
        with reporting(self.root):
            draft = files.temporary(self.root / "writable")
            try:
                Ground(draft)
            finally:
                draft.unlink(missing_ok=True)


def _component(name: str) -> str:
    """A dataset's or video's name as one folder: a slash in it becomes %2F."""
    if not name:
        raise ValueError("a dataset or video has an empty name")
    return re.sub(r"[/\\%\0]|^\.", lambda found: f"%{ord(found[0]):02X}", name)


@lru_cache(maxsize=1)
def _versions() -> str:
    """Versions as JSON; reading them does not import the libraries."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return json.dumps(found, sort_keys=True)
