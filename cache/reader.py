"""Reading one artifact: lazily, without locks, and never wrong bytes."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache import keys
from cache.files import BAD, DamagedArtifact, MissingArtifact, trouble
from cache.schemas import Schema
from cache.writer import LARGEST_CHUNK, contents, datasets, is_text

CHUNK_CACHE = 2 * LARGEST_CHUNK
"""bytes a dataset may keep decompressed: frames that share a chunk are unpacked once"""

MALFORMED = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""what h5py and the checks raise at a file that is not what it should be"""


class Column:
    """One dataset, read when indexed."""

    def __init__(self, reader: Reader, dataset: h5py.Dataset) -> None:
        self._reader = reader
        self._dataset = dataset
        self.shape: tuple[int, ...] = dataset.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Values at `index` (as h5py takes it: ints, slices, ascending lists); utf8 as str."""
        with self._reader.guard(OSError, RuntimeError):
            values = self._dataset[index]
        return np.char.decode(values, "utf-8")[()] if is_text(self._dataset.dtype) else values


class Reader:
    """An open artifact: `reader["masks"][3]`; `"fine" in reader`.

    Raises MissingArtifact if the file is not there; DamagedArtifact, now or at any later
    read, if its bytes are not those written: the file is then named .bad and will be
    computed anew; CacheError if the system refuses to read it.
    """

    def __init__(self, schema: Schema, path: Path, key: str) -> None:
        self._path = path
        self._file: h5py.File | None = None
        try:
            self._identity = _identity(path)
        except FileNotFoundError as error:
            raise MissingArtifact(
                f"{path} is missing, it may have been pruned: the next run makes it"
            ) from error
        except OSError as error:
            raise trouble(path, error) from error
        try:
            with self.guard(*MALFORMED):
                self._file = h5py.File(path, "r", locking=False, rdcc_nbytes=CHUNK_CACHE)
                self._open(schema, key)
        except BaseException:
            self.close()
            raise

    def _open(self, schema: Schema, key: str) -> None:
        assert self._file is not None
        attributes = dict(self._file.attrs)
        if attributes.get("complete") != 1:
            raise ValueError("it is incomplete")
        self.key: str = attributes["key"].decode()
        if not self.key.startswith(key):
            raise ValueError("it belongs to another key")
        self.content: dict[str, Any] = json.loads(attributes["recipe"])
        self.inputs: dict[str, str] = json.loads(attributes["inputs"])
        self.versions: dict[str, str] = json.loads(attributes["versions"])
        self.host: str = attributes["host"].decode()
        self.device: str = attributes["device"].decode()
        self.wall_seconds = float(attributes["wall_seconds"])
        self._datasets = datasets(self._file)
        schema.check(contents(self._datasets))

    def __getitem__(self, name: str) -> Column:
        return Column(self, self._datasets[name])

    def __contains__(self, name: str) -> bool:
        return name in self._datasets

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything, in memory."""
        return {name: self[name][:] for name in self._datasets}

    def verify(self) -> None:
        """Check the recipe against the key, and every chunk against its checksum."""
        with self.guard(*MALFORMED):
            if keys.key(self.content) != self.key:
                raise ValueError("its recipe is not that of its key")
            for dataset in self._datasets.values():
                for chunk in dataset.iter_chunks() if dataset.size else ():
                    dataset[chunk]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @contextmanager
    def guard(self, *kinds: type[Exception]) -> Iterator[None]:
        """Turn these errors into DamagedArtifact, and what the system refuses into CacheError."""
        try:
            yield
        except kinds as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
                raise trouble(self._path, error) from error
            raise self._set_aside(error) from error

    def _set_aside(self, error: Exception) -> DamagedArtifact:
        """Rename the file, unless another process has replaced it meanwhile."""
        outcome = f"renamed to {self._path.name}{BAD}; the next run computes it anew"
        try:
            with suppress(FileNotFoundError):
                if _identity(self._path) == self._identity:
                    self._path.replace(f"{self._path}{BAD}")
        except OSError as refused:
            outcome = f"remove it, since it cannot be renamed ({refused.strerror})"
        return DamagedArtifact(f"{self._path} is damaged ({_first_line(error)}): {outcome}")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _first_line(error: Exception) -> str:
    return str(error.args[0] if error.args else error).splitlines()[0]
