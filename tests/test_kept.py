"""Frames that stay in memory between stages: read once, within bounds, and the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from luigi.configuration import get_config

from cache.store import Store
from pipeline.errors import UserError
from pipeline.plan.machine import kept_bytes
from pipeline.run import kept
from pipeline.run.kept import KeptRows, Shelf

FRAMES = 6
ROW = 4 * 5 * 6 * 2
"""bytes of a frame"""


class Counted:
    """Rows of an artifact's dataset, which notes what is read."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.reads = rows, []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, j: int) -> np.ndarray:
        self.reads.append(j)
        return self.rows[j]


@pytest.fixture
def rows(tmp_path: Path) -> np.ndarray:
    """Features, as an artifact has them."""
    values = np.random.default_rng(0).normal(size=(FRAMES, 4, 5, 6)).astype(np.float16)
    store = Store(tmp_path)
    content = {"inputs": {}, "stage": "features"}
    with store.write("features", "set", "ant", content, inputs={}, device="cpu", started=0) as out:
        for row in values:
            out.append("coarse", row)
    [path] = store.folder("features", "set", "ant").glob("*.h5")
    with store.read("features", "set", "ant", path.stem) as reader:
        return reader["coarse"][:]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """An empty shelf with room for four frames."""
    empty = Shelf()
    monkeypatch.setattr(kept, "SHELF", empty)
    monkeypatch.setattr(kept, "kept_bytes", lambda: 4 * ROW + 1)
    return empty


def passes(shelf: Shelf, video: str, source: Counted, times: int) -> list[list[np.ndarray]]:
    """What several stages see, one after the other."""
    return [
        [found[j] for j in range(len(found))]
        for found in (
            KeptRows(source, shelf.of((video,), ("key", "coarse")), np.asarray)
            for _ in range(times)
        )
    ]


def test_frames_that_fit_are_read_once(shelf: Shelf, rows: np.ndarray) -> None:
    source = Counted(rows)
    for seen in passes(shelf, "ant", source, 3):
        np.testing.assert_array_equal(np.stack(seen), rows)
    # the first four stay; of the others nothing is kept that the next stage would lose
    assert [source.reads.count(j) for j in range(FRAMES)] == [1, 1, 1, 1, 3, 3]
    assert shelf.taken == 4 * ROW


def test_another_video_gives_up_what_was_kept(shelf: Shelf, rows: np.ndarray) -> None:
    first, second = Counted(rows), Counted(rows + 1)
    passes(shelf, "ant", first, 1)
    [seen] = passes(shelf, "bee", second, 1)
    np.testing.assert_array_equal(np.stack(seen), rows + 1)
    assert shelf.taken == 4 * ROW
    passes(shelf, "ant", first, 1)
    assert first.reads.count(0) == 2


def test_datasets_of_a_video_share_the_room(shelf: Shelf, rows: np.ndarray) -> None:
    coarse, fine = Counted(rows), Counted(rows + 1)
    for source, name in ((coarse, "coarse"), (fine, "fine")) * 2:
        found = KeptRows(source, shelf.of(("ant",), ("key", name)), np.asarray)
        np.testing.assert_array_equal(np.stack([found[0], found[1], found[2]]), source.rows[:3])
    assert coarse.reads == [0, 1, 2]
    assert fine.reads == [0, 1, 2, 1, 2]


@pytest.fixture
def configure() -> Iterator[Callable[[str], None]]:
    """Sets [cache] kept_mib, until the test ends."""
    config = get_config()
    before = config.has_section("cache")
    yield lambda text: config.set("cache", "kept_mib", text)
    config.remove_option("cache", "kept_mib")
    if not before:
        config.remove_section("cache")


def test_the_bound_is_set_in_luigi_cfg(configure: Callable[[str], None]) -> None:
    for text, size in (("0", 0), ("2", 2 << 20)):
        configure(text)
        assert kept_bytes() == size
    configure("lots")
    with pytest.raises(UserError, match=r"\[cache\] kept_mib = lots: must be MiB"):
        kept_bytes()
