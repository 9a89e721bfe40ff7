"""More objects than 8 bits number: masks of 16 bits, in and out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyenet import load, segment, settings
from pipeline import cli
from pipeline.datasets import open_dataset
from pipeline.datasets.masks.shapes import counted
from pipeline.results.exports import export
from pipeline.results.exports.clip import Clip
from pipeline.results.overlays import colour, encode_mask, overlay
from stages.boxmask import merge, object_ids
from stages.frames import BadInput, read_index_mask
from tests.tiny_run import write_weights

COUNT = 300
SIDE = 4
"""px of an object, with one px between them"""
SIZE = 15 * (SIDE + 1), 20 * (SIDE + 1)
NUMBERS = tuple(range(1, COUNT + 1))


def many(numbers: tuple[int, ...] = NUMBERS) -> np.ndarray:
    """Squares in 20 columns."""
    mask = np.zeros(SIZE, np.uint16)
    for n, number in enumerate(numbers):
        row, column = (SIDE + 1) * np.array(divmod(n, 20))
        mask[row : row + SIDE, column : column + SIDE] = number
    return mask


def save(path: Path, mask: np.ndarray) -> Path:
    Image.fromarray(mask).save(path)
    return path


def read(path: Path, *, wide: bool = False) -> np.ndarray:
    return read_index_mask(path, SIZE, "v", "0", wide=wide)


def test_a_file_of_16_bits_keeps_its_numbers(tmp_path: Path) -> None:
    for void in (0, 65535):
        mask = many()
        mask[-1] = void
        got = read(save(tmp_path / "m.png", mask))
        assert got.dtype == np.uint16
        np.testing.assert_array_equal(got, mask)
        assert object_ids(got) == list(NUMBERS)


def test_what_255_is_depends_on_the_bits_of_the_video(tmp_path: Path) -> None:
    deep = save(tmp_path / "deep.png", many((1, 255)))
    plain = save(tmp_path / "plain.png", many((1, 255)).astype(np.uint8))
    assert [object_ids(read(path)) for path in (deep, plain)] == [[1], [1]]
    assert object_ids(read(deep, wide=True)) == [1, 255]
    assert object_ids(read(plain, wide=True)) == [1]
    assert read(plain, wide=True).max() == 65535


def test_black_and_white_in_16_bits_is_one_object(tmp_path: Path) -> None:
    got = read(save(tmp_path / "m.png", many((65535,))))
    np.testing.assert_array_equal(got, many((1,)))


def test_soft_edges_in_16_bits_are_refused(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
    with pytest.raises(BadInput, match="between 0 and 65535: its edges are antialiased"):
        read(save(tmp_path / "m.png", ramp // 257 * 257))
    Image.fromarray(many().astype(np.int32) * 1000).save(tmp_path / "m.tif")
    with pytest.raises(BadInput, match="values up to 300000; save it with 8 or 16 bits"):
        read(tmp_path / "m.tif")
    Image.fromarray(-many().astype(np.int32)).save(tmp_path / "m.tif")
    with pytest.raises(BadInput, match="values down to -300; object numbers begin at 0"):
        read(tmp_path / "m.tif")


def test_nothing_is_numbered_255_by_its_place() -> None:
    assert counted(["a"] * 256) == [*range(1, 255), 256, 257]
    assert counted(["7", "254"]) == [7, 254]
    assert counted(["7", "300"]) == [1, 2]
    labels = [str(n) for n in range(1, 302) if n != 255]
    assert counted(labels) == [int(label) for label in labels]


def test_colours_can_be_told_apart() -> None:
    colours = [tuple(bytes.fromhex(colour(i)[1:])) for i in range(1, COUNT + 1)]
    assert len(set(colours)) == COUNT
    for i, one in enumerate(colours):
        for other in colours[max(0, i - 12) : i]:
            assert np.abs(np.subtract(one, other)).max() > 24
    drawn = overlay(np.zeros((*SIZE, 3), np.uint8), many())
    assert tuple(drawn[SIDE - 1, SIDE - 1]) == colours[0]
    assert tuple(drawn[-SIDE - 1, -SIDE - 1]) == colours[-1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of two frames with 300 objects, and its run."""
    top = tmp_path_factory.mktemp("many")
    (top / "clip").mkdir()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    for j in range(2):
        save(top / "clip" / f"{j}.png", image)
    (top / "masks").mkdir()
    save(top / "masks" / "0.png", many())
    save(top / "masks" / "1.png", many((7,)).astype(np.uint8))
    weights = write_weights(top / "w.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYENET_CACHE", str(top / "cache"))
        asked = "segment", top / "clip", top / "masks", "-o", top / "out", "--weights", weights
        fast = "--variant", "remp", "--set", "frames.height=0"
        assert cli.main([*map(str, asked), *fast]) == 0
    return top


def test_300_objects_come_out(place: Path) -> None:
    masks = [read(path, wide=True) for path in sorted((place / "out/masks/clip").iterdir())]
    assert len(masks) == 2 and all(mask.dtype == np.uint16 for mask in masks)
    np.testing.assert_array_equal(masks[0], many())
    np.testing.assert_array_equal(masks[1] == 7, many((7,)) == 7)


def test_predicted_objects_keep_numbers_over_255() -> None:
    window = 1, 2, np.ones((2, 3), np.float32)
    mask, confidence = merge({300: window}, (44, 300), (4, 6))
    wanted = np.zeros((4, 6), np.uint16)
    wanted[1:3, 2:5] = 300
    assert mask.dtype == np.uint16 and confidence.tolist() == [0, 1]
    np.testing.assert_array_equal(mask, wanted)


def test_segment_takes_arrays_of_16_bits(tmp_path: Path) -> None:
    frames = [np.zeros((*SIZE, 3), np.uint8)] * 2
    given = many((1, 255, 300))
    networks = load(str(write_weights(tmp_path / "w.safetensors")))
    asked = settings({"frames.height": 0, "run.variant": "remp"})
    made = segment(frames, {0: given}, networks, asked)
    assert made.dtype == np.uint16
    np.testing.assert_array_equal(made[0], given)
    with pytest.raises(BadInput, match="all masks must be of one dtype"):
        segment(frames, {0: given, 1: given.astype(np.uint8)}, networks, asked)


def test_exports_hold_all(place: Path) -> None:
    paths = sorted((place / "out/masks/clip").iterdir())
    clip = Clip("clip", SIZE, paths, NUMBERS, {}, lambda: None)  # type: ignore[arg-type, return-value]
    with np.load(export([clip], "npz", place) / "clip.npz") as found:
        assert found["masks"].dtype == np.uint16
        np.testing.assert_array_equal(found["masks"][0], many())
    coco = export([clip], "coco", place) / "instances.json"
    (video,) = open_dataset("clip", place / "clip", "clip", place, coco).videos
    got = read_index_mask(video.first_masks[0], SIZE, "clip", "0", given=True)
    wanted = many(tuple(n + (n >= 255) for n in NUMBERS))
    np.testing.assert_array_equal(got, wanted)


def test_a_mask_is_written_as_it_was_where_8_bits_are_enough() -> None:
    assert encode_mask(many((1, 2)).astype(np.uint8))[24:26] == bytes([8, 3])
    assert encode_mask(many())[24:26] == bytes([16, 0])
