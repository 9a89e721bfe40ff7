"""Layouts on small trees of exactly the published form, and the built-in demo."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import open_dataset
from pipeline.datasets.demo import render_clip, write_demo
from pipeline.datasets.palette import davis_palette
from pipeline.errors import UserError
from stages.frames import open_frames, read_index_mask

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def davis(root: Path, lists: str, lines: str, masks: int) -> None:
    for name in ("bear", "bus"):
        for j in range(3):
            touch(root / "JPEGImages/480p" / name / f"{j:05d}.jpg")
            if j < masks:
                touch(root / "Annotations/480p" / name / f"{j:05d}.png")
    path = touch(root / "ImageSets" / lists / "val.txt")
    path.write_text(lines)


OFFICIAL = "".join(
    f"/JPEGImages/480p/{n}/{j:05d}.jpg /Annotations/480p/{n}/{j:05d}.png \n"
    for n in ("bear", "bus")
    for j in range(3)
)


@pytest.mark.parametrize("lines", ["bear\nbus\n", OFFICIAL])
def test_davis16(tmp_path: Path, lines: str) -> None:
    davis(tmp_path, "480p", lines, masks=3)
    found = open_dataset("davis16", tmp_path, "val")
    assert [v.name for v in found.videos] == ["bear", "bus"]
    bear = found.videos[0]
    assert list(bear.frame_names) == ["00000", "00001", "00002"]
    assert bear.first_masks == {0: tmp_path / "Annotations/480p/bear/00000.png"}
    assert bear.annotations is not None and sorted(bear.annotations) == [0, 1, 2]


UNFIT = ["..", ".", "/JPEGImages/../x.jpg", "/JPEGImages/./x.jpg", "a" * 256, "a" * 230, "%" * 99]
BYTES = [b"b\xe4r", b"a\x1bb", b"a\x00b"]


@pytest.mark.parametrize("line", [*map(str.encode, UNFIT), *BYTES, b"/x", b"/a/b\xff/x.jpg"])
@pytest.mark.parametrize(("layout", "split"), [("davis17", "2017/val"), ("segtrackv2", "all")])
def test_a_listed_name_that_leaves_its_folder_is_one_line(
    tmp_path: Path, layout: str, split: str, line: bytes
) -> None:
    davis(tmp_path, "2017", "", masks=1)
    path = touch(tmp_path / "ImageSets" / f"{split}.txt")
    path.write_bytes(b"bear\n" + line + b"\n")
    touch(path.parent / "bear.txt").write_text("bear\n00000\n")
    touch(tmp_path / "JPEGImages/bear/00000.png")
    touch(tmp_path / "GroundTruth/bear/00000.png")
    with pytest.raises(UserError) as caught:
        open_dataset(layout, tmp_path, path.stem)
    assert str(caught.value).startswith("video ") and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", [b"...mp4", b"..mp4", b"b\xe4r.mp4", b"a\nb.mp4", b"c" * 240 + b".mp4"]
)
def test_a_file_without_a_fit_name_is_one_line(tmp_path: Path, name: bytes) -> None:
    path = touch(tmp_path / os.fsdecode(name))
    for read in (
        lambda: open_dataset("clip", path, "clip", masks=touch(tmp_path / "masks/first.png")),
        lambda: open_dataset("folder", tmp_path, "all"),
    ):
        with pytest.raises(UserError) as caught:
            read()
        assert str(caught.value).startswith("video ") and str(caught.value).isprintable()


def test_a_frame_without_a_fit_name_is_one_line(tmp_path: Path) -> None:
    touch(tmp_path / "walk" / os.fsdecode(b"\xe4.jpg"))
    with pytest.raises(UserError, match=r"video walk: frame '\\udce4' .* rename the file"):
        open_dataset("clip", tmp_path / "walk", "clip", masks=touch(tmp_path / "first.png"))


def test_names_of_any_script_are_fit(tmp_path: Path) -> None:
    for name in ("\u6620\u50cf\u3000\u4e00", "a b", "-x", "...x", "100%", "a" * 229):
        touch(tmp_path / name / "0.jpg")
        first = touch(tmp_path / "first.png")
        (video,) = open_dataset("clip", tmp_path / name, "clip", masks=first).videos
        assert video.name == name
    with pytest.raises(UserError, match=r"--split '\.\./x': a name holds no slash"):
        open_dataset("folder", tmp_path, "../x")


def test_davis17_test_dev_has_no_annotations(tmp_path: Path) -> None:
    davis(tmp_path, "2017", "bear\nbus\n", masks=1)
    assert open_dataset("davis17", tmp_path, "val").videos[0].annotations is None


def test_folder_layout(tmp_path: Path) -> None:
    for j in (2, 0, 1):
        touch(tmp_path / "walk" / f"f{j}.jpg")
    touch(tmp_path / "clip.mp4")
    touch(tmp_path / "masks/walk/f1.png")
    touch(tmp_path / "masks/walk/f0.png")
    touch(tmp_path / "masks/clip.png")
    touch(tmp_path / "annotations/walk/f2.png")
    clip, walk = open_dataset("folder", tmp_path, "all").videos
    assert clip.frames == tmp_path / "clip.mp4"
    assert clip.first_masks == {0: tmp_path / "masks/clip.png"}
    assert clip.frame_name(3) == "00003"
    assert list(walk.frame_names) == ["f0", "f1", "f2"]
    assert walk.first_masks == {j: tmp_path / f"masks/walk/f{j}.png" for j in (0, 1)}
    assert walk.annotations == {2: tmp_path / "annotations/walk/f2.png"}


def test_a_clip_anywhere(tmp_path: Path) -> None:
    touch(tmp_path / "clip.mp4")
    touch(tmp_path / "m/00012.png")
    (video,) = open_dataset("clip", tmp_path / "clip.mp4", "clip", masks=tmp_path / "m").videos
    assert (video.name, video.first_masks) == ("clip", {12: tmp_path / "m/00012.png"})


@pytest.mark.parametrize(
    ("name", "root", "split", "words"),
    [
        ("davis61", ".", "val", ["davis61", "did you mean davis1"]),
        ("davis16", None, "val", ["--root", "the folder that holds it"]),
        ("clip", None, "clip", ["--masks", "its first mask"]),
        ("davis16", "nowhere", "val", ["nowhere", "no such folder"]),
        ("davis16", ".", "vla", ["--split vla", "did you mean val"]),
        ("folder", "ImageSets", "x", ["holds no videos"]),
    ],
)
def test_wrong_names_say_what_there_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    root: str | None,
    split: str,
    words: list[str],
) -> None:
    davis(tmp_path, "480p", "bear\n", masks=3)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        open_dataset(name, root, split)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_missing_masks_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "walk/0.jpg")
    with pytest.raises(UserError, match=r"video walk.*masks/walk.png is missing"):
        open_dataset("folder", tmp_path, "all")
    touch(tmp_path / "masks/walk/9.png")
    with pytest.raises(UserError, match="named after no frame"):
        open_dataset("folder", tmp_path, "all")


def test_real_davis() -> None:
    root = SHARED / "davis16"
    if not root.is_dir():
        pytest.skip("the DAVIS 2016 training sequences are not next to this checkout")
    found = open_dataset("davis16", root, "train")
    assert len(found.videos) == 30
    video = next(v for v in found.videos if v.name == "bear")
    frames = open_frames(video.frames, "bear")
    mask = read_index_mask(video.first_masks[0], frames.size, "bear", "00000", given=True)
    assert frames.size == (480, 854)
    assert set(np.unique(mask)) == {0, 1}


def test_demo_is_written_once_and_reads_as_davis(tmp_path: Path) -> None:
    folder = write_demo(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    assert write_demo(tmp_path) == folder
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    assert not list(tmp_path.rglob("*.tmp"))
    found = open_dataset("demo", None, "demo", tmp_path)
    assert [v.name for v in found.videos] == ["crossing", "return", "orbit"]
    first = found.videos[2].first_masks[0]
    assert set(np.unique(np.asarray(Image.open(first)))) == {0, 1, 2, 3}
    assert Image.open(first).getpalette() == list(davis_palette())
    returns = sorted((folder / "Annotations/480p/return").iterdir())
    seen = [bool(np.asarray(Image.open(p)).any()) for p in returns]
    assert seen[0] and seen[-1] and not all(seen), "an object leaves and returns"


def test_demo_flow_is_exact() -> None:
    clip = render_clip(3, frames=16, size=(96, 128), objects=2)
    y, x = np.mgrid[:96, :128].astype(np.float32)
    for t in (0, 7, 14):
        for flow, near, far in (
            (clip.to_previous[t], t + 1, t),
            (clip.to_next[t], t, t + 1),
        ):
            at_x, at_y = x + flow[0], y + flow[1]
            labels = cv2.remap(clip.masks[far], at_x, at_y, cv2.INTER_NEAREST, borderValue=255)
            seen = labels == clip.masks[near]
            assert seen.mean() > 0.9
            image = cv2.remap(clip.frames[far], at_x, at_y, cv2.INTER_LINEAR)
            off = np.abs(image.astype(float) - clip.frames[near]).max(-1)
            inner = cv2.erode((clip.masks[near] > 0).astype(np.uint8), np.ones((5, 5))) > 0
            # what is left is grain, light and interpolation
            assert np.median(off[seen & inner]) < 12


def test_demo_flow_leads_there_and_back() -> None:
    clip = render_clip(1, frames=16, size=(96, 128), objects=1)
    y, x = np.mgrid[:96, :128].astype(np.float32)
    there = clip.to_next[0]
    back = np.stack(
        [cv2.remap(clip.to_previous[0][k], x + there[0], y + there[1], 1) for k in (0, 1)]
    )
    ground = cv2.dilate(clip.masks[0] + clip.masks[1], np.ones((9, 9))) == 0
    at_x, at_y = x + there[0], y + there[1]
    ground &= (at_x > 1) & (at_x < 126) & (at_y > 1) & (at_y < 94)
    assert ground.mean() > 0.5
    assert np.abs(there + back)[:, ground].max() < 0.05


def test_the_same_seed_gives_the_same_bytes() -> None:
    a, b = (render_clip(5, frames=2, size=(48, 64), flow=False) for _ in range(2))
    np.testing.assert_array_equal(a.frames[1], b.frames[1])
    np.testing.assert_array_equal(a.masks[1], b.masks[1])
    assert a.to_next == []
