"""SegTrack v2 and YouTube-Objects: small trees of exactly the published form, run and scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import RunDataset, cli
from pipeline.commands import engine
from pipeline.datasets import Dataset, open_dataset
from pipeline.errors import UserError
from stages.errors import BadInput
from stages.frames import Layers, read_index_mask
from tests.clip import SIZE, draw
from tests.tiny_run import FRAMES, write_weights


def save(path: Path, pixels: np.ndarray, **how: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)


def shown(index: np.ndarray, *objects: int) -> np.ndarray:
    """A black-and-white picture in colour, as SegTrack's are."""
    return np.repeat((np.isin(index, objects) * np.uint8(255))[..., None], 3, axis=2)


def segtrack(root: Path) -> Path:
    """frog: one object, bmp masks next to png images. bmx: two, the second's masks bmp."""
    for j in range(FRAMES):
        image, index = draw(j)
        save(root / f"JPEGImages/frog/frog_{j:05d}.png", image)
        save(root / f"GroundTruth/frog/frog_{j:05d}.bmp", shown(index, 1, 3))
        save(root / f"JPEGImages/bmx/bmx_{6668 + j:05d}.bmp", image)
        save(root / f"GroundTruth/bmx/1/bmx_{6668 + j:05d}.png", shown(index, 1))
        save(root / f"GroundTruth/bmx/2/bmx_{6668 + j:05d}.bmp", shown(index, 3))
    (root / "JPEGImages/frog/Thumbs.db").write_bytes(b"x")
    (root / "GroundTruth/frog/region.mat").write_bytes(b"x")
    lists = root / "ImageSets"
    lists.mkdir()
    (lists / "all.txt").write_bytes(b"*frog\r\n*bmx\r\n")
    for name, first in (("frog", 0), ("bmx", 6668)):
        frames = "".join(f"{name}_{first + j:05d}\n" for j in range(FRAMES))
        (lists / f"{name}.txt").write_text(f"{name}/\n{frames}\n")
    return root


def youtube(root: Path) -> Path:
    """Two annotated frames a shot, at half the size; cow has one, which is the given mask."""
    for category, video, marked in (("aeroplane", "0001", (2, 4)), ("cow", "0019", (1,))):
        shot = root / category / "data" / video / "shots" / "001"
        for j in range(FRAMES):
            image, index = draw(j)
            save(shot / "images" / f"frame{j + 1:04d}.jpg", image, quality=95)
            if j + 1 in marked:
                half = (index[::2, ::2] == 1) * np.uint8(255)
                save(shot / "labels" / f"{j + 1:05d}.jpg", half, quality=60)
    (root / "cow/data/0020/shots/001/images").mkdir(parents=True)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[str], Path]:
    made = {"segtrackv2": segtrack, "youtube-objects": youtube}
    return lambda name: made[name](tmp_path / name)


def masks(dataset: Dataset, video: int, j: int) -> np.ndarray:
    found = dataset.videos[video]
    assert found.annotations is not None
    return read_index_mask(found.annotations[j], SIZE, found.name, found.frame_name(j))


def test_segtrack_is_read_exactly(tree: Callable[[str], Path]) -> None:
    dataset = open_dataset("segtrackv2", tree("segtrackv2"), "all")
    frog, bmx = dataset.videos
    assert (frog.name, bmx.name) == ("frog", "bmx")
    assert list(bmx.frame_names) == [f"bmx_{6668 + j:05d}" for j in range(FRAMES)]
    assert [path.suffix for path in bmx.frames] == [".bmp"] * FRAMES  # type: ignore[union-attr]
    assert list(frog.first_masks) == [0]
    for j in range(FRAMES):
        index = draw(j)[1]
        np.testing.assert_array_equal(masks(dataset, 0, j), index > 0)
        np.testing.assert_array_equal(masks(dataset, 1, j), np.where(index == 3, 2, index))


def test_segtrack_says_what_is_wrong(tree: Callable[[str], Path]) -> None:
    root = tree("segtrackv2")
    with pytest.raises(UserError, match=r"--split val: .*val.txt does not exist; did you mean all"):
        open_dataset("segtrackv2", root, "val")
    (root / "GroundTruth/bmx/2/bmx_06669.bmp").unlink()
    with pytest.raises(UserError, match=r"video bmx, frame bmx_06669: its mask is missing"):
        open_dataset("segtrackv2", root, "all")


def test_youtube_objects_is_read_exactly(tree: Callable[[str], Path]) -> None:
    dataset = open_dataset("youtube-objects", tree("youtube-objects"), "all")
    plane, cow = dataset.videos
    assert (plane.name, cow.name) == ("aeroplane_0001_001", "cow_0019_001")
    assert list(plane.frame_names) == [f"frame{j:04d}" for j in range(1, FRAMES + 1)]
    assert plane.annotations is not None
    assert (list(plane.first_masks), list(plane.annotations)) == ([1], [1, 3])
    index = draw(3)[1] == 1
    doubled = index[::2, ::2].repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(masks(dataset, 0, 3), doubled)


def test_youtube_objects_says_what_is_wrong(tree: Callable[[str], Path]) -> None:
    root = tree("youtube-objects")
    with pytest.raises(UserError, match="give the folder that holds the categories"):
        open_dataset("youtube-objects", root / "cow", "all")
    (root / "aeroplane/data/0001/shots/001/images/frame0004.jpg").unlink()
    with pytest.raises(UserError, match=r"aeroplane_0001_001: .*00004.jpg has no image in"):
        open_dataset("youtube-objects", root, "all")


def test_layers_of_another_size_are_scaled_only_where_that_is_usual(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((10, 20), 255, np.uint8))
    path = tmp_path / "a.png"
    assert read_index_mask(Layers((path,), scaled=True), (20, 40), "v", "0").all()
    with pytest.raises(BadInput, match="20x10, the frames are 40x20"):
        read_index_mask(Layers((path,)), (20, 40), "v", "0")
    save(path, np.zeros((20, 40), np.uint8))
    with pytest.raises(BadInput, match=r"v, frame 0: mask .*a.png holds no object"):
        read_index_mask(Layers((path,)), (20, 40), "v", "0", given=True)


@pytest.mark.parametrize(
    ("name", "objects", "scored"),
    [
        ("segtrackv2", {("frog", 1): 3, ("bmx", 1): 3, ("bmx", 2): 3}, FRAMES),
        ("youtube-objects", {("aeroplane_0001_001", 1): 1}, FRAMES),
    ],
)
def test_run_and_score(
    tree: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    objects: dict[tuple[str, int], int],
    scored: int,
) -> None:
    """RunDataset on the tree, then `dyenet score` on its masks: the same two CSVs."""
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))
    root, out = tree(name), tmp_path / "out"
    options = {"dataset": name, "root": str(root), "split": "all"}
    weights = write_weights(tmp_path / "w.safetensors")
    run = RunDataset(
        **options, weights=str(weights), precision="fp32", max_iterations="1", output=str(out)
    )
    assert engine.build(run)
    video = next(iter(objects))[0]
    assert len(list((out / "masks" / video).glob("*.png"))) == scored
    frames = pd.read_csv(out / "scores/frames.csv")
    counted = frames[frames["scored"]].groupby(["video", "object"]).size().to_dict()
    assert counted == objects
    assert json.loads((out / "run.json").read_text())["rule"]["frames"] == "later"

    capsys.readouterr()
    asked = [f"--{option}={value}" for option, value in options.items()]
    assert cli.main(["score", str(out / "masks"), *asked, f"--output={tmp_path / 'scores'}"]) == 0
    said = capsys.readouterr().out
    assert "scored: all annotated frames without a given mask; mean over objects" in said
    for table in ("global_results-all.csv", "per-sequence_results-all.csv"):
        assert (tmp_path / "scores" / table).read_text() == (out / "scores" / table).read_text()


def test_a_changed_layer_changes_the_key(tree: Callable[[str], Path], tmp_path: Path) -> None:
    from cache.digests import FileDigests
    from pipeline.plan.inputs import mask_digest

    root = tree("segtrackv2")
    layers = open_dataset("segtrackv2", root, "all").videos[1].first_masks[0]
    with FileDigests(tmp_path / "cache") as digests:
        before = mask_digest(layers, digests.digest)
        save(root / "GroundTruth/bmx/2/bmx_06668.bmp", shown(draw(1)[1], 3))
        assert mask_digest(layers, digests.digest) != before
