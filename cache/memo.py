"""Memos: results that outlive the run that needed them, next to its artifacts.

Both are made of immutable files below `<root>/memo/`, so nothing is locked and a killed
process harms nothing. A damaged file counts as forgotten. `reached` are the keys that
pruning must know (cache.prune.record_run).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from cache import keys
from cache.files import DamagedArtifact, MissingArtifact
from cache.store import Store

Array = npt.NDArray[Any]

TRACKLET = "memo-tracklet"
MASK = "memo-mask"
VECTOR = "memo-vector"


class TrackletMemo:
    """Tracklets of one video, written at once, since they are what costs.

    A file for each that is new, and another where it was carried farther than before. content:
    everything a tracklet depends on but its starting point.
    """

    def __init__(self, store: Store, dataset: str, video: str, content: keys.Content) -> None:
        self._store, self._dataset, self._video = store, dataset, video
        self._content = content
        self.reached: set[str] = set()

    def get(self, frame: int, object_id: int, box: Array, mask: Array) -> list[dict[str, Array]]:
        """Parts of the tracklet started in `frame` by an object's box mask (4,), (s, s).

        The arrays of each: first (1,) int32, ended (2,) bool, boxes (L, 4) float32, masks
        (L, s, s) uint8.
        """
        group = keys.key(self._start(frame, object_id, box, mask))
        self.reached.add(group)
        folder = self._store.folder(TRACKLET, self._dataset, self._video)
        found = []
        for path in sorted(folder.glob(f"{keys.short(group)}-*.h5")):
            short = path.stem.partition("-")[2]
            with (
                suppress(MissingArtifact, DamagedArtifact),
                self._store.read(
                    TRACKLET, self._dataset, self._video, short, group=group
                ) as reader,
            ):
                found.append(reader.arrays())
        return found

    def put(
        self, frame: int, object_id: int, box: Array, mask: Array, tracklet: Mapping[str, Any]
    ) -> None:
        """Keep a tracklet, given as the arrays of a part. CacheError as Store.write."""
        start = self._start(frame, object_id, box, mask)
        group = keys.key(start)
        self.reached.add(group)
        content = {
            **start,
            "extent": [int(tracklet["first"]), len(tracklet["masks"])],
            "ended": [bool(end) for end in tracklet["ended"]],
        }
        with self._store.write(
            TRACKLET, self._dataset, self._video, content, group=group
        ) as writer:
            for name, value in tracklet.items():
                writer.put(name, value)

    def _start(self, frame: int, object_id: int, box: Array, mask: Array) -> keys.Content:
        return {
            "memo": self._content,
            "frame": int(frame),
            "object": int(object_id),
            "box": [float(edge) for edge in box],
            "mask": _digest(mask),
        }


class BoxMemo:
    """What a network saw in boxes of one video, for use in a `with` block.

    What the block adds becomes one file at its end, also if it ends in an error: so there
    are as many files as runs that added something, and no file is ever appended to.
    kind: MASK for masks (s, s) uint8, VECTOR for Re-ID vectors (E,) float32. content:
    everything they depend on but frame and box.
    """

    def __init__(
        self, kind: str, store: Store, dataset: str, video: str, content: keys.Content
    ) -> None:
        self._kind, self._store, self._dataset, self._video = kind, store, dataset, video
        self._content, self._field = content, kind.removeprefix("memo-")
        self._group = keys.key(content)
        self.reached = {self._group}
        self._known: dict[tuple[int, bytes], Array] = {}
        self._new: list[tuple[int, Array, Array]] = []

    def get(self, frame: int, box: Array) -> Array | None:
        """What was seen in a box (4,) float32, or None."""
        return self._known.get((int(frame), box.tobytes()))

    def put(self, frame: int, box: Array, seen: Array) -> None:
        """Keep what was seen in a box; it is on disk after the block."""
        known = (int(frame), box.tobytes())
        if known not in self._known:
            self._known[known] = seen
            self._new.append((int(frame), box, seen))

    def __enter__(self) -> BoxMemo:
        """Read what earlier runs know."""
        folder = self._store.folder(self._kind, self._dataset, self._video)
        for path in sorted(folder.glob(f"{keys.short(self._group)}-*.h5")):
            self._load(path.stem.partition("-")[2])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is new. CacheError as Store.write."""
        if not self._new:
            return
        frames, boxes, seen = zip(*self._new, strict=True)
        arrays = {"frame": np.array(frames, np.int32), "box": np.stack(boxes)}
        content = {"memo": self._content, "boxes": _digest(*arrays.values())}
        with self._store.write(
            self._kind, self._dataset, self._video, content, group=self._group
        ) as writer:
            for name, value in arrays.items():
                writer.put(name, value)
            writer.put(self._field, np.stack(seen))
        self._new.clear()

    def _load(self, short: str) -> None:
        try:
            with self._store.read(
                self._kind, self._dataset, self._video, short, group=self._group
            ) as reader:
                arrays = reader.arrays()
        except (MissingArtifact, DamagedArtifact):
            return
        columns = (arrays[name] for name in ("frame", "box", self._field))
        for frame, box, seen in zip(*columns, strict=True):
            self._known[int(frame), box.tobytes()] = seen


def _digest(*arrays: Array) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
