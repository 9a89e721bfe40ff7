"""Masks, overlays, CSVs and official tables: what a run leaves and what it replaces."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow

from pipeline.datasets import rule_of
from pipeline.datasets.layout import Dataset, Video
from pipeline.datasets.palette import davis_palette
from pipeline.datasets.rules import Rule, objects_of
from pipeline.errors import MENDABLE, UserError
from pipeline.pages.run import report_html
from pipeline.results.export import (
    Iteration,
    Start,
    VideoResult,
    export_video,
    exported,
    starts_of,
)
from pipeline.results.folder import score_folder
from pipeline.results.overlays import VideoFile, check_whole, overlay, read_palette
from pipeline.results.scores import category
from pipeline.results.tables import Run, gathered
from stages.frames import FrameReader
from stages.scores import StartCounts, score_video
from stages.types import Image, IndexMask, Linking, Matches, StartingPoint, Tracklet

ROOT = Path(__file__).parents[1]
SIZE = 48, 65
"""(H, W); odd, as some videos are"""


class Noise(FrameReader):
    """Frames of noise, made when they are read."""

    size = SIZE
    fps = None

    def __init__(self, frames: int) -> None:
        self.names = tuple(f"{n:05d}" for n in range(frames))

    def decode(self, j: int) -> Image:
        return np.random.default_rng(j).integers(0, 255, (*SIZE, 3), np.uint8)


def truth(n: int, objects: int = 2) -> IndexMask:
    """Squares that walk to the right."""
    mask = np.zeros(SIZE, np.uint8)
    for i in range(objects):
        mask[4 + 20 * i : 18 + 20 * i, 4 + n : 24 + n] = i + 1
    return mask


def result(name: str, frames: int = 9, *, scored: bool = True, **changes: Any) -> VideoResult:
    """A video whose masks are those of its annotations, a pixel too low."""
    masks = [np.roll(truth(n), 1, axis=0) for n in range(frames)]
    iterations = [
        Iteration(k, score_video(masks, truth, (1, 2)), StartCounts(1, 2, 1, 2 * frames - 2))
        for k in (1, 2)
    ]
    made = VideoResult(
        name,
        Noise(frames).names,
        Noise(frames),
        masks,
        (1, 2),
        davis_palette(),
        {"tubes(2)": "abc"},
        frozenset([0]),
        iterations if scored else [],
        [Start(1, 1, 0, 1.0, True, 0, 5, True), Start(2, 2, 6, 0.75, False)],
        {"flow": 1.5, "features": 3.0},
    )
    return replace(made, **changes)


def run(**changes: Any) -> Run:
    settings = {"matches": {"rho_reid": 0.8, "templates": 20}}
    defaults = {"matches": {"rho_reid": 0.7, "templates": 20}}
    made = Run(
        "dyenet segment clip.mp4 mask.png",
        "davis17",
        "val",
        "dyenet",
        "compact",
        rule_of("davis17"),
        settings,
        defaults,
        {"dyenet": "0.1.0"},
        "2026-01-02T03:04:05+00:00",
        61.0,
    )
    return replace(made, **changes)


def gather(folder: Path, *videos: VideoResult, **changes: Any) -> None:
    """Write tables, run.json and report of some videos."""
    with gathered(folder, videos, run(**changes)):
        report_html(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_masks_are_palette_files_of_the_same_size_and_names(tmp_path: Path) -> None:
    made = result("walk")
    assert export_video(made, tmp_path)
    paths = sorted((tmp_path / "masks" / "walk").iterdir())
    assert tuple(p.stem for p in paths) == made.frame_names
    for path, mask in zip(paths, made.masks, strict=True):
        with Pillow.open(path) as file:
            assert file.mode == "P"
            assert bytes(file.getpalette("RGB") or [])[:9] == davis_palette()[:9]
            assert (np.asarray(file) == mask).all()


def test_overlay_video_has_every_frame(tmp_path: Path) -> None:
    export_video(result("walk"), tmp_path)
    film = cv2.VideoCapture(str(tmp_path / "overlays" / "walk.mp4"))
    assert film.get(cv2.CAP_PROP_FPS) == 24
    frames = 0
    while film.read()[0]:
        frames += 1
    assert frames == 9
    assert len(list((tmp_path / "pictures" / "walk").iterdir())) == 7


def test_same_keys_do_nothing_and_other_keys_replace_everything(tmp_path: Path) -> None:
    export_video(result("walk"), tmp_path)
    before = files(tmp_path)
    assert exported(tmp_path, "walk", {"tubes(2)": "abc"})
    unread = result("walk", masks=iter(()))
    assert not export_video(unread, tmp_path)
    assert files(tmp_path) == before
    shorter = result("walk", 4, keys={"tubes(2)": "def"})
    assert export_video(shorter, tmp_path)
    assert len(list((tmp_path / "masks" / "walk").iterdir())) == 4
    assert len(list((tmp_path / "pictures" / "walk").iterdir())) == 4
    assert not exported(tmp_path, "walk", {"tubes(2)": "abc"})


def test_exports_are_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        export_video(result("walk"), tmp_path / name)
        gather(tmp_path / name, result("walk"))
    a, b = (
        {p: data for p, data in files(tmp_path / name).items() if p.startswith(("masks", "scores"))}
        for name in "ab"
    )
    assert a == b


def test_a_stop_leaves_what_was_there(tmp_path: Path) -> None:
    export_video(result("walk"), tmp_path)
    before = files(tmp_path)

    def breaks() -> Any:
        yield truth(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_video(result("walk", keys={}, masks=breaks()), tmp_path)
    assert files(tmp_path) == before
    assert not list(tmp_path.glob(".made/drafts/*"))


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"video walk: cannot write to .*--output"):
        export_video(result("walk"), tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        gather(tmp_path / "file")


@pytest.mark.parametrize("limit", [0, 3000, 8000, 16000])
def test_a_full_disk_is_called_that(tmp_path: Path, limit: int) -> None:
    """Files cannot grow beyond `limit` bytes; small enough for each of them to be the first."""
    code = f"""
import resource
from pathlib import Path
from pipeline.errors import UserError
from pipeline.results.export import export_video
from tests.test_export import result
made = result("walk")
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    export_video(made, Path({str(tmp_path)!r}))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith(f"video walk: cannot write to {tmp_path} (File too large); free")
    assert done.stdout.count("\n") == 1
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} <= {"lock"}


def test_a_film_that_was_cut_short_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    film = VideoFile(path, SIZE, 10)
    for n in range(9):
        film.write(Noise(9).decode(n))
    film.finish()
    data = path.read_bytes()
    for length in (0, 7, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(OSError, match="cut short"):
            check_whole(path)


def test_tables(tmp_path: Path) -> None:
    gather(tmp_path, result("walk"), split="train")
    stale = tmp_path / "scores" / "global_results-train.csv"
    assert stale.exists()
    gather(tmp_path, result("walk"), result("007"))
    frames = pd.read_csv(tmp_path / "scores" / "frames.csv", dtype={"video": str})
    assert len(frames) == 2 * 9 * 2 * 2
    assert frames["scored"].sum() == 2 * 7 * 2 * 2
    iterations = pd.read_csv(tmp_path / "scores" / "iterations.csv")
    assert (
        iterations[["correct", "retrieved", "found", "visible"]].to_numpy().tolist()
        == [[1, 2, 1, 16]] * 4
    )
    assert not stale.exists()
    gather(tmp_path, *(result(name, scored=False) for name in ("walk", "007")))
    assert sorted(p.name for p in (tmp_path / "scores").iterdir()) == [
        "masks.csv",
        "starts.csv",
        "templates.csv",
    ]


def test_official_files(tmp_path: Path) -> None:
    gather(tmp_path, result("walk"))
    overall = (tmp_path / "scores" / "global_results-val.csv").read_text().splitlines()
    assert overall[0] == "J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay"
    j = 13 / 15
    assert overall[1] == f"{(1 + j) / 2:.3f},{j:.3f},1.000,0.000,1.000,1.000,0.000"
    each = (tmp_path / "scores" / "per-sequence_results-val.csv").read_text().splitlines()
    assert each == ["Sequence,J-Mean,F-Mean", f"walk_1,{j:.3f},1.000", f"walk_2,{j:.3f},1.000"]


def test_run_file(tmp_path: Path) -> None:
    gather(tmp_path, result("walk"))
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["settings"]["matches"]["rho_reid"] == 0.8
    assert stored["rule"] == {"frames": "inner", "average": "objects"}
    assert stored["videos"]["walk"]["keys"] == {"tubes(2)": "abc"}


def test_starting_points_with_their_tracklets() -> None:
    box, mask = np.array([0, 0, 9, 9], np.float32), np.zeros((2, 2), np.uint8)
    given = StartingPoint(0, 1, 1.0, box, mask, True)
    found, skipped = (StartingPoint(n, 1, 0.8, box, mask, False) for n in (5, 6))
    boxes, masks = np.zeros((3, 4), np.float32), np.zeros((3, 2, 2), np.uint8)
    tracklets = [Tracklet(given, 1, 0, boxes, masks), Tracklet(found, 2, 4, boxes, masks)]
    linking = Linking((1,), np.zeros((1, 9), np.int32), np.array([True, False]))
    matches = [Matches((given,), False), Matches((found, skipped), False)]
    assert starts_of(matches, tracklets, linking) == [
        Start(1, 1, 0, 1.0, True, 0, 2, True),
        Start(2, 1, 5, 0.8, False, 4, 6, False),
        Start(2, 1, 6, 0.8, False),
    ]


def test_overlay_leaves_background_and_void() -> None:
    image, mask = np.full((*SIZE, 3), 100, np.uint8), truth(0)
    mask[40:] = 255
    drawn = overlay(image, mask)
    changed = (drawn != image).any(-1)
    assert (changed == np.isin(mask, (1, 2))).all()
    assert (overlay(image, np.zeros(SIZE, np.uint8)) == image).all()


def test_palette_of_the_input(tmp_path: Path) -> None:
    mask = Pillow.fromarray(truth(0))
    mask.save(tmp_path / "grey.png")
    assert read_palette(tmp_path / "grey.png", (1, 2)) == davis_palette()
    mask.putpalette([0, 0, 0, 9, 200, 9, 200, 9, 9])
    mask.save(tmp_path / "own.png")
    assert read_palette(tmp_path / "own.png", (1, 2))[:9] == bytes([0, 0, 0, 9, 200, 9, 200, 9, 9])
    assert davis_palette()[3:12] == bytes([128, 0, 0, 0, 128, 0, 128, 128, 0])


def dataset(root: Path, *, frames: int = 6) -> Dataset:
    """Two annotated videos and, as ROOT/pred, masks of another program for them."""
    videos = []
    for name in ("walk", "run"):
        names = [f"{n:05d}" for n in range(frames)]
        paths = {}
        for n, frame in enumerate(names):
            paths[n] = root / "truth" / name / f"{frame}.png"
            for path, mask in (
                (paths[n], truth(n)),
                (root / "pred" / name / f"{frame}.png", np.roll(truth(n), 1, axis=0)),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                Pillow.fromarray(mask).save(path)
        videos.append(Video(name, (), {0: paths[0]}, paths, names))
    return Dataset("davis17", "val", tuple(videos))


DAVIS = rule_of("davis17")


def test_score_a_folder(tmp_path: Path) -> None:
    videos = dataset(tmp_path)
    for unscored in ("00000", "00005"):
        (tmp_path / "pred" / "run" / f"{unscored}.png").unlink()
    table = score_folder(tmp_path / "pred", videos, tmp_path / "out", DAVIS)
    assert table["video"] == ["run", "run", "walk", "walk"]
    assert table["object"] == [1, 2, 1, 2]
    assert table["frames"] == [4] * 4
    assert table["J_mean"] == pytest.approx([13 / 15] * 4)
    assert (tmp_path / "out" / "global_results-val.csv").exists()


def test_score_without_the_object(tmp_path: Path) -> None:
    """A frame in which nothing was found is a result, not an error."""
    videos = dataset(tmp_path)
    videos = replace(videos, videos=videos.videos[:1])
    Pillow.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "pred" / "walk" / "00002.png")
    table = score_folder(tmp_path / "pred", videos, tmp_path / "out", DAVIS)
    assert table["J_mean"] == pytest.approx([13 / 15 * 3 / 4] * 2)


@pytest.mark.parametrize("fault", ["missing", "extra", "size", "colour"])
def test_a_bad_mask_is_one_clear_line(tmp_path: Path, fault: str) -> None:
    videos = dataset(tmp_path)
    if fault != "missing":
        videos = replace(videos, videos=videos.videos[1:])
    path = tmp_path / "pred" / "run" / "00003.png"
    if fault == "missing":
        path.unlink()
    elif fault == "extra":
        Pillow.fromarray(truth(3, objects=2) * 3).save(path)
    elif fault == "size":
        Pillow.fromarray(truth(3)[:-1]).save(path)
    else:
        Pillow.fromarray(np.stack([truth(3) * 90] * 2 + [truth(3)], -1)).save(path)
    with pytest.raises(MENDABLE) as error:
        score_folder(tmp_path / "pred", videos, tmp_path / "out", DAVIS)
    line = str(error.value)
    assert "\n" not in line
    assert all(word in line for word in ("run", "00003", str(path)))
    assert not (tmp_path / "out").exists()


def test_rules() -> None:
    assert [n for n in range(5) if Rule("inner").counts(n, 5, [0, 3])] == [1, 2, 3]
    assert [n for n in range(5) if Rule("later").counts(n, 5, [0, 3])] == [1, 2, 4]
    assert [n for n in range(5) if Rule("all").counts(n, 5, [0, 3])] == [0, 1, 2, 3, 4]
    gap = np.array([[0, 1, 3, 255]], np.uint8)
    assert objects_of([gap], Rule("inner")) == (1, 2, 3)
    assert objects_of([gap], Rule("all")) == (1, 3)
    assert [category(v) for v in ("cat_0001", "cat-0002-x", "bird", "2bears")] == [
        "cat",
        "cat",
        "bird",
        "2bears",
    ]
    with pytest.raises(UserError, match="inner, later or all"):
        Rule("some")
