"""Exports hold the masks to the pixel, as the readers of their formats find."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as cocotools

from pipeline import cli
from pipeline.commands.exports import export_run
from pipeline.datasets import Video, open_dataset
from pipeline.datasets.masks.coco import decode, encode
from pipeline.datasets.masks.shapes import inside
from pipeline.datasets.reading import Reading
from pipeline.errors import UserError
from pipeline.results.exports import FORMATS, export
from pipeline.results.exports.clip import Clip
from pipeline.results.exports.outlines import joined, loops, parts
from pipeline.results.overlays import write_mask
from stages.arrays import ArrayFrames
from stages.frames import read_index_mask
from tests.tiny_run import command, write_dataset, write_weights

SIZE = 20, 30
FRAMES = 3
NAMES = {3: "car", 7: "dog", 100: "car 2", 254: "Müller & Söhne"}


def truth(j: int) -> np.ndarray:
    """Four objects: of two parts, with a hole that meets a corner, one that comes later."""
    mask = np.zeros(SIZE, np.uint8)
    mask[2:5, 1 + j : 6 + j] = mask[10:12, 20:25] = 3
    mask[7:17, 3:14] = 7
    mask[9:12, 5:8] = 0
    mask[12, 8] = 0
    mask[0:4, 22:30] = 100
    if j:
        mask[15:20, 20:30] = 254
    return mask


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    folder = tmp_path / "run" / "masks" / "walk"
    folder.mkdir(parents=True)
    paths = [folder / f"{j:05d}.png" for j in range(FRAMES)]
    for j, path in enumerate(paths):
        write_mask(path, truth(j), bytes(range(256)) * 3)
    rng = np.random.default_rng(0)
    images = ArrayFrames(list(rng.integers(0, 256, (FRAMES, *SIZE, 3), dtype=np.uint8)))
    return Clip("walk", SIZE, paths, tuple(NAMES), NAMES, lambda: images)


def read_back(
    clip: Clip, masks: Path, mask_from: str | None = None
) -> tuple[list[np.ndarray], dict[int, str]]:
    """What `dyenet segment` finds in masks, by frame, and the objects' names."""
    frames = masks.parents[2] / "frames" / clip.name
    frames.mkdir(parents=True)
    for path in clip.paths:
        Image.new("RGB", SIZE[::-1]).save(frames / path.name)
    reading = Reading(mask_from=mask_from)
    (video,) = open_dataset("clip", frames, "clip", frames, masks, reading).videos
    return [_read(video, j) for j in range(FRAMES)], dict(video.objects)


def _read(video: Video, j: int) -> np.ndarray:
    if j not in video.first_masks:
        return np.zeros(SIZE, np.uint8)
    return read_index_mask(video.first_masks[j], SIZE, "walk", str(j), given=True, blank=True)


def renumbered(objects: Sequence[int] = tuple(NAMES)) -> list[np.ndarray]:
    """The truth with objects numbered in the order of `objects`."""
    table = np.zeros(256, np.uint8)
    table[list(objects)] = range(1, len(objects) + 1)
    return [table[truth(j)] for j in range(FRAMES)]


def test_coco_comes_back_to_the_pixel(clip: Clip, tmp_path: Path) -> None:
    place = export([clip], "coco", tmp_path / "out")
    masks, names = read_back(clip, place / "instances.json")
    np.testing.assert_array_equal(masks, renumbered())
    assert names == {1: "car", 2: "dog", 3: "car 2", 4: "Müller & Söhne"}


def test_coco_is_what_its_own_tools_read(clip: Clip, tmp_path: Path) -> None:
    other = replace(clip, name="run", names={})
    place = export([clip, other], "coco", tmp_path / "out")
    document = json.loads((place / "instances.json").read_text(encoding="utf-8"))
    kinds = {kind["id"]: kind["name"] for kind in document["categories"]}
    assert list(kinds.values()) == ["car", "dog", "Müller & Söhne", "object"]
    assert [video["name"] for video in document["videos"]] == ["walk", "run"]
    assert document["videos"][0]["file_names"][2] == "walk/00002.jpg"
    assert len({track["id"] for track in document["annotations"]}) == 8
    for track in document["annotations"]:
        for j, outline in enumerate(track["segmentations"]):
            shown = truth(j) == track["track_id"]
            if outline is None:
                assert not shown.any() and track["areas"][j] is track["bboxes"][j] is None
                continue
            np.testing.assert_array_equal(cocotools.decode(outline), shown)
            assert track["areas"][j] == cocotools.area(outline) == shown.sum()
            assert track["bboxes"][j] == cocotools.toBbox(outline).tolist()
    found = {track["name"]: kinds[track["category_id"]] for track in document["annotations"][:4]}
    assert found == {"car": "car", "dog": "dog", "car 2": "car", "Müller & Söhne": "Müller & Söhne"}


def test_yolo_comes_back_to_the_pixel(clip: Clip, tmp_path: Path) -> None:
    place = export([clip], "yolo", tmp_path / "out")
    head, names = (place / "data.yaml").read_text(encoding="utf-8").split("names:\n")
    assert head == "path: .\ntrain: images\nval: images\n"
    assert names == '  0: "car"\n  1: "dog"\n  2: "Müller & Söhne"\n'
    # Without identities, an object is known by its place among those of its class.
    masks, labels = read_back(clip, place / "labels" / "walk")
    np.testing.assert_array_equal(masks, renumbered((3, 7, 100, 254)))
    assert labels == {1: "car", 2: "dog", 3: "car 2", 4: "Müller & Söhne"}


def test_contours_come_back_to_the_pixel(clip: Clip, tmp_path: Path) -> None:
    place = export([clip], "contours", tmp_path / "out")
    masks, names = read_back(clip, place / "walk")
    np.testing.assert_array_equal(masks, renumbered())
    assert names == {1: "car", 2: "dog", 3: "car 2", 4: "Müller & Söhne"}
    plain = export([replace(clip, names={})], "contours", tmp_path / "plain")
    masks, _ = read_back(clip, plain / "walk")
    np.testing.assert_array_equal(masks, [truth(j) for j in range(FRAMES)])


def test_cut_outs_come_back_to_the_pixel(clip: Clip, tmp_path: Path) -> None:
    place = export([clip], "alpha", tmp_path / "out")
    masks, _ = read_back(clip, place / "walk", "alpha")
    np.testing.assert_array_equal(masks, [truth(j) for j in range(FRAMES)])
    image = np.array(Image.open(place / "walk" / "7" / "00001.png"))
    shown = truth(1) == 7
    np.testing.assert_array_equal(image[shown][:, :3], clip.frames()[1][shown])
    np.testing.assert_array_equal(image[..., 3], shown * 255)
    assert not image[~shown].any()


def test_arrays_come_back(clip: Clip, tmp_path: Path) -> None:
    place = export([clip], "npz", tmp_path / "out")
    with np.load(place / "walk.npz") as found:
        np.testing.assert_array_equal(found["masks"], [truth(j) for j in range(FRAMES)])
        assert found["masks"].dtype == np.uint8
        assert found["frames"].tolist() == ["00000", "00001", "00002"]
        assert dict(zip(found["objects"].tolist(), found["names"], strict=True)) == NAMES


def test_mots_comes_back_to_the_pixel(clip: Clip, tmp_path: Path) -> None:
    place = export([clip], "mots", tmp_path / "out")
    lines = (place / "instances_txt" / "walk.txt").read_text().splitlines()
    masks = np.zeros((FRAMES, *SIZE), np.uint8)
    ids = {1000: 3, 2000: 7, 1001: 100, 3000: 254}
    for line in lines:
        frame, number, kind, height, width, counts = line.split(" ")
        shown = cocotools.decode({"size": [int(height), int(width)], "counts": counts})
        assert not (masks[int(frame)] * shown).any() and int(number) // 1000 == int(kind)
        masks[int(frame)] += shown * np.uint8(ids[int(number)])
    np.testing.assert_array_equal(masks, [truth(j) for j in range(FRAMES)])
    assert (place / "classes.txt").read_text("utf-8") == "1 car\n2 dog\n3 Müller & Söhne\n"
    assert "walk 1001 car 2\n" in (place / "objects.txt").read_text("utf-8")


any_mask = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


@settings(deadline=None)
@given(any_mask)
def test_run_lengths_are_those_of_cocos_own_tools(mask: np.ndarray) -> None:
    made = encode(mask)
    assert made["counts"].encode() == cocotools.encode(np.asfortranarray(mask, "u1"))["counts"]
    np.testing.assert_array_equal(decode(made), mask)


@settings(deadline=None)
@given(any_mask.filter(lambda mask: mask.any()))
def test_outlines_hold_exactly_their_pixels(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(inside(joined(loops(mask)).astype(float), mask.shape), mask)
    together = np.zeros(mask.shape, int)
    for ring in parts(mask):
        together += inside(ring.astype(float), mask.shape)
    np.testing.assert_array_equal(together, mask)


def test_a_later_export_replaces_its_own_files_and_no_others(clip: Clip, tmp_path: Path) -> None:
    out = tmp_path / "out"
    place = export([clip, replace(clip, name="run")], "npz", out)
    assert {path.name for path in place.iterdir()} == {"walk.npz", "run.npz"}
    (place / "mine.txt").write_text("kept")
    export([clip], "npz", out)
    assert {path.name for path in place.iterdir()} == {"walk.npz", "mine.txt"}
    foreign = out / "exports" / "coco" / "instances.json"
    foreign.parent.mkdir()
    foreign.write_text("{}")
    with pytest.raises(UserError, match=r"instances\.json: is there already"):
        export([clip], "coco", out)
    assert foreign.read_text() == "{}"


def test_what_somebody_changed_in_an_export_stays(clip: Clip, tmp_path: Path) -> None:
    out = tmp_path / "out"
    place = export([clip], "contours", out)
    (place / "walk" / "00001.json").unlink()
    export([clip], "contours", out)
    changed = place / "walk" / "00002.json"
    changed.write_text(changed.read_text(encoding="utf-8").replace("dog", "cat"), encoding="utf-8")
    with pytest.raises(UserError, match=r"walk/00002\.json: was changed since it was exported"):
        export([replace(clip, name="run")], "contours", out)
    assert '"cat"' in changed.read_text(encoding="utf-8")


def test_names_of_classes_keep_their_lines(clip: Clip, tmp_path: Path) -> None:
    odd = replace(clip, names={3: "new\nline", 7: "", 100: " a  b", 254: "car"})
    wanted = ["new line", "object", "a b", "car"]
    yolo = export([odd], "yolo", tmp_path / "out") / "labels" / "walk" / "classes.txt"
    assert yolo.read_text(encoding="utf-8").splitlines() == wanted
    mots = export([odd], "mots", tmp_path / "out")
    classes = (mots / "classes.txt").read_text(encoding="utf-8").splitlines()
    assert classes == [f"{n} {name}" for n, name in enumerate(wanted, 1)]
    objects = (mots / "objects.txt").read_text(encoding="utf-8").splitlines()
    assert objects == [f"walk {n}000 {name}" for n, name in enumerate(wanted, 1)]


def test_a_frame_named_as_the_classes_is_refused(clip: Clip, tmp_path: Path) -> None:
    named = clip.paths[1].rename(clip.paths[1].with_name("classes.png"))
    odd = replace(clip, paths=[clip.paths[0], named, *clip.paths[2:]])
    with pytest.raises(UserError, match="video walk: has a frame classes"):
        export([odd], "yolo", tmp_path / "out")


def test_a_stop_leaves_what_was_there(clip: Clip, tmp_path: Path) -> None:
    place = export([clip], "mots", tmp_path / "out")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    clip.paths[2].write_bytes(b"no picture")
    with pytest.raises(Exception, match=r"frame 00002: mask .* cannot be decoded"):
        export([clip], "mots", tmp_path / "out")
    assert before == {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two videos."""
    top = tmp_path_factory.mktemp("run")
    done = command(
        *("luigi", "RunDataset", "--local-scheduler", "--dataset", "davis17"),
        *("--root", write_dataset(top / "data"), "--max-iterations", 1, "--output", top / "out"),
        *("--weights", write_weights(top / "w.safetensors"), "--set", "frames.height=32"),
        cache=top / "cache",
        cwd=top,
    )
    assert done.returncode == 0, done.stderr
    return top


def test_the_command_exports_a_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYENET_CACHE", str(place / "cache"))
    for name in FORMATS:
        asked = "export", place / "out", "--format", name, "--videos", "bee", "-o", place / name
        assert cli.main([*map(str, asked)]) == 0
        assert capsys.readouterr().out == f"results: {place / name / 'exports' / name}\n"
    with np.load(place / "npz" / "exports" / "npz" / "bee.npz") as found:
        for name, mask in zip(found["frames"], found["masks"], strict=True):
            np.testing.assert_array_equal(
                mask, np.array(Image.open(place / "out" / "masks" / "bee" / f"{name}.png"))
            )
        number = found["objects"][0]
    cut_out = Image.open(place / "alpha" / "exports" / "alpha" / "bee" / str(number) / "00000.png")
    frame = Image.open(place / "data" / "JPEGImages" / "480p" / "bee" / "00000.jpg")
    shown = np.array(cut_out)[..., 3] == 255
    assert shown.any()
    np.testing.assert_array_equal(np.array(cut_out)[shown][:, :3], np.array(frame)[shown])


@pytest.mark.parametrize(
    ("name", "videos", "line"),
    [
        ("cocoa", (), "--format cocoa: did you mean coco?"),
        ("coco", ("bea",), "holds no such video; did you mean bee?"),
    ],
)
def test_unknown_names_are_refused(
    place: Path, name: str, videos: tuple[str, ...], line: str
) -> None:
    with pytest.raises(UserError, match=line.replace("?", r"\?")):
        export_run(place / "out", name, videos, place / "no")
    assert not (place / "no").exists()


def test_what_is_gone_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no run to report on"):
        export_run(place / "data", "coco", (), place / "no")
    monkeypatch.setenv("DYENET_CACHE", str(place / "empty"))
    with pytest.raises(UserError, match=r"no run of the cache .*empty says where its frames lie"):
        export_run(place / "out", "alpha", (), place / "no")
    assert not list((place / "no").glob("exports"))
    (place / "out" / "masks" / "ant" / "00002.png").unlink()
    with pytest.raises(UserError, match="holds 3 masks of 4; run the same command again"):
        export_run(place / "out", "coco", (), place / "no")
