"""Frames and masks: exact reading, and one clear line for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.errors import BadInput
from stages.frames import (
    SLENDER,
    manifest,
    open_frames,
    read_index_mask,
    resize_mask,
    working_frames,
    working_size,
)
from stages.settings import FramesSettings

SIZE = (24, 40)


def pictures(folder: Path, count: int = 5) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = []
    for j in range(count):
        path = folder / f"{j:05d}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        paths.append(path)
    return tuple(paths)


def palette_mask(path: Path, values: np.ndarray) -> Path:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette([v for i in range(256) for v in (i, 255 - i, 7)])
    image.save(path)
    return path


def numbers(*present: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    for n, value in enumerate(present):
        mask[2 + n : 20, 5 * n : 5 * n + 5] = value
    return mask


def test_images_are_read_as_rgb_in_order(tmp_path: Path) -> None:
    paths = pictures(tmp_path)
    frames = open_frames(paths, "v")
    assert (len(frames), frames.size, frames.fps) == (5, SIZE, None)
    assert frames.names[1] == "00001"
    for path, image in zip(paths, frames, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(path)))
    np.testing.assert_array_equal(frames[-1], frames[4])
    assert len(frames[1:3]) == 2


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1000))
def test_the_shorter_side_is_scaled_to_the_height(rows: int, columns: int, height: int) -> None:
    size = working_size((rows, columns), FramesSettings(height))
    if max(rows, columns) > SLENDER * min(rows, columns):
        assert max(size) == SLENDER * height and min(16, height) <= min(size) <= height
        return
    assert min(size) == height
    assert max(size) == pytest.approx(height * max(rows, columns) / min(rows, columns), abs=0.5)
    assert working_size((rows, columns), FramesSettings(0)) == (rows, columns)


def test_frames_are_seen_at_the_height(tmp_path: Path) -> None:
    frames = open_frames(pictures(tmp_path), "v")
    assert working_frames(frames, FramesSettings(0)) is frames
    assert working_frames(frames, FramesSettings(24)) is frames
    half = working_frames(frames, FramesSettings(12))
    assert (len(half), half.size, half.names) == (5, (12, 20), frames.names)
    for image, seen in zip(frames, half, strict=True):
        means = image.reshape(12, 2, 20, 2, 3).mean((1, 3))
        assert np.abs(seen - means).max() <= 0.5
    assert working_frames(frames, FramesSettings(36))[0].shape == (36, 60, 3)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_a_mask_shrinks_to_what_covers_most_and_grows_back(seed: int, factor: int) -> None:
    rng = np.random.default_rng(seed)
    small = rng.choice([0, 1, 7, 255], (6, 9)).astype(np.uint8)
    large = small.repeat(factor, 0).repeat(factor, 1)
    np.testing.assert_array_equal(resize_mask(large, (6, 9)), small)
    np.testing.assert_array_equal(resize_mask(small, (6, 9)), small)
    grown = resize_mask(small, large.shape)
    middle = slice(factor // 2, None, factor)
    if factor % 2:
        np.testing.assert_array_equal(grown[middle, middle], small)


def test_no_object_is_lost_in_a_smaller_mask() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[3, 5], mask[20:40, 20:40] = 4, 9
    small = resize_mask(mask, (4, 4))
    assert small[0, 0] == 4 and (small[2:, 2:] == 9).all()
    assert (small == 0).sum() == 11


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.avi"
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 48))
    for j in range(20):
        image = np.full((48, 64, 3), 10 * j, np.uint8)
        cv2.circle(image, (3 * j, 20), 8, (0, 0, 255), -1)
        out.write(image)
    out.release()
    return path


def test_a_video_file_is_exact_in_any_order(film: Path) -> None:
    in_order = list(open_frames(film, "v"))
    frames = open_frames(film, "v")
    assert (len(frames), frames.size, frames.fps) == (20, (48, 64), 12)
    for j in (7, 3, 3, 19, 0, 8):
        np.testing.assert_array_equal(frames[j], in_order[j])
    assert manifest(film, "v", str).digests == (str(film),)


def test_manifest_has_a_digest_per_image(tmp_path: Path) -> None:
    paths = pictures(tmp_path)
    made = manifest(paths, "v", str)
    assert made.size == SIZE
    assert made.digests == tuple(map(str, paths))


def error_of(call: object) -> str:
    with pytest.raises(BadInput) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    paths = pictures(tmp_path)
    paths[3].unlink()
    message = error_of(lambda: manifest(paths, "clip", str))
    assert "video clip" in message and "frame 00003" in message and str(paths[3]) in message


def test_a_truncated_frame_is_named(tmp_path: Path) -> None:
    paths = pictures(tmp_path)
    paths[2].write_bytes(paths[2].read_bytes()[:30])
    message = error_of(lambda: manifest(paths, "clip", str))
    assert "frame 00002" in message and "cannot be decoded" in message


def test_a_frame_of_another_size_is_named(tmp_path: Path) -> None:
    paths = pictures(tmp_path)
    cv2.imwrite(str(paths[4]), np.zeros((10, 12, 3), np.uint8))
    message = error_of(lambda: manifest(paths, "clip", str))
    assert "frame 00004" in message and "12x10" in message and "40x24" in message


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("not a film")
    assert str(path) in error_of(lambda: open_frames(path, "clip"))


def test_no_frames_at_all() -> None:
    assert "has no frames" in error_of(lambda: open_frames((), "clip"))


def test_palette_numbers_are_kept(tmp_path: Path) -> None:
    values = numbers(1, 7, 255)
    path = palette_mask(tmp_path / "m.png", values)
    np.testing.assert_array_equal(read_index_mask(path, SIZE, "v", "0"), values)


@pytest.mark.parametrize("colours", [0, 4, 256])
@pytest.mark.parametrize("options", [{}, {"transparency": 1}, {"optimize": True}])
def test_every_kind_of_png_keeps_its_numbers(
    tmp_path: Path, colours: int, options: dict[str, object]
) -> None:
    """Grey, a palette in 2 bits and one in 8."""
    image = Image.fromarray(numbers(1, 2, 3))
    if colours:
        image.putpalette([v for n in range(colours) for v in (n, 255 - n, 7)])
    image.save(tmp_path / "m.png", **options)
    got = read_index_mask(tmp_path / "m.png", SIZE, "v", "0")
    np.testing.assert_array_equal(got, numbers(1, 2, 3))


def test_many_palette_numbers_are_no_soft_edge(tmp_path: Path) -> None:
    values = np.full(SIZE, 255, np.uint8)
    values.flat[:60] = range(0, 240, 4)
    path = palette_mask(tmp_path / "m.png", values)
    np.testing.assert_array_equal(read_index_mask(path, SIZE, "v", "0"), values)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_black_and_white_is_one_object(tmp_path: Path, channels: int) -> None:
    values = numbers(255)
    path = tmp_path / "m.png"
    stored = values if channels == 1 else np.dstack([values] * 3)
    if channels == 4:
        stored = np.dstack([stored, np.full(SIZE, 255, np.uint8)])
    Image.fromarray(stored).save(path)
    got = read_index_mask(path, SIZE, "v", "0")
    np.testing.assert_array_equal(got, values // 255)


def test_grey_numbers_are_numbers(tmp_path: Path) -> None:
    values = numbers(1, 2, 3)
    Image.fromarray(values).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_index_mask(tmp_path / "m.png", SIZE, "v", "0"), values)


def mask_error(path: Path) -> str:
    message = error_of(lambda: read_index_mask(path, SIZE, "clip", "00007", given=True))
    assert "video clip" in message and "frame 00007" in message and str(path) in message
    return message


def test_bad_masks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    assert "is missing" in mask_error(path)
    path.write_bytes(b"\x89PNG\r\n")
    assert "cannot be decoded" in mask_error(path)
    palette_mask(path, np.ones((9, 9)))
    message = mask_error(path)
    assert "9x9" in message and "40x24" in message
    palette_mask(path, np.zeros(SIZE))
    assert "holds no object" in mask_error(path)
    palette_mask(path, numbers(255, 255))
    assert read_index_mask(path, SIZE, "v", "0").max() == 1
    colour = np.zeros((*SIZE, 3), np.uint8)
    colour[4:9, 4:9] = (128, 0, 0)
    Image.fromarray(colour).save(path)
    message = mask_error(path)
    assert "#800000" in message and "--mask-from colours" in message


def test_antialiased_masks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    soft = cv2.GaussianBlur(numbers(255, 255), (0, 0), 1.5)
    Image.fromarray(soft).save(path)
    assert "antialiased" in mask_error(path)
    Image.fromarray(numbers(255)).save(tmp_path / "m.jpg")
    assert "JPEG" in mask_error(tmp_path / "m.jpg")


@pytest.mark.parametrize("objects", [4, 40])
def test_grey_numbers_with_much_void_are_numbers(tmp_path: Path, objects: int) -> None:
    values = np.full(SIZE, 255, np.uint8)
    values[0, :] = 0
    values[1:3].flat[:objects] = np.arange(1, objects + 1)
    Image.fromarray(values).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_index_mask(tmp_path / "m.png", SIZE, "v", "0"), values)


def test_an_empty_annotation_is_no_error(tmp_path: Path) -> None:
    path = palette_mask(tmp_path / "m.png", np.zeros(SIZE))
    assert not read_index_mask(path, SIZE, "v", "0").any()
