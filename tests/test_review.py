"""Px and confidence of every mask, frames worth a look, and what has changed since."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow

from pipeline.reports import changes, masks, read_run
from pipeline.results.export import export_video
from pipeline.results.review import LOOKS, MASKS, Look, worth_a_look
from tests.test_export import SIZE, files, gather, result, truth

KEYS = {"tubes(2)": "def"}


def seen(pixels: list[int], confidence: list[float] | None = None, i: int = 1) -> pd.DataFrame:
    """Rows of MASKS of an object."""
    sure = confidence or [0.95] * len(pixels)
    rows = [("walk", j, i, *row) for j, row in enumerate(zip(pixels, sure, strict=True))]
    return pd.DataFrame(rows, columns=list(MASKS)).astype(MASKS)


def found(looks: list[Look]) -> list[tuple[int, int, str, float]]:
    return [(look.frame, look.object, look.reason, look.value) for look in looks]


def test_what_is_lost_and_found_again_is_worth_a_look() -> None:
    table = seen([0, 0, 900, 900, 900, 900, 0, 0, 0, 0, 0, 600, 600])
    assert found(worth_a_look(table, {2})) == [(6, 1, "lost", -900), (11, 1, "found again", 600)]
    assert found(worth_a_look(table, {2, 11})) == [(6, 1, "lost", -900)]


def test_large_changes_are_worth_a_look_and_small_ones_are_not() -> None:
    assert found(worth_a_look(seen([900, 610, 600, 600, 600, 910]), {0})) == [(5, 1, "grows", 310)]
    assert found(worth_a_look(seen([900, 590]), {0})) == [(1, 1, "shrinks", -310)]
    # 10 x 10 px that grow by a px all round
    assert not worth_a_look(seen([100, 144, 100]), {0})


def test_the_lowest_confidence_of_a_stretch_is_worth_a_look() -> None:
    sure = [1.0, 0.89, 0.7, 0.85, 0.95, 0.95, 0.95, 0.95, 0.6]
    table = pd.concat([seen([900] * 9, sure, i=2), seen([900] * 9)])
    assert found(worth_a_look(table, {0})) == [
        (2, 2, "low confidence", 0.7),
        (8, 2, "low confidence", 0.6),
    ]


def test_looks_are_few_and_the_weightiest() -> None:
    pixels = [900 if j % 8 < 4 else 0 for j in range(400)]
    pixels[100:104] = [90] * 4
    looks = worth_a_look(seen(pixels), {0})
    assert len(looks) == LOOKS
    assert min(abs(b.frame - a.frame) for a, b in pairwise(looks)) >= 4
    assert all(look.weight == 1 for look in looks)
    assert not worth_a_look(seen([]), {0})


def test_masks_are_counted_and_their_confidence_kept(tmp_path: Path) -> None:
    confidence = np.linspace(0.5, 1, 18, dtype=np.float32).reshape(9, 2)
    video = result("walk", confidence=confidence)
    export_video(video, tmp_path)
    gather(tmp_path, video)
    table = masks(tmp_path)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == MASKS
    assert len(table) == 18
    for row in table.itertuples():
        with Pillow.open(tmp_path / f"masks/walk/{row.frame:05d}.png") as mask:
            assert row.pixels == np.count_nonzero(np.asarray(mask) == row.object)
        assert row.confidence == pytest.approx(confidence[row.frame, row.object - 1])


def test_frames_worth_a_look_are_named_and_pictured(tmp_path: Path) -> None:
    shown = [truth(j) if j != 4 else np.zeros(SIZE, np.uint8) for j in range(9)]
    video = result("walk", masks=shown, scored=False)
    export_video(video, tmp_path)
    gather(tmp_path, video)
    looks = read_run(tmp_path)["videos"]["walk"]["look"]
    assert {(look["name"], look["reason"]) for look in looks} == {("00004", "lost")}
    assert (tmp_path / "pictures/walk/00004.jpg").exists()
    assert "lost" in (tmp_path / "report.html").read_text()


def test_what_changed_since_the_run_before_is_counted(tmp_path: Path) -> None:
    before = result("walk")
    export_video(before, tmp_path)
    gather(tmp_path, before)
    assert not len(changes(tmp_path))
    assert not (tmp_path / "scores/changes.csv").exists()
    shown = list(before.masks)
    shown[3] = shown[3].copy()
    shown[3][40:, 60:] = 2
    shown[7] = np.where(shown[7] == 1, 2, shown[7])
    after = result("walk", masks=shown, keys=KEYS)
    export_video(after, tmp_path)
    gather(tmp_path, after)
    square = np.count_nonzero(before.masks[7] == 1)
    added = np.count_nonzero(shown[3] != before.masks[3])
    expected = [("walk", 3, 2, added), ("walk", 7, 1, square), ("walk", 7, 2, square)]
    assert changes(tmp_path).to_records(index=False).tolist() == expected
    # Written anew from the same keys, nothing is known to have changed.
    (tmp_path / "masks/walk/00003.png").unlink()
    kept = files(tmp_path)["scores/changes.csv"]
    export_video(after, tmp_path)
    assert files(tmp_path)["scores/changes.csv"] == kept


def test_masks_that_cannot_be_compared_have_not_changed(tmp_path: Path) -> None:
    export_video(result("walk"), tmp_path)
    (tmp_path / "masks/walk/00003.png").write_bytes(b"no picture")
    Pillow.new("P", (3, 3)).save(tmp_path / "masks/walk/00004.png")
    after = result("walk", masks=[truth(j) for j in range(9)], keys=KEYS)
    export_video(after, tmp_path)
    gather(tmp_path, after)
    assert set(changes(tmp_path)["frame"]) == set(range(9)) - {3, 4}
