"""Memos remember exactly, survive damage, and stay few files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.files import CacheError
from cache.memo import MASK, VECTOR, BoxMemo, TrackletMemo
from cache.store import Store

RNG = np.random.default_rng(0)
BOX = np.array([3.5, 4.25, 30.1, 40], np.float32)
SEEN = RNG.integers(0, 255, (8, 8)).astype(np.uint8)
TRACKLET: dict[str, Any] = {
    "first": 2,
    "ended": (True, False),
    "boxes": RNG.standard_normal((5, 4)).astype(np.float32),
    "masks": RNG.integers(0, 255, (5, 8, 8)).astype(np.uint8),
}
RECIPE = {"features": "0" * 32, "abort_ratio": 0.1}


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_a_tracklet_is_remembered_by_its_whole_starting_point(tmp_path: Path) -> None:
    store = Store(tmp_path)
    memo = TrackletMemo(store, "demo", "bear", RECIPE)
    assert memo.get(4, 1, BOX, SEEN) == []
    memo.put(4, 1, BOX, SEEN, TRACKLET)
    memo = TrackletMemo(store, "demo", "bear", RECIPE)
    (found,) = memo.get(4, 1, BOX, SEEN)
    assert found["first"][0] == 2 and found["ended"].tolist() == [True, False]
    np.testing.assert_array_equal(found["boxes"], TRACKLET["boxes"])
    np.testing.assert_array_equal(found["masks"], TRACKLET["masks"])
    assert memo.get(4, 2, BOX, SEEN) == []
    assert memo.get(5, 1, BOX, SEEN) == []
    assert memo.get(4, 1, np.nextafter(BOX, np.float32(0)), SEEN) == []
    assert memo.get(4, 1, BOX, SEEN ^ 1) == []
    assert TrackletMemo(store, "demo", "goat", RECIPE).get(4, 1, BOX, SEEN) == []
    other = RECIPE | {"abort_ratio": 0.2}
    assert TrackletMemo(store, "demo", "bear", other).get(4, 1, BOX, SEEN) == []
    (path,) = files(tmp_path)
    assert path.parent == tmp_path / "memo" / "tracklet" / "demo" / "bear"


def test_a_tracklet_carried_farther_joins_what_was_known(tmp_path: Path) -> None:
    memo = TrackletMemo(Store(tmp_path), "demo", "bear", RECIPE)
    farther = {name: TRACKLET[name][:4] for name in ("boxes", "masks")}
    farther |= {"first": 1, "ended": (False, True)}
    for part in (TRACKLET, farther, TRACKLET):
        memo.put(4, 1, BOX, SEEN, part)
    assert len(files(tmp_path)) == 2
    found = memo.get(4, 1, BOX, SEEN)
    assert sorted(int(part["first"][0]) for part in found) == [1, 2]
    # a part that is damaged is forgotten, and the other stays
    first, second = files(tmp_path)
    first.write_bytes(first.read_bytes()[:-1])
    assert len(memo.get(4, 1, BOX, SEEN)) == 1 and second.exists()


def test_masks_of_a_run_are_one_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    boxes = RNG.uniform(0, 90, (300, 4)).astype(np.float32)
    masks = RNG.integers(0, 255, (300, 8, 8)).astype(np.uint8)
    for part in (slice(0, 200), slice(150, 300)):
        with BoxMemo(MASK, store, "demo", "bear", RECIPE) as memo:
            for n in range(300)[part]:
                if memo.get(n, boxes[n]) is None:
                    memo.put(n, boxes[n], masks[n])
    assert len(files(tmp_path)) == 2
    with BoxMemo(MASK, store, "demo", "bear", RECIPE) as memo:
        for n in range(300):
            np.testing.assert_array_equal(memo.get(n, boxes[n]), masks[n])
        assert memo.get(0, boxes[1]) is None
    assert len(files(tmp_path)) == 2
    with BoxMemo(MASK, store, "demo", "bear", {"features": "1"}) as memo:
        assert memo.get(0, boxes[0]) is None


def test_masks_and_vectors_of_a_box_are_kept_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    vector = RNG.standard_normal(256).astype(np.float32)
    with (
        BoxMemo(MASK, store, "demo", "bear", RECIPE) as masks,
        BoxMemo(VECTOR, store, "demo", "bear", RECIPE) as vectors,
    ):
        masks.put(1, BOX, SEEN)
        vectors.put(1, BOX, vector)
    with BoxMemo(VECTOR, store, "demo", "bear", RECIPE) as vectors:
        np.testing.assert_array_equal(vectors.get(1, BOX), vector)
    assert [path.parent.parent.parent.name for path in files(tmp_path)] == ["mask", "vector"]


def test_masks_are_kept_when_the_block_fails(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), BoxMemo(MASK, store, "demo", "bear", RECIPE) as memo:
        memo.put(1, BOX, SEEN)
        raise KeyboardInterrupt
    with BoxMemo(MASK, store, "demo", "bear", RECIPE) as memo:
        np.testing.assert_array_equal(memo.get(1, BOX), SEEN)


def test_two_runs_at_once_both_add_their_masks(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with (
        BoxMemo(MASK, store, "demo", "bear", RECIPE) as a,
        BoxMemo(MASK, store, "demo", "bear", RECIPE) as b,
    ):
        a.put(1, BOX, SEEN)
        b.put(1, BOX, SEEN)
        b.put(2, BOX, SEEN ^ 1)
    with BoxMemo(MASK, store, "demo", "bear", RECIPE) as memo:
        np.testing.assert_array_equal(memo.get(1, BOX), SEEN)
        np.testing.assert_array_equal(memo.get(2, BOX), SEEN ^ 1)


def test_what_is_damaged_is_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tracklets = TrackletMemo(store, "demo", "bear", RECIPE)
    tracklets.put(4, 1, BOX, SEEN, TRACKLET)
    with BoxMemo(MASK, store, "demo", "bear", RECIPE) as masks:
        masks.put(1, BOX, SEEN)
    for path in files(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    assert tracklets.get(4, 1, BOX, SEEN) == []
    with BoxMemo(MASK, store, "demo", "bear", RECIPE) as masks:
        assert masks.get(1, BOX) is None
    assert [path.suffix for path in files(tmp_path)] == [".bad", ".bad"]


def test_a_memo_without_space_says_so(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    memo = TrackletMemo(Store(tmp_path / "root"), "demo", "bear", RECIPE)
    with pytest.raises(CacheError, match="DYENET_CACHE"):
        memo.put(4, 1, BOX, SEEN, TRACKLET)
