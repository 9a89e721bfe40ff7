"""Writing one artifact: checked against its schema, compressed beside the computation.

HDF5 never sees a failing disk: what it writes goes through Python, which keeps the first
error to itself and lets the rest of the file pass. (HDF5 that fails while it closes a file
can take the process down at exit.) The error is raised at the next append or at the end.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Mapping
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache.files import RESERVE, trouble
from cache.schemas import FILTERS, Field, Schema

Array = npt.NDArray[Any]

# The oldest format in which HDF5 checks its own structures too, not only our data.
FORMAT = ("v110", "v110")
MEGABYTE = 1 << 20
LARGEST_CHUNK = 16 * MEGABYTE
ROWS = 1024
"""most rows in a chunk of a dataset that grows"""
QUEUE = 3
"""frames that may wait to be written"""


class Spill(io.FileIO):
    """A new file that swallows writes after the first that failed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x+")
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data` while RESERVE bytes would stay free; never raises."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while self.failure is None and left:
                self._need(len(left))
                left = left[super().write(left) or 0 :]
        except OSError as error:
            self.failure = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the length; never raises."""
        try:
            if self.failure is None:
                super().truncate(size)
        except OSError as error:
            self.failure = error
        return size or 0

    def _need(self, size: int) -> None:
        disk = os.fstatvfs(self.fileno())
        if disk.f_bavail * disk.f_frsize < size + RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Growing:
    """A dataset under way; whole chunks are written, so that none is compressed twice."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self.waiting: list[Array] = []

    def add(self, row: Array) -> None:
        self.waiting.append(row)
        if len(self.waiting) == self.dataset.chunks[0]:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            before = len(self.dataset)
            self.dataset.resize(before + len(self.waiting), axis=0)
            self.dataset[before:] = np.stack(self.waiting)
            self.waiting.clear()


class Writer:
    """The datasets of one artifact, in any order: whole by put() or row by row by append().

    A list or scalar becomes an array of the schema's dtype; an array must have it already.
    Raises ValueError where the schema is not met, CacheError where the disk fails.
    """

    def __init__(self, schema: Schema, target: Spill | io.BytesIO, path: Path) -> None:
        self._schema = schema
        self._target = target
        self._path = path
        # Only whole chunks are written, so a chunk cache would only delay them.
        self._file = h5py.File(target, "w", libver=FORMAT, rdcc_nbytes=0)
        self._growing: dict[str, Growing] = {}
        self._queue: Queue[tuple[Growing, Array] | None] = Queue(QUEUE)
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def put(self, name: str, value: Any) -> None:
        """Write a whole dataset; a scalar fills a dataset of shape (1,)."""
        field = self._schema.field(name)
        values = _text(value) if field.dtype == "utf8" else _numbers(field, value)
        self._create(field, np.atleast_1d(values), grows=False)
        self._raise_failure()

    def append(self, name: str, row: npt.ArrayLike) -> None:
        """Add one row (a frame) to a dataset; it is written in the background.

        Waits while several rows are waiting to be written, so memory stays flat. A dataset
        without rows needs put() with an empty array, which has the other dimensions.
        """
        field = self._schema.field(name)
        values = _numbers(field, row)
        if name not in self._growing:
            empty = np.empty((0, *values.shape), values.dtype)
            self._growing[name] = Growing(self._create(field, empty, grows=True))
        if self._thread is None:
            self._thread = Thread(target=self._work, name="cache writer", daemon=True)
            self._thread.start()
        growing = self._growing[name]
        if values.shape != growing.dataset.shape[1:]:
            raise ValueError(
                f"{self._schema.stage}: a row of {name} has shape {values.shape}, "
                f"those before {growing.dataset.shape[1:]}"
            )
        # The caller may use its array again before this one is written.
        self._queue.put((growing, values.copy()))
        self._raise_failure()

    def finish(self, attributes: Mapping[str, str | int | float]) -> None:
        """Write what waits and the attributes, check the schema and close."""
        self._join()
        for growing in self._growing.values():
            growing.flush()
        self._raise_failure()
        self._schema.check(contents(self._file))
        for name, value in attributes.items():
            self._file.attrs[name] = _fixed(value) if isinstance(value, str) else value
        self._file.close()
        self._raise_failure()

    def abandon(self) -> None:
        """Stop and release everything, whatever the state; nothing more is written."""
        if isinstance(self._target, Spill):
            self._target.failure = self._target.failure or OSError(errno.ECANCELED, "abandoned")
        self._error = self._error or RuntimeError("abandoned")
        self._join()
        self._file.close()
        self._target.close()

    def _create(self, field: Field, values: Array, *, grows: bool) -> h5py.Dataset:
        if field.name in self._file:
            raise ValueError(f"{self._schema.stage}: {field.name} is written twice")
        dataset = self._file.create_dataset(
            field.name,
            data=values,
            maxshape=tuple(n or None for n in values.shape),
            chunks=_chunks(field, values, grows),
            fletcher32=True,
            **FILTERS[field.filter],
        )
        if field.scale:
            dataset.attrs["scale"] = field.scale
        return dataset

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            growing, row = item
            if self._error is None:
                try:
                    growing.add(row)
                except Exception as error:
                    self._error = error

    def _join(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _raise_failure(self) -> None:
        if isinstance(self._target, Spill) and self._target.failure is not None:
            raise trouble(self._path, self._target.failure) from self._target.failure
        if self._error is not None:
            raise self._error


def contents(file: h5py.File) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype (as schemas name it) and shape of every dataset of an open file."""
    # Not file.items(), which gives None for what cannot be opened.
    items = {name: file[name] for name in file}
    return {
        name: ("utf8" if is_text(item.dtype) else str(item.dtype), item.shape)
        for name, item in items.items()
    }


def is_text(dtype: np.dtype[Any]) -> bool:
    """Whether a dataset holds strings."""
    return h5py.check_string_dtype(dtype) is not None


def _numbers(field: Field, value: npt.ArrayLike) -> Array:
    if isinstance(value, np.ndarray):
        if value.dtype != field.dtype:
            raise ValueError(f"{field.name} is {value.dtype}, not {field.dtype}")
        return value
    return np.asarray(value, field.dtype)


def _text(value: str | list[str]) -> Array:
    """Fixed-length strings: variable-length ones lie where HDF5 has no checksum."""
    rows = [value] if isinstance(value, str) else list(value)
    encoded = [row.encode() for row in rows]
    longest = max(map(len, encoded), default=0)
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, longest)))


def _fixed(text: str) -> Array:
    return np.array(text.encode(), h5py.string_dtype("utf-8", max(1, len(text.encode()))))


def _chunks(field: Field, values: Array, grows: bool) -> tuple[int, ...]:
    row = max(1, values.itemsize * int(np.prod(values.shape[1:])))
    most = min(field.rows, LARGEST_CHUNK // row) if field.rows else MEGABYTE // row
    known = ROWS if grows else len(values)
    return tuple(max(1, n) for n in (min(most, known), *values.shape[1:]))
