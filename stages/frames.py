"""Frames and index masks: the only file of the stages that opens files.

Every message names the video, the frame, the path and what mends it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import cv2
import numpy as np
from kornia_rs.io import decode_image_png_u8
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from stages.errors import BadInput
from stages.settings import FramesSettings
from stages.types import Image, IndexMask

VERSION = 1

AHEAD = 4
"""frames decoded ahead of the reader"""
VOID = 255
HALF = 128
"""grey above which a black-and-white picture shows its object"""
LEVELS = 32
"""grey levels from which a mask without a palette cannot be object numbers"""
COLOUR_TYPE = 25
"""place of a PNG's colour type in its file"""
PALETTE = 3
"""colour type of a PNG with a palette"""

FrameSource = tuple[Path, ...] | Path
"""The images of a video in order, or one video file."""


@dataclass(frozen=True)
class Layers:
    """An index mask that lies as one black-and-white picture an object; the n-th shows object n.

    The pictures may be of any format, JPEG too. Where two overlap, the later one wins.
    """

    paths: tuple[Path, ...]
    scaled: bool = False
    """whether pictures of another size than the frames are scaled to them"""


MaskSource = Path | Layers
"""Where an index mask lies: in a file of object numbers, or in layers."""


@dataclass(frozen=True)
class Manifest:
    """What the frames of a video are, without their pixels."""

    names: tuple[str, ...]
    size: tuple[int, int]
    """(H, W) px"""
    fps: float | None
    """None where the source names no rate"""
    digests: tuple[str, ...]
    """of each image file, or of the one video file"""


class FrameReader(Sequence[Image]):
    """The frames of a video, decoded when asked for.

    Iterating decodes a few frames ahead in the background.
    """

    names: tuple[str, ...]
    size: tuple[int, int]
    fps: float | None

    def decode(self, j: int) -> Image:
        """Frame j: (H, W, 3) uint8 RGB."""
        raise TypeError(f"{type(self).__name__} decodes nothing")

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, j: int) -> Image: ...

    @overload
    def __getitem__(self, j: slice) -> list[Image]: ...

    def __getitem__(self, j: int | slice) -> Image | list[Image]:
        if isinstance(j, slice):
            return [self.decode(i) for i in range(len(self))[j]]
        return self.decode(range(len(self))[j])

    def __iter__(self) -> Iterator[Image]:
        # one thread, so that a video file is read in order
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[Future[Image]] = deque()
            for j in range(len(self)):
                waiting.append(pool.submit(self.decode, j))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


class ImageFrames(FrameReader):
    """A video that lies as one image a frame."""

    fps = None

    def __init__(self, paths: Sequence[Path], video: str) -> None:
        if not paths:
            raise BadInput(f"video {video}: has no frames; put its images into its folder")
        self.paths, self.video = tuple(paths), video
        self.names = tuple(path.stem for path in paths)
        self.size = _read_image(self.paths[0], video).shape[:2]

    def decode(self, j: int) -> Image:
        image = _read_image(self.paths[j], self.video)
        if image.shape[:2] != self.size:
            raise BadInput(
                f"video {self.video}, frame {self.names[j]}: {self.paths[j]} is "
                f"{_by(image.shape[:2])}, the first frame is {_by(self.size)}; "
                "all frames of a video must be of one size"
            )
        return image


class VideoFrames(FrameReader):
    """A video that lies in one file; reading in order is fast, any order is exact."""

    def __init__(self, path: Path, video: str) -> None:
        self.path, self.video = path, video
        self._capture = cv2.VideoCapture(str(path))
        if not path.is_file() or not self._capture.isOpened():
            raise BadInput(f"video {video}: {path} cannot be opened as a video file")
        count = 0
        while self._capture.grab():
            count += 1
        if not count:
            raise BadInput(f"video {video}: {path} holds no frame that can be decoded")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or None
        self.names = tuple(f"{j:05d}" for j in range(count))
        self._restart()
        self.size = self.decode(0).shape[:2]

    def _restart(self) -> None:
        self._capture.release()
        self._capture = cv2.VideoCapture(str(self.path))
        self._next = 0
        self._last: tuple[int, Image] | None = None

    def decode(self, j: int) -> Image:
        if self._last is not None and self._last[0] == j:
            return self._last[1]
        # seeking by position is inexact in many codecs: go back to the start instead
        if j < self._next:
            self._restart()
        while self._next < j:
            self._capture.grab()
            self._next += 1
        ok, image = self._capture.read()
        self._next += 1
        if not ok:
            raise BadInput(
                f"video {self.video}, frame {self.names[j]}: {self.path} cannot be decoded there; "
                "the file is damaged or was changed"
            )
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        self._last = (j, np.asarray(rgb, np.uint8))
        return self._last[1]


class ResizedFrames(FrameReader):
    """The frames of another reader in another size."""

    def __init__(self, frames: FrameReader, size: tuple[int, int]) -> None:
        """size: (H, W) px."""
        self.frames, self.size = frames, size
        self.names, self.fps = frames.names, frames.fps

    def decode(self, j: int) -> Image:
        return resize_image(self.frames.decode(j), self.size)


def open_frames(source: FrameSource, video: str) -> FrameReader:
    """The frames of a video; BadInput if there are none or the first cannot be read."""
    if isinstance(source, Path):
        return VideoFrames(source, video)
    return ImageFrames(source, video)


def manifest(source: FrameSource, video: str, digest: Callable[[Path], str]) -> Manifest:
    """Names, size and digests of all frames; every frame is decoded once to check it.

    digest: of a file's bytes. Raises BadInput for a missing, unreadable or differently sized
    frame.
    """
    frames = open_frames(source, video)
    for _ in frames:
        continue
    files = [source] if isinstance(source, Path) else list(source)
    return Manifest(frames.names, frames.size, frames.fps, tuple(map(digest, files)))


def working_size(size: tuple[int, int], settings: FramesSettings) -> tuple[int, int]:
    """(H, W) px at which the networks see frames of `size`."""
    scale = settings.height / min(size) if settings.height else 1.0
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def working_frames(frames: FrameReader, settings: FramesSettings) -> FrameReader:
    """Frames as the networks see them."""
    size = working_size(frames.size, settings)
    return frames if size == frames.size else ResizedFrames(frames, size)


def resize_image(image: Image, size: tuple[int, int]) -> Image:
    """An image (H, W, 3) in another size (H, W)."""
    if image.shape[:2] == size:
        return image
    way = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size[::-1], interpolation=way), np.uint8)


def resize_mask(mask: IndexMask, size: tuple[int, int]) -> IndexMask:
    """An index mask (H, W) in another size: a pixel takes the label that covers most of it.

    No object is lost: one that covers most of no pixel takes the one it covers best.
    """
    if mask.shape == size:
        return mask
    way = cv2.INTER_AREA if size[0] < mask.shape[0] else cv2.INTER_LINEAR
    labels = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).astype(np.uint8)
    shares = [
        cv2.resize((mask == i).astype(np.float32), size[::-1], interpolation=way) for i in labels
    ]
    resized = labels[np.argmax(shares, axis=0)]
    for i, share in zip(labels, shares, strict=True):
        if i and not (resized == i).any():
            resized.flat[share.argmax()] = i
    return resized


def resize_masks(masks: Mapping[int, IndexMask], size: tuple[int, int]) -> dict[int, IndexMask]:
    """Index masks by frame in another size (H, W)."""
    return {j: resize_mask(mask, size) for j, mask in masks.items()}


def _read_image(path: Path, video: str) -> Image:
    if not path.is_file():
        raise BadInput(f"video {video}, frame {path.stem}: {path} is missing")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise BadInput(
            f"video {video}, frame {path.stem}: {path} cannot be decoded as an image; "
            "it is truncated or of another kind"
        )
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _by(size: Sequence[int]) -> str:
    """Width x height, as people write it."""
    return f"{size[1]}x{size[0]}"


# --- index masks -----------------------------------------------------------------


def picture_size(path: Path, where: str) -> tuple[int, int]:
    """(H, W) px of an image file, by its header; BadInput if it has none."""
    try:
        with Pillow.open(path) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError) as error:
        raise BadInput(f"{where}: {path} cannot be read as an image ({error})") from error


def mask_files(source: MaskSource) -> tuple[Path, ...]:
    """The files of a mask."""
    return (source,) if isinstance(source, Path) else source.paths


def read_index_mask(
    source: MaskSource, size: tuple[int, int], video: str, frame: str, *, given: bool = False
) -> IndexMask:
    """An index mask (H, W) uint8: 0 background, object numbers, 255 void.

    A mask of only 0 and 255 holds one object, number 1. given: a mask to start from, which
    must hold an object. Raises BadInput for a missing or unreadable file, another size, a
    colour or antialiased mask, and a given mask without an object.
    """
    where = f"video {video}, frame {frame}: mask {mask_files(source)[0]}"
    if isinstance(source, Layers):
        values = _joined(source, size, f"video {video}, frame {frame}")
    else:
        plain = _plain_values(source, size, where)
        values = _one_object(_index_values(source, where) if plain is None else plain)
        _check_size(values, size, where)
    if given and not np.any((values > 0) & (values < VOID)):
        raise BadInput(f"{where} holds no object; paint each object with a number from 1 to 254")
    return values


def _check_size(mask: IndexMask, size: tuple[int, int], where: str) -> None:
    if mask.shape != tuple(size):
        raise BadInput(
            f"{where} is {_by(mask.shape)}, the frames are {_by(size)}; "
            "scale it with nearest-neighbour interpolation or give the original"
        )


def _one_object(values: IndexMask) -> IndexMask:
    """0 and 255 as 0 and 1; a mask with other numbers as it is."""
    return (values == VOID).view(np.uint8) if _black_and_white(values) else values


def _black_and_white(values: IndexMask) -> bool:
    """Whether a mask holds only 0 and 255."""
    if values.max(initial=0) < VOID:
        return not values.any()
    # In 8 bits 255 + 1 is 0.
    return bool((values + np.uint8(1)).max() <= 1)


def _joined(layers: Layers, size: tuple[int, int], where: str) -> IndexMask:
    """Layers as object numbers in the frames' size."""
    values = np.zeros(size, np.uint8)
    for number, path in enumerate(layers.paths, 1):
        shown = np.array(_decoded(path, f"{where}: mask {path}").convert("L")) > HALF
        layer = shown.astype(np.uint8)
        if layers.scaled:
            layer = cv2.resize(layer, size[::-1], interpolation=cv2.INTER_NEAREST)
        _check_size(layer, size, f"{where}: mask {path}")
        values[layer > 0] = number
    return values


def _decoded(path: Path, where: str) -> Pillow.Image:
    if not path.is_file():
        raise BadInput(f"{where} is missing")
    try:
        with Pillow.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise BadInput(f"{where} cannot be decoded as an image ({error})") from error


def _plain_values(path: Path, size: tuple[int, int], where: str) -> IndexMask | None:
    """_index_values() of a PNG with one channel of 8 bits and the frames' size; else None.

    Most masks are such, and this decoder takes a tenth of Pillow's time.
    """
    try:
        data = path.read_bytes()
        values = decode_image_png_u8(data, size, "mono")[..., 0]
    except Exception:  # it raises no narrower one, and Pillow says better what is wrong
        return None
    return values if data[COLOUR_TYPE] == PALETTE else _numbers(values, where)


def _index_values(path: Path, where: str) -> IndexMask:
    """Pixel values of a mask file as object numbers."""
    image = _decoded(path, where)
    if image.format == "JPEG":
        raise BadInput(f"{where} is a JPEG, which changes object numbers; save it as PNG")
    pixels = np.array(image)
    if image.mode == "P":
        return pixels.astype(np.uint8, copy=False)
    if image.mode == "1":
        return pixels.astype(np.uint8) * VOID
    if pixels.ndim == 3:
        pixels = _grey(pixels, where)
    if pixels.max(initial=0) > 255:
        raise BadInput(f"{where} has 16-bit values up to {pixels.max()}; save it with 8 bits")
    return _numbers(pixels.astype(np.uint8, copy=False), where)


def _grey(pixels: IndexMask, where: str) -> IndexMask:
    """The one channel of a grey picture stored as colour; BadInput if it has colours."""
    colour = pixels[..., : 3 if pixels.shape[2] >= 3 else 1]
    if (colour == colour[..., :1]).all():
        return np.ascontiguousarray(colour[..., 0])
    packed = colour.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    found, counts = np.unique(packed, return_counts=True)
    common = ", ".join(f"#{found[n]:06x}" for n in np.argsort(-counts)[:4])
    raise BadInput(
        f"{where} is a colour picture ({len(found)} colours, most {common}) and not object "
        "numbers; convert it: Image.open(p).quantize(256, dither=0).save(p), then check the numbers"
    )


def _numbers(values: IndexMask, where: str) -> IndexMask:
    """Grey values as object numbers; BadInput if they look antialiased."""
    if values.max(initial=0) <= LEVELS or _black_and_white(values):
        return values
    counts = np.bincount(values.ravel(), minlength=256)
    between = counts[1:VOID]
    kinds = int((between > 0).sum())
    # object numbers leave no gap, or are small; the levels of a soft edge are spread up to white
    numbered = kinds < VOID - 1 and bool(between[:kinds].all())
    soft = kinds >= 3 and between[LEVELS:].any() and counts[VOID] > between.sum()
    if not numbered and (kinds > LEVELS or soft):
        raise BadInput(
            f"{where} has {kinds} grey values between 0 and 255: its edges are antialiased; "
            "cut it at half: Image.open(p).convert('L').point(lambda v: 255 * (v > 127)).save(p)"
        )
    return values
