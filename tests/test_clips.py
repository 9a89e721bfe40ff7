"""What people bring as frames and masks: each kind is right by value, or refused in one line."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cache.digests import bytes_digest
from cache.files import GRACE_S
from cache.prune import prune
from cache.store import Store
from dyenet import load
from pipeline import cli
from pipeline.datasets import Video, open_dataset
from pipeline.datasets.masks.coco import decode
from pipeline.datasets.masks.pictures import ORIENTATION, TURNS
from pipeline.datasets.masks.shapes import Malformed, inside
from pipeline.datasets.reading import Reading
from pipeline.datasets.rules import LATER
from pipeline.datasets.sources import VideoSource, first_frames
from pipeline.errors import UserError
from pipeline.plan.inputs import image_bits, images_digest, mask_digest
from pipeline.results.folder import score_folder
from pipeline.results.overlays import VideoFile
from stages.boxes import masks_in_boxes
from stages.frames import BadInput, FrameReader, open_frames, read_index_mask
from stages.settings import FramesSettings
from tests.clip import SIZE, draw
from tests.tiny_run import ran, write_weights

H, W = SIZE
TRUTH = draw(0)[1]
BLACK_WHITE = ((TRUTH == 1) * 255).astype(np.uint8)
FILM = Path(__file__).parent / "data" / "films" / "variable.mp4"


def save(path: Path, pixels: np.ndarray, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


def tagged(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    return exif


def frames_of(folder: Path, names: Sequence[str] = ("00000", "00001", "00002")) -> Path:
    for j, name in enumerate(names):
        save(folder / f"{name}.png", draw(j)[0])
    return folder


def opened(clip: Path, masks: Path, **reading: object) -> Video:
    given = Reading(**reading)  # type: ignore[arg-type]
    root = clip.parent / "cache"
    return open_dataset("clip", clip, "clip", root, masks, given).videos[0]


def masks_of(video: Video, size: tuple[int, int] = SIZE) -> dict[int, np.ndarray]:
    return {
        j: read_index_mask(mask, size, video.name, video.frame_name(j), given=True, blank=True)
        for j, mask in video.first_masks.items()
    }


def first_mask(clip: Path, masks: Path, **reading: object) -> np.ndarray:
    return masks_of(opened(clip, masks, **reading))[0]


def digest(path: Path) -> str:
    return bytes_digest(path.read_bytes())


def line_of(error: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- order -----------------------------------------------------------------------


def test_frames_and_masks_are_in_natural_order(tmp_path: Path) -> None:
    names = [str(n) for n in range(1, 13)]
    frames_of(tmp_path / "v", names)
    save(tmp_path / "masks/10.png", TRUTH)
    video = opened(tmp_path / "v", tmp_path / "masks")
    assert list(video.frame_names) == names
    assert list(video.first_masks) == [9]
    np.testing.assert_array_equal(open_frames(video.frames, "v")[9], draw(9)[0])


def test_videos_of_a_folder_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("shot10", "shot9"):
        frames_of(tmp_path / name)
        save(tmp_path / f"masks/{name}.png", TRUTH)
    videos = open_dataset("folder", tmp_path, "all").videos
    assert [video.name for video in videos] == ["shot9", "shot10"]


def test_padded_names_are_ordered_as_ever(tmp_path: Path) -> None:
    names = ["-1", "1", "1.5", "10", "a 1", "a-1", "a1", "a_1", "ab", "b01", "b1"]
    frames_of(tmp_path / "v", names)
    video = opened(tmp_path / "v", save(tmp_path / "m.png", TRUTH))
    assert list(video.frame_names) == sorted(names)


# --- pictures --------------------------------------------------------------------


def grey_of(rgb: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(rgb).convert("L"))


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_of_a_frame_with_alpha_the_colours_count(tmp_path: Path, suffix: str) -> None:
    rgb, alpha = draw(0)[0], np.where(TRUTH, 255, 0).astype(np.uint8)
    exact = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = save(tmp_path / f"0.{suffix}", np.dstack([rgb, alpha]), **exact)
    np.testing.assert_array_equal(open_frames((path,), "v")[0], rgb)


@pytest.mark.parametrize("kind", ["cmyk.tif", "cmyk.jpg", "grey.png", "grey.jpg", "grey.tif"])
def test_frames_of_other_colours_are_converted(tmp_path: Path, kind: str) -> None:
    soft = cv2.GaussianBlur(draw(0)[0], (0, 0), 3)
    mode = "CMYK" if kind.startswith("cmyk") else "L"
    Image.fromarray(soft).convert(mode).save(tmp_path / kind)
    with Image.open(tmp_path / kind) as image:
        wanted = np.array(image.convert("RGB")).astype(int)
    got = open_frames((tmp_path / kind,), "v", strict=True)[0]
    assert np.abs(got - wanted).max() <= (1 if kind == "cmyk.jpg" else 0)


@pytest.mark.parametrize(
    ("bits", "kind"), [(8, "png"), (10, "png"), (12, "png"), (12, "tif"), (14, "png")]
)
def test_less_than_16_bits_are_scaled_by_one_factor(tmp_path: Path, bits: int, kind: str) -> None:
    paths = []
    for j in range(3):
        image = draw(j)[0] // (1 if j == 1 else 8)  # only the second frame is bright
        paths.append(tmp_path / "v" / f"{j}.{kind}")
        paths[j].parent.mkdir(exist_ok=True)
        cv2.imwrite(str(paths[j]), (image.astype(np.uint16) << (bits - 8))[..., ::-1])
    video = opened(tmp_path / "v", save(tmp_path / "m.png", TRUTH))
    assert image_bits(video, digest, tmp_path / "cache") == bits
    frames = open_frames(video.frames, "v", bits=bits)
    for j in range(3):
        np.testing.assert_array_equal(frames[j], draw(j)[0] // (1 if j == 1 else 8))
    assert images_digest(video, digest, bits) != images_digest(video, digest)
    trained = VideoSource(video, dict(video.first_masks))
    np.testing.assert_array_equal(trained.frame(0), frames[0])


def test_full_16_bits_stay_as_they_were(tmp_path: Path) -> None:
    deep = draw(0)[0].astype(np.uint16) * 257
    (tmp_path / "v").mkdir()
    cv2.imwrite(str(tmp_path / "v/0.png"), deep[..., ::-1])
    video = opened(tmp_path / "v", save(tmp_path / "m.png", TRUTH))
    assert image_bits(video, digest, tmp_path / "cache") == 16
    np.testing.assert_array_equal(open_frames(video.frames, "v")[0], draw(0)[0])


# --- masks with alpha ------------------------------------------------------------


def cut_out(mask: np.ndarray) -> np.ndarray:
    return np.dstack([draw(0)[0], np.where(mask, 255, 0).astype(np.uint8)])


def test_of_a_cut_out_the_alpha_channel_is_the_object(tmp_path: Path) -> None:
    clip = frames_of(tmp_path / "v")
    path = save(tmp_path / "m.png", cut_out(TRUTH == 1))
    np.testing.assert_array_equal(first_mask(clip, path), TRUTH == 1)
    (mask,) = opened(clip, path).first_masks.values()
    assert mask_digest(mask, digest) != digest(path)


def test_numbers_stay_numbers_where_there_is_alpha(tmp_path: Path) -> None:
    """And their key stays that of the file."""
    clip = frames_of(tmp_path / "v")
    for alpha in (np.full(SIZE, 255, np.uint8), (TRUTH > 0) * np.uint8(255)):
        path = save(tmp_path / "m.png", np.dstack([TRUTH] * 3 + [alpha]))
        assert opened(clip, path).first_masks == {0: path}
        np.testing.assert_array_equal(first_mask(clip, path), TRUTH)


COLOURS = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 0), (0, 90, 255)], np.uint8)


def test_few_colours_and_alpha_are_refused_with_the_choice(tmp_path: Path) -> None:
    clip = frames_of(tmp_path / "v")
    alpha = np.where(TRUTH, 255, 0).astype(np.uint8)
    path = save(tmp_path / "m.png", np.dstack([COLOURS[TRUTH], alpha]))
    with pytest.raises(UserError, match=r"--mask-from alpha, or --mask-from colours") as caught:
        opened(clip, path)
    line_of(caught)
    np.testing.assert_array_equal(first_mask(clip, path, mask_from="alpha"), TRUTH > 0)
    wanted = np.array([0, 1, 0, 2])[TRUTH]
    np.testing.assert_array_equal(first_mask(clip, path, mask_from="colours"), wanted)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_single_colour_is_an_object(tmp_path: Path, channels: int) -> None:
    picture = COLOURS[(TRUTH == 1).astype(int)]
    if channels == 4:
        picture = np.dstack([picture, np.full(SIZE, 255, np.uint8)])
    path = save(tmp_path / "m.png", picture)
    clip = frames_of(tmp_path / "v")
    np.testing.assert_array_equal(first_mask(clip, path, mask_from="colours"), TRUTH == 1)
    with pytest.raises(BadInput, match="--mask-from colours"):
        first_mask(clip, path)


def test_colours_are_the_same_objects_in_every_mask(tmp_path: Path) -> None:
    clip, masks = frames_of(tmp_path / "v"), tmp_path / "masks"
    save(masks / "00000.png", COLOURS[np.where(TRUTH == 3, 3, 0)])
    save(masks / "00002.png", COLOURS[draw(2)[1]])
    got = masks_of(opened(clip, masks, mask_from="colours"))
    np.testing.assert_array_equal(got[0], TRUTH == 3)
    np.testing.assert_array_equal(got[2], np.array([0, 2, 0, 1])[draw(2)[1]])


def test_colours_of_the_davis_palette_keep_its_numbers(tmp_path: Path) -> None:
    palette = np.array([(0, 0, 0), (128, 0, 0), (0, 0, 0), (128, 128, 0)], np.uint8)
    path = save(tmp_path / "m.png", palette[TRUTH])
    clip = frames_of(tmp_path / "v")
    np.testing.assert_array_equal(first_mask(clip, path, mask_from="colours"), TRUTH)


def test_soft_edges_go_to_the_nearest_colour(tmp_path: Path) -> None:
    soft = cv2.GaussianBlur(COLOURS[TRUTH], (0, 0), 1)
    path = save(tmp_path / "m.png", soft)
    got = first_mask(frames_of(tmp_path / "v"), path, mask_from="colours")
    wanted = np.array([0, 1, 0, 2])[TRUTH]
    assert (got == wanted).mean() > 0.97 and set(np.unique(got)) == {0, 1, 2}


def test_antialiased_masks_are_cut_at_half(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", cv2.GaussianBlur(BLACK_WHITE, (0, 0), 1))
    clip = frames_of(tmp_path / "v")
    with pytest.raises(BadInput, match="--mask-from threshold"):
        first_mask(clip, path)
    photo = tmp_path / "m.jpg"
    Image.fromarray(BLACK_WHITE).save(photo, quality=95)
    got = first_mask(clip, photo, mask_from="threshold")
    assert (got == (TRUTH == 1)).mean() > 0.99 and got.max() == 1
    got = first_mask(clip, path, mask_from="threshold")
    assert (got == (TRUTH == 1)).mean() > 0.99 and got.max() == 1


# --- turned frames ---------------------------------------------------------------


def turned_clip(folder: Path, turn: int) -> Path:
    """Frames that are stored so that viewers, by their tag, show draw()."""
    stored_as = {v: k for k, v in TURNS.items()}
    back = Image.Transpose({2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turn])
    assert TURNS[turn] in stored_as
    for j in range(2):
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(draw(j)[0]).transpose(back)
        image.save(folder / f"{j:05d}.png", exif=tagged(turn))
    return folder


def stored(mask: np.ndarray, turn: int) -> np.ndarray:
    back = Image.Transpose({2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turn])
    return np.array(Image.fromarray(mask).transpose(back))


@pytest.mark.parametrize("turn", TURNS)
def test_masks_are_turned_as_their_frames(tmp_path: Path, turn: int) -> None:
    clip = turned_clip(tmp_path / "v", turn)
    np.testing.assert_array_equal(open_frames((clip / "00000.png",), "v")[0], draw(0)[0])
    as_stored = save(tmp_path / "stored.png", stored(TRUTH, turn))
    as_shown = save(tmp_path / "shown.png", TRUTH)
    if turn > 4:  # the sizes tell
        np.testing.assert_array_equal(first_mask(clip, as_stored), TRUTH)
        np.testing.assert_array_equal(first_mask(clip, as_shown), TRUTH)
    else:
        with pytest.raises(UserError, match=r"--mask-turn shown, or --mask-turn stored") as caught:
            opened(clip, as_shown)
        line_of(caught)
        got = first_mask(clip, as_stored, mask_turn="stored")
        np.testing.assert_array_equal(got, TRUTH)
        assert opened(clip, as_shown, mask_turn="shown").first_masks == {0: as_shown}
    own = save(tmp_path / "own.png", stored(TRUTH, turn), exif=tagged(turn))
    np.testing.assert_array_equal(first_mask(clip, own), TRUTH)


def film_of(path: Path, frames: int = 6) -> Path:
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, (W, H))
    for j in range(frames):
        out.write(np.full((H, W, 3), 20 * j, np.uint8))
    out.release()
    return path


def test_masks_are_turned_as_their_film(tmp_path: Path) -> None:
    film = film_of(tmp_path / "film.mp4")
    data = film.read_bytes()
    plain = np.array([0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000], ">i4").tobytes()
    quarter = np.array([0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000], ">i4").tobytes()
    at = data.index(b"tkhd") + data[data.index(b"tkhd") :].index(plain)
    film.write_bytes(data[:at] + quarter + data[at + len(plain) :])
    assert open_frames(film, "film").size == (W, H)
    as_stored = save(tmp_path / "m.png", TRUTH)
    (mask,) = masks_of(opened(film, as_stored), (W, H)).values()
    np.testing.assert_array_equal(mask, np.rot90(TRUTH, -1))


# --- what lies where -------------------------------------------------------------


def test_a_mask_beside_its_frame_is_no_frame(tmp_path: Path) -> None:
    clip = tmp_path / "v"
    for j in range(3):
        save(clip / f"{j:05d}.jpg", draw(j)[0])
    mask = save(clip / "00000.png", TRUTH)
    for given in (mask, clip):
        video = opened(clip, given)
        assert [path.name for path in video.frames] == ["00000.jpg", "00001.jpg", "00002.jpg"]
        assert video.first_masks == {0: mask}
    with pytest.raises(UserError, match=r"both are called 00000.* give it or the folder") as caught:
        opened(clip, save(tmp_path / "m.png", TRUTH))
    line_of(caught)


def test_a_blank_mask_says_that_nothing_enters(tmp_path: Path) -> None:
    clip, masks = frames_of(tmp_path / "v"), tmp_path / "masks"
    save(masks / "00000.png", TRUTH)
    save(masks / "00001.png", np.zeros(SIZE, np.uint8))
    got = masks_of(opened(clip, masks))
    assert sorted(got) == [0, 1] and not got[1].any()
    with pytest.raises(BadInput, match="holds no object"):
        read_index_mask(masks / "00001.png", SIZE, "v", "00001", given=True)


def test_a_mask_of_the_same_proportions_is_scaled(tmp_path: Path) -> None:
    double = save(tmp_path / "m.png", TRUTH.repeat(2, 0).repeat(2, 1))
    clip = frames_of(tmp_path / "v")
    np.testing.assert_array_equal(first_mask(clip, double), TRUTH)
    with pytest.raises(BadInput, match="the frames are 72x56"):
        first_mask(clip, save(tmp_path / "m.png", TRUTH[:, :-4]))
    with pytest.raises(BadInput, match="the frames are 72x56"):
        read_index_mask(double, SIZE, "v", "an annotation, which is exact or wrong")


@pytest.mark.parametrize("size", [(55, 71), (56, 71), (55, 72), (56, 72)])
def test_a_film_holds_every_row_and_column(tmp_path: Path, size: tuple[int, int]) -> None:
    ramp = np.linspace(0, 250, size[0] * size[1]).reshape(size).astype(np.uint8)
    film = VideoFile(tmp_path / "film.mp4", size, 12)
    for _ in range(3):
        film.write(np.dstack([ramp] * 3))
    film.finish()
    got = open_frames(tmp_path / "film.mp4", "film")[1]
    even = tuple(side + side % 2 for side in size)
    assert got.shape[:2] == even
    wanted = np.pad(ramp, [(0, even[n] - size[n]) for n in (0, 1)], mode="edge")
    assert np.abs(got[..., 1].astype(int) - wanted).mean() < 4


# --- drawn masks -----------------------------------------------------------------

SQUARE = [(10.0, 5.0), (30.0, 5.0), (30.0, 25.0), (10.0, 25.0)]
TRIANGLE = [(40.5, 10.0), (60.5, 30.0), (40.5, 30.0)]
PIXELS = np.zeros(SIZE, np.uint8)
PIXELS[5:25, 10:30] = 1
for _row in range(10, 30):
    # centres c + 0.5 with 40.5 < c + 0.5 < 40.5 + (row + 0.5 - 10)
    PIXELS[_row, 40 : 40 + int(np.ceil(_row - 9.5))] = 2


def test_polygons_hold_the_pixels_whose_centre_they_hold() -> None:
    np.testing.assert_array_equal(inside(np.array(SQUARE), SIZE), PIXELS == 1)
    np.testing.assert_array_equal(inside(np.array(TRIANGLE), SIZE), PIXELS == 2)
    far = np.array([(-500.0, -500.0), (900.0, -500.0), (900.0, 900.0), (-500.0, 900.0)])
    assert inside(far, SIZE).all()


def labelme(path: Path, *shapes: dict[str, object]) -> Path:
    document = {"imageHeight": H, "imageWidth": W, "imagePath": "x.jpg", "shapes": list(shapes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def polygon(label: str, points: object, **more: object) -> dict[str, object]:
    return {"label": label, "points": points, "shape_type": "polygon", "group_id": None, **more}


def test_labelme(tmp_path: Path) -> None:
    clip = frames_of(tmp_path / "v")
    path = labelme(tmp_path / "m.json", polygon("cup", SQUARE), polygon("hand", TRIANGLE))
    video = opened(clip, path)
    np.testing.assert_array_equal(masks_of(video)[0], PIXELS)
    assert video.objects == {1: "cup", 2: "hand"}


def test_drawn_masks_train_and_are_scored(tmp_path: Path) -> None:
    clip = frames_of(tmp_path / "v")
    labelme(tmp_path / "masks/v.json", polygon("cup", SQUARE), polygon("hand", TRIANGLE))
    for name in ("00000", "00001", "00002"):
        save(tmp_path / f"annotations/v/{name}.png", PIXELS)
    dataset = open_dataset("folder", tmp_path, "all")
    (source,) = first_frames(dataset.videos, 0)
    np.testing.assert_array_equal(source.mask(0), PIXELS)
    np.testing.assert_array_equal(source.frame(0), draw(0)[0])
    table = score_folder(tmp_path / "annotations", dataset, tmp_path / "out", LATER)
    assert clip.is_dir() and list(table["J_mean"]) == [1, 1]


def test_labelme_of_several_frames_beside_them(tmp_path: Path) -> None:
    clip = frames_of(tmp_path / "v")
    labelme(clip / "00000.json", polygon("hand", TRIANGLE))
    bits = io.BytesIO()
    Image.fromarray(np.ones((20, 20), np.uint8)).save(bits, "PNG")
    drawn = {
        "shape_type": "mask",
        "label": "cup",
        "points": [[10, 5], [29, 24]],
        "mask": base64.b64encode(bits.getvalue()).decode(),
    }
    labelme(clip / "00002.json", drawn, polygon("hand", TRIANGLE))
    video = opened(clip, clip)
    assert video.objects == {1: "hand", 2: "cup"} and len(video.frame_names) == 3
    got = masks_of(video)
    np.testing.assert_array_equal(got[0], PIXELS == 2)
    np.testing.assert_array_equal(got[2], np.array([0, 2, 1])[PIXELS])


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:H, :W] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def test_circles_and_ellipses(tmp_path: Path) -> None:
    clip = frames_of(tmp_path / "v")
    circle = {"label": "cup", "shape_type": "circle", "points": [[30, 25], [30, 37]]}
    got = first_mask(clip, labelme(tmp_path / "m.json", circle))
    assert ((got == 1) != disc(30, 25, 12)).sum() <= 2
    (tmp_path / "m.xml").write_text(
        f'<annotations><image name="00000.png" width="{W}" height="{H}">'
        '<ellipse label="cup" cx="30" cy="25" rx="12" ry="12"/></image></annotations>'
    )
    np.testing.assert_array_equal(first_mask(clip, tmp_path / "m.xml"), got)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's plain run lengths, down the columns."""
    flat = mask.T.ravel().astype(int)
    ends = np.flatnonzero(np.diff(np.r_[-1, flat, -1]))
    lengths = np.diff(ends).tolist()
    return lengths if not flat[0] else [0, *lengths]


def coco(path: Path, masks: list[object]) -> Path:
    """masks: of object 1 in frames 1, then of object 2 there."""
    annotations = [
        {"id": n, "image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1], "segmentation": mask}
        for n, mask in enumerate(masks)
    ]
    document = {
        "images": [{"id": 7, "file_name": "some/00001.jpg", "height": H, "width": W}],
        "categories": [{"id": 3, "name": "person"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(document))
    return path


COMPRESSED = {
    "size": [40, 70],
    "counts": "[6k0=0000000000000000000000000000\\OM33MM33MM33MM33MM33MM33MM33MM33MM3"
    "3MM33MM33MM33MM33MM33MM33MM33MM33MM33MM33MM33a000000000000000000000000000000000000000`8ZOVH00000",
}
"""as pycocotools 2.0.11 writes the picture below"""


def test_compressed_run_lengths() -> None:
    picture = np.zeros((40, 70), bool)
    picture[3:30, 5:60] = True
    picture[10:20, 20:40] = False
    picture[35:, 66:] = True
    np.testing.assert_array_equal(decode(COMPRESSED), picture)
    with pytest.raises(Malformed, match="where the size says 2800"):
        decode({**COMPRESSED, "counts": COMPRESSED["counts"][:-1]})


@pytest.mark.parametrize("kind", ["polygons", "runs"])
def test_coco(tmp_path: Path, kind: str) -> None:
    outlines = [[np.ravel(points).tolist()] for points in (SQUARE, TRIANGLE)]
    runs = [{"size": [H, W], "counts": run_lengths(n == PIXELS)} for n in (1, 2)]
    path = coco(tmp_path / "m.json", list(outlines if kind == "polygons" else runs))
    video = opened(frames_of(tmp_path / "v"), path)
    assert video.objects == {1: "person", 2: "person 2"}
    np.testing.assert_array_equal(masks_of(video)[1], PIXELS)


CVAT_IMAGES = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<image id="0" name="00001.png" width="{W}" height="{H}">
<polygon label="cup" occluded="0" points="{";".join(f"{x},{y}" for x, y in SQUARE)}" z_order="0"/>
<mask label="hand" occluded="0" rle="RLE" left="40" top="10" width="20" height="20" z_order="0"/>
</image></annotations>"""


def row_runs(mask: np.ndarray) -> str:
    lengths = run_lengths(mask.T)
    return ", ".join(map(str, lengths))


def test_cvat_images(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(CVAT_IMAGES.replace("RLE", row_runs(PIXELS[10:30, 40:60] == 2)))
    video = opened(frames_of(tmp_path / "v"), path)
    assert video.objects == {1: "cup", 2: "hand"}
    np.testing.assert_array_equal(masks_of(video)[1], PIXELS)


def cvat_polygon(frame: int, points: object, keyframe: int = 1, outside: int = 0) -> str:
    corners = ";".join(f"{x},{y}" for x, y in points)  # type: ignore[attr-defined]
    return (
        f'<polygon frame="{frame}" keyframe="{keyframe}" outside="{outside}" points="{corners}"/>'
    )


def test_cvat_video(tmp_path: Path) -> None:
    """Only what a person drew is given: no frame between, and none where the object is gone."""
    tracks = (
        f'<track id="0" label="cup">{cvat_polygon(0, SQUARE)}{cvat_polygon(1, SQUARE, 0)}'
        f"{cvat_polygon(2, SQUARE, 1, 1)}</track>"
        f'<track id="1" label="cup">{cvat_polygon(2, TRIANGLE)}</track>'
    )
    size = f"<original_size><width>{W}</width><height>{H}</height></original_size>"
    path = tmp_path / "a.xml"
    path.write_text(f"<annotations><meta><task>{size}</task></meta>{tracks}</annotations>")
    for clip in (frames_of(tmp_path / "v"), film_of(tmp_path / "film.mp4")):
        video = opened(clip, path)
        assert video.objects == {1: "cup", 2: "cup 2"}
        got = masks_of(video)
        assert sorted(got) == [0, 2]
        np.testing.assert_array_equal(got[0], PIXELS == 1)
        np.testing.assert_array_equal(got[2], np.where(PIXELS == 2, 2, 0))


def test_yolo(tmp_path: Path) -> None:
    lines = []
    for kind, points in ((0, SQUARE), (2, TRIANGLE)):
        shares = [f"{x / W:.9f} {y / H:.9f}" for x, y in points]
        lines.append(f"{kind} {' '.join(shares)}")
    masks = tmp_path / "labels"
    masks.mkdir()
    (masks / "00001.txt").write_text("\n".join(lines) + "\n")
    (masks / "classes.txt").write_text("cup\nplate\nhand\n")
    video = opened(frames_of(tmp_path / "v"), masks)
    assert video.objects == {1: "cup", 2: "hand"}
    assert (masks_of(video)[1] == PIXELS).mean() > 0.999


@pytest.mark.parametrize("kind", ["numbers", "bool", "layers", "named"])
def test_numpy(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("m.npz" if kind == "named" else "m.npy")
    if kind == "named":
        np.savez(path, cup=PIXELS == 1, hand=(PIXELS == 2) * np.uint8(255))
    else:
        layers = np.stack([PIXELS == 1, PIXELS == 2])
        stored = {"numbers": PIXELS.astype(np.int64) * 5, "bool": PIXELS == 1, "layers": layers}
        np.save(path, stored[kind])
    video = opened(frames_of(tmp_path / "v"), path)
    wanted = {"numbers": PIXELS * 5, "bool": PIXELS == 1}.get(kind, PIXELS)
    np.testing.assert_array_equal(masks_of(video)[0], wanted)
    assert video.objects == ({1: "cup", 2: "hand"} if kind == "named" else video.objects)


def test_one_file_an_object(tmp_path: Path) -> None:
    for n, label in ((1, 1), (2, 3)):
        save(tmp_path / f"masks/{n}.png", ((label == TRUTH) * 255).astype(np.uint8))
    wanted = np.array([0, 1, 0, 2])[TRUTH]
    for clip in (frames_of(tmp_path / "v"), film_of(tmp_path / "film.mp4")):
        np.testing.assert_array_equal(first_mask(clip, tmp_path / "masks"), wanted)


def test_one_folder_an_object(tmp_path: Path) -> None:
    clip, masks = frames_of(tmp_path / "v"), tmp_path / "masks"
    save(masks / "000/00000.png", ((TRUTH == 1) * 255).astype(np.uint8))
    save(masks / "000/00002.png", ((draw(2)[1] == 1) * 255).astype(np.uint8))
    save(masks / "003/00002.png", ((draw(2)[1] == 3) * 255).astype(np.uint8))
    video = opened(clip, masks)
    assert video.objects == {1: "000", 2: "003"}
    got = masks_of(video)
    np.testing.assert_array_equal(got[0], TRUTH == 1)
    np.testing.assert_array_equal(got[2], np.array([0, 1, 0, 2])[draw(2)[1]])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.json", "{", "is not JSON"),
        ("m.json", "[1]", "is not labelme JSON or COCO JSON"),
        (
            "m.json",
            '{"shapes": [{}], "imageHeight": 1, "imageWidth": 1}',
            "cannot be read as labelme J",
        ),
        ("m.xml", "<a/>", "not CVAT's"),
        ("m.xml", "<a", "cannot be read as CVAT"),
        ("m.txt", "0 1 1 x", "line 1"),
        ("m.txt", "0 1 1 1 1 1", "three or more corners"),
        ("m.txt", "", "holds no object"),
        ("m.npy", "x", "cannot be read as NumPy"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        opened(frames_of(tmp_path / "v"), tmp_path / name)
    assert str(tmp_path / name) in line_of(caught)


def test_the_objects_in_a_file_enter_the_key(tmp_path: Path) -> None:
    clip = frames_of(tmp_path / "v")
    path = labelme(tmp_path / "m.json", polygon("cup", SQUARE))
    (mask,) = opened(clip, path).first_masks.values()
    first = mask_digest(mask, digest)
    labelme(tmp_path / "m.json", polygon("hand", SQUARE))
    (mask,) = opened(clip, path).first_masks.values()
    assert mask_digest(mask, digest) != first


# --- which frames ----------------------------------------------------------------


def pixels(frames: FrameReader) -> list[int]:
    return [round(float(image.mean())) // 20 for image in frames]


@pytest.mark.parametrize(
    ("reading", "numbers"),
    [
        ({"start": 2}, [2, 3, 4, 5]),
        ({"end": 3}, [0, 1, 2, 3]),
        ({"every": 2}, [0, 2, 4]),
        ({"start": 1, "end": 5, "every": 3}, [1, 4]),
        ({"fps": 5.0}, [0, 2, 4]),
        ({"fps": 100.0}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_some_frames_of_a_film(
    tmp_path: Path, reading: dict[str, object], numbers: list[int]
) -> None:
    film = film_of(tmp_path / "film.mp4")
    video = opened(film, save(tmp_path / "m.png", TRUTH), **reading)
    frames = open_frames(video.frames, "film")
    assert list(frames.names) == [f"{n:05d}" for n in numbers]
    assert [video.frame_name(j) for j in range(len(frames))] == list(frames.names)
    assert np.abs(np.array(pixels(frames)) - numbers).max() <= 1
    np.testing.assert_array_equal(frames[len(frames) - 1], open_frames(film, "f")[numbers[-1]])


def test_some_frames_of_a_folder_and_their_masks(tmp_path: Path) -> None:
    clip, masks = frames_of(tmp_path / "v", [str(n) for n in range(10)]), tmp_path / "masks"
    for n in (0, 4, 9):
        save(masks / f"{n}.png", TRUTH)
    video = opened(clip, masks, start=2, end=8, every=2)
    assert list(video.frame_names) == ["2", "4", "6", "8"]
    assert list(video.first_masks) == [1]
    with pytest.raises(UserError, match="mask of frame 4, which --every or --fps leaves out"):
        opened(clip, masks, every=3)
    with pytest.raises(UserError, match="--fps is for a video file"):
        opened(clip, masks, fps=2.0)


def test_a_zip_and_a_series(tmp_path: Path) -> None:
    clip, mask = frames_of(tmp_path / "v", ["f1", "f2", "f10"]), save(tmp_path / "m.png", TRUTH)
    with zipfile.ZipFile(tmp_path / "clip.zip", "w") as archive:
        for path in clip.iterdir():
            archive.write(path, f"deep/er/{path.name}")
        archive.writestr("__MACOSX/deep/._f1.png", b"x")
        archive.writestr("read.me", b"x")
    save(clip / "other.png", draw(5)[0])
    for asked, name in ((tmp_path / "clip.zip", "clip"), (clip / "f%d.png", "v")):
        video = opened(asked, mask)
        assert video.name == name and list(video.frame_names) == ["f1", "f2", "f10"]
        np.testing.assert_array_equal(open_frames(video.frames, "v")[1], draw(1)[0])


def test_what_is_unpacked_is_pruned_and_unpacked_again(tmp_path: Path) -> None:
    clip, mask = frames_of(tmp_path / "v"), save(tmp_path / "m.png", TRUTH)
    with zipfile.ZipFile(tmp_path / "clip.zip", "w") as archive:
        for path in clip.iterdir():
            archive.write(path, path.name)
    root = tmp_path / "cache"
    (root / "boxes").mkdir(parents=True)
    drawn = save(root / "boxes" / "0123456789abcdef.png", TRUTH)
    size = sum(path.stat().st_size for path in clip.iterdir())
    opened(tmp_path / "clip.zip", mask)
    assert prune(Store(root), delete=True) == []
    then = time.time() - 2 * GRACE_S
    for path in root.rglob("*"):
        os.utime(path, (then, then))
    opened(tmp_path / "clip.zip", mask)
    found = prune(Store(root), delete=True)
    assert [(item.path, item.reason) for item in found] == [(drawn, "mask drawn from a box")]
    found = prune(Store(root), min_age_s=0, delete=True)
    assert [(item.bytes, item.reason) for item in found] == [(size, "images of an archive")]
    assert not list((root / "unpacked").iterdir())
    video = opened(tmp_path / "clip.zip", mask)
    np.testing.assert_array_equal(open_frames(video.frames, "v")[1], draw(1)[0])


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ("https://example.org/a.mp4", "is an address; download the video"),
        ("v%03d.png", "holds no file of that name with a number"),
        ("none.mp4", "no such clip"),
    ],
)
def test_what_is_no_clip_is_refused(
    tmp_path: Path, clip: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        opened(Path(clip), save(tmp_path / "m.png", TRUTH))
    line_of(caught)


@pytest.mark.parametrize(
    "reading",
    [{"every": 0}, {"start": -1}, {"fps": 0.0}, {"start": 5, "end": 3}, {"mask_from": "x"}],
)
def test_readings_are_checked(reading: dict[str, object]) -> None:
    with pytest.raises(UserError, match="--"):
        Reading(**reading)  # type: ignore[arg-type]


# --- a whole run -----------------------------------------------------------------


def test_a_run_with_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve-bit frames 1.png ..., masks drawn in labelme beside them, every second frame."""
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))
    weights, clip, out = write_weights(tmp_path / "w.safetensors"), tmp_path / "v", tmp_path / "out"
    clip.mkdir()
    for n in range(9, 15):
        cv2.imwrite(str(clip / f"{n}.png"), (draw(n - 9)[0].astype(np.uint16) << 4)[..., ::-1])
    labelme(clip / "9.json", polygon("cup", SQUARE))
    labelme(clip / "13.json", polygon("cup", SQUARE), polygon("floor", [(0, 0), (72, 0), (72, 56)]))
    tiny = ["--weights", str(weights), "--precision=fp32", "--max-iterations=1"]
    asked = ["segment", str(clip), str(clip), "-o", str(out), "--every=2", *tiny]
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    assert "the 16-bit frames hold 12 bits" in said
    assert "frame 13: object 2 covers 5" in said and "inverted" in said
    written = sorted(path.name for path in (out / "masks/v").iterdir())
    assert written == ["11.png", "13.png", "9.png"]
    run = json.loads((out / "run.json").read_text())
    assert run["videos"]["v"]["names"] == {"1": "cup", "2": "floor"}
    assert run["videos"]["v"]["given"] == [0, 2]
    with Image.open(out / "masks/v/9.png") as mask:
        np.testing.assert_array_equal(np.array(mask) == 1, PIXELS == 1)
    assert cli.main(asked) == 0
    assert "frames:" not in capsys.readouterr().out


def test_a_blank_mask_in_a_run_and_a_correction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another mask leaves what does not depend on masks as it is."""
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))
    clip, masks, out = frames_of(tmp_path / "v"), tmp_path / "masks", tmp_path / "out"
    weights = write_weights(tmp_path / "w.safetensors")
    save(masks / "00000.png", np.zeros(SIZE, np.uint8))
    asked = ["segment", str(clip), str(masks), "-o", str(out), "--weights", str(weights)]
    asked += ["--precision=fp32", "--max-iterations=1"]
    save(masks / "00002.png", np.zeros(SIZE, np.uint8))
    assert cli.main(asked) == 1
    save(masks / "00002.png", draw(2)[1])
    assert cli.main(asked) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["videos"]["v"]["given"] == [2]
    with Image.open(out / "masks/v/00002.png") as mask:
        np.testing.assert_array_equal(np.array(mask), draw(2)[1])
    capsys.readouterr()
    save(masks / "00001.png", draw(1)[1])
    assert cli.main(asked) == 0
    made = set(ran(capsys.readouterr().out)["v"])
    assert {"frames", "search", "tracklets(1)", "export"} <= made
    assert not {"features", "flow", "proposals", "embeddings"} & made


def test_a_box_is_drawn_by_the_mask_network(tmp_path: Path) -> None:
    """A bright disc on a dark ground, with the shipped weights."""
    rows, columns = np.mgrid[:96, :128] + 0.5
    truth = (columns - 70) ** 2 + (rows - 45) ** 2 < 24**2
    image = np.where(truth[..., None], np.uint8([230, 160, 40]), np.uint8([30, 60, 50]))
    boxes = np.array([[46, 21, 94, 69], [2, 2, 20, 20]], np.float32)
    got = masks_in_boxes(image, boxes, load("compact", "cpu", "fp32"), FramesSettings(240))
    both = ((got == 1) & truth).sum() / ((got == 1) | truth).sum()
    assert both > 0.9


def test_boxes_in_place_of_a_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))
    clip, weights = frames_of(tmp_path / "v"), write_weights(tmp_path / "w.safetensors")
    tiny = ["--weights", str(weights), "--precision=fp32", "--max-iterations=1"]
    asked = ["segment", str(clip), "-o", str(tmp_path / "out"), *tiny]
    assert cli.main([*asked, "--box", "5,5,30,20", "--box=40,30,60,50"]) == 0
    (drawn,) = (tmp_path / "cache/boxes").iterdir()
    with Image.open(tmp_path / "out/masks/v/00000.png") as mask, Image.open(drawn) as given:
        index = np.array(mask)
        np.testing.assert_array_equal(index, np.array(given))
    for number, (x0, y0, x1, y1) in enumerate([(5, 5, 30, 20), (40, 30, 60, 50)], 1):
        assert (index[y0:y1, x0:x1] == number).sum() == (index == number).sum() > 0
    for wrong, message in (
        ([], "give its first mask, or a --box"),
        (["--box=1,2,3"], "give four numbers"),
        (["--box=5,5,90,20"], "no box in the frame, which is 72x56 px"),
        (["--box=1,1,9,9"] * 3, "sees no object there"),
    ):
        assert cli.main([*asked, *wrong]) == 1
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


def test_a_file_with_a_box_only_says_what_to_give(tmp_path: Path) -> None:
    box = {"label": "cup", "shape_type": "rectangle", "points": [[30, 25], [10, 5]]}
    path = labelme(tmp_path / "m.json", box)
    with pytest.raises(BadInput, match="holds a box of cup, no outline; give --box 10,5,30,25"):
        first_mask(frames_of(tmp_path / "v"), path)
    (tmp_path / "m.txt").write_text("3 0.5 0.5 0.25 0.5\n")
    with pytest.raises(BadInput, match="box of class 3, no outline; give --box 27,14,45,42"):
        first_mask(frames_of(tmp_path / "v"), tmp_path / "m.txt")
