"""Writing one artifact: checked against its schema, compressed while the computation goes on.

HDF5 must not meet a full disk: if it fails while it closes a file, it can take the process
down at exit. So small artifacts are built in memory, and before a large one grows, Python
claims the space, where a full disk is an ordinary OSError.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache import files
from cache.files import UnfitValues, reporting, trouble
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
SLACK = LARGEST_CHUNK + 4 * MEGABYTE
"""more than an unfilled chunk and what HDF5 writes besides our data, also while it closes"""


class Ground:
    """Space on disk that HDF5 can write a new file into without fail."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0
        path.touch(exist_ok=False)
        self.claim(0)

    def claim(self, size: int) -> None:
        """Claim the first `size` bytes and slack. OSError if there is no room."""
        if size + SLACK > self._end:
            end = size + 2 * SLACK
            with self._path.open("r+b") as file:
                _claim(file.fileno(), self._end, end - self._end)
            self._end = end

    def renew(self) -> None:
        """Claim again what opening the file anew has given back."""
        self._end = 0
        self.claim(0)

    def settle(self, size: int) -> None:
        """Give back all but the first `size` bytes; the file is then safe on disk.

        HDF5 may have cut the file shorter while closing it.
        """
        with self._path.open("r+b") as file:
            file.truncate(min(size, self._path.stat().st_size))
            os.fsync(file.fileno())


def _claim(file: int, start: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, start, size)
    elif shutil.disk_usage(file).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Growing:
    """A dataset under way; whole chunks are written, so that none is compressed twice."""

    def __init__(self, dataset: h5py.Dataset, ground: Ground | None) -> None:
        self.dataset = dataset
        self.row_shape: tuple[int, ...] = dataset.shape[1:]
        self.dtype: np.dtype[Any] = dataset.dtype
        self._ground = ground
        self._waiting: list[Array] = []

    def add(self, row: Array) -> None:
        self._waiting.append(row)
        if len(self._waiting) == self.dataset.chunks[0]:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            rows = np.stack(self._waiting)
            if self._ground is not None:
                self._ground.claim(self.dataset.file.id.get_filesize() + 2 * rows.nbytes)
            before = len(self.dataset)
            self.dataset.resize(before + len(rows), axis=0)
            self.dataset[before:] = rows
            self._waiting.clear()


class Writer:
    """The datasets of one artifact, in any order: whole by put() or row by row by append().

    A list or scalar becomes an array of the schema's dtype; an array must have it already.
    Raises ValueError where the schema is not met, CacheError where the disk fails.
    """

    def __init__(self, schema: Schema, path: Path, draft: Path) -> None:
        self._schema = schema
        self._path = path
        self._draft = draft
        self._ground: Ground | None = None
        self._growing: dict[str, Growing] = {}
        self._queue: Queue[tuple[Growing, Array] | None] = Queue(QUEUE)
        self._thread: Thread | None = None
        self._error: Exception | None = None
        # Only whole chunks are written, so a chunk cache would only delay them.
        options = {"libver": FORMAT, "rdcc_nbytes": 0}
        if schema.streamed:
            # Claimed before HDF5 opens the file, since that already commits it to a write.
            with reporting(path):
                self._ground = Ground(draft)
                self._file = h5py.File(draft, "w", locking=False, **options)
                self._ground.renew()
        else:
            self._file = h5py.File(
                draft, "w", driver="core", backing_store=False, block_size=MEGABYTE, **options
            )

    def put(self, name: str, value: Any) -> None:
        """Write a whole dataset; a scalar fills a dataset of shape (1,)."""
        field = self._schema.field(name)
        values = _text(value) if field.dtype == "utf8" else _numbers(field, value)
        values = np.atleast_1d(values)
        self._create(field, values, grows=False)

    def append(self, name: str, row: npt.ArrayLike) -> None:
        """Add one row (a frame) to a dataset; it is written in the background.

        Waits while several rows are waiting to be written, so memory stays flat. A dataset
        without rows needs put() with an empty array, which has the other dimensions.
        """
        field = self._schema.field(name)
        values = _numbers(field, row)
        if name not in self._growing:
            empty = np.empty((0, *values.shape), values.dtype)
            self._growing[name] = Growing(self._create(field, empty, grows=True), self._ground)
        if self._thread is None:
            self._thread = Thread(target=self._work, name="cache writer", daemon=True)
            self._thread.start()
        growing = self._growing[name]
        if (values.shape, values.dtype) != (growing.row_shape, growing.dtype):
            raise ValueError(
                f"{self._schema.stage}: a row of {name} has shape {values.shape} and is "
                f"{values.dtype}, those before {growing.row_shape} and {growing.dtype}"
            )
        # The caller may use its array again before this one is written.
        self._queue.put((growing, values.copy()))
        self._raise_failure()

    def finish(self, attributes: Mapping[str, str | int | float]) -> None:
        """Write what waits and the attributes, check the schema; the draft is then on disk."""
        self._join()
        self._raise_failure()
        with reporting(self._path):
            for growing in self._growing.values():
                growing.flush()
            self._schema.check(contents(datasets(self._file)))
            for name, value in attributes.items():
                self._file.attrs[name] = _fixed(value) if isinstance(value, str) else value
            self._settle()

    def abandon(self) -> None:
        """Stop and release everything, whatever the state."""
        self._error = self._error or RuntimeError("abandoned")
        self._join()
        self._file.close()

    def _settle(self) -> None:
        self._file.flush()
        if self._ground is None:
            files.write_durably(self._draft, self._file.id.get_file_image())
        else:
            size = self._file.id.get_filesize()
            self._file.close()
            self._ground.settle(size)

    def _create(self, field: Field, values: Array, *, grows: bool) -> h5py.Dataset:
        self._queue.join()
        self._raise_failure()
        if field.name in self._file:
            raise ValueError(f"{self._schema.stage}: {field.name} is written twice")
        if self._ground is not None:
            with reporting(self._path):
                self._ground.claim(self._file.id.get_filesize() + 2 * values.nbytes)
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
            try:
                if self._error is None:
                    growing.add(row)
            except Exception as error:
                self._error = error
            finally:
                self._queue.task_done()

    def _join(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._queue.task_done()
            self._thread = None

    def _raise_failure(self) -> None:
        if isinstance(self._error, OSError):
            raise trouble(self._path, self._error) from self._error
        if self._error is not None:
            raise self._error


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Every dataset of an open file by name."""
    # Not file.items(), which gives None for what cannot be opened.
    return {name: file[name] for name in file}


def contents(items: Mapping[str, h5py.Dataset]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype (as schemas name it) and shape of datasets."""
    return {
        name: ("utf8" if is_text(item.dtype) else str(item.dtype), item.shape)
        for name, item in items.items()
    }


def is_text(dtype: np.dtype[Any]) -> bool:
    """Whether a dataset holds strings."""
    return h5py.check_string_dtype(dtype) is not None


def _numbers(field: Field, value: npt.ArrayLike) -> Array:
    if not isinstance(value, np.ndarray):
        value = np.asarray(value, field.dtype)
    if str(value.dtype) not in field.dtypes:
        raise ValueError(f"{field.name} is {value.dtype}, not {field.dtype}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise UnfitValues(
            f"{field.name} of this artifact came out as NaN or infinite, so it is not kept; use "
            "other weights, or run.precision = fp32"
        )
    return value


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
