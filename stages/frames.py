"""Frames and index masks: with films.py the only file of the stages that opens files.

Every message names the video, the frame, the path and what mends it.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, overload

import cv2
import numpy as np
from kornia_rs.io import decode_image_jpegturbo, decode_image_png_u8
from PIL import Image as Pillow

from stages.boxmask import void_of
from stages.containers import counted, whole
from stages.errors import BadInput
from stages.films import Decoder, Unreadable
from stages.settings import FramesSettings
from stages.types import Image, IndexMask, SourceFiles

# Sizes are held to SourceFiles.most_pixels, by a line that says what to do.
Pillow.MAX_IMAGE_PIXELS = None

VERSION = 1

AHEAD = 4
"""frames decoded ahead of the reader"""
VOID = 255
"""in masks of 8 bits"""
WIDE_VOID = 65535
"""in masks of 16 bits"""
WIDE_LEVELS, GAPS = 4096, 16
"""in masks of 16 bits, numbers of objects go up to the first, or leave less than so many gaps
between any two on average"""
HALF = 128
"""grey above which a black-and-white picture shows its object"""
LEVELS = 32
"""grey levels from which a mask without a palette cannot be object numbers"""
COLOUR_TYPE = 25
"""place of a PNG's colour type in its file"""
PALETTE = 3
"""colour type of a PNG with a palette"""
PNG = b"\x89PNG"
PNG_DEPTH = 24
"""place of a PNG's bits a channel in its file"""
DEEP_SUFFIXES = ".png", ".tif", ".tiff"
JPEG = b"\xff\xd8"
"""first bytes of a JPEG"""
NARROW = 16
"""px a side of them, at least: bfloat16 convolutions on a CPU fail on narrower ones"""
SLENDER = 16
"""longer side of the frames that the networks see, in heights: beyond it they are scaled less"""

DEEP = 16
"""bits a channel of an image, of which 8 are kept"""
DEPTHS = 8, 10, 12, 14
"""bits that cameras and microscopes leave the rest of 16 empty with"""


@dataclass(frozen=True)
class Film:
    """Some of the frames of a video file: first, first + step, ..., numbered from 0."""

    path: Path
    first: int = 0
    last: int | None = None
    """the last that may be taken; None: the file's last"""
    step: float = 1.0
    """frames of the file from one taken to the next; at least 1"""

    def number(self, j: int) -> int:
        """Which frame of the file is the j-th that is taken."""
        return self.first + int(j * self.step + 1e-6)

    def place(self, number: int) -> int | None:
        """Where frame `number` of the file is among those taken; None if it is not."""
        j = max(0, math.ceil((number - self.first) / self.step - 1e-6))
        inside = self.last is None or number <= self.last
        return j if inside and self.number(j) == number else None

    def taken(self, count: int) -> list[int]:
        """Numbers of what is taken of a file with `count` frames."""
        end = count if self.last is None else min(count, self.last + 1)
        numbers = map(self.number, range(count))
        return [n for n in numbers if n < end]


FrameSource = tuple[Path, ...] | Path | Film
"""The images of a video in order, one video file, or some of its frames."""


@dataclass(frozen=True)
class Layers:
    """An index mask that lies as one black-and-white picture an object; the n-th shows object n.

    The pictures may be of any format, JPEG too. Where two overlap, the later one wins.
    """

    paths: tuple[Path, ...]
    scaled: bool = False
    """whether pictures of another size than the frames are scaled to them"""


class MaskForm(Protocol):
    """An index mask that lies in a file in another form than object numbers."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that it is read from."""

    @property
    def content(self) -> Mapping[str, Any]:
        """What besides the bytes of its files decides its pixels, as plain JSON values."""

    def draw(self, size: tuple[int, int], where: str, files: SourceFiles) -> IndexMask:
        """(H, W) uint8 object numbers, of frames of this size or of its own; BadInput if unfit.

        where: what a message begins with.
        """


MaskSource = Path | Layers | MaskForm
"""Where an index mask lies: in a file of object numbers, in layers, or in another form."""


class Disk:
    """Files read as they lie there."""

    most_pixels = 1_000_000 * FramesSettings().megapixels

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def check(self, path: Path) -> None:
        """Any content is as good as another."""


DISK = Disk()


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

    def __init__(
        self,
        paths: Sequence[Path],
        video: str,
        files: SourceFiles = DISK,
        *,
        strict: bool = False,
        bits: int = DEEP,
    ) -> None:
        """strict: refuse also what a decoder can make something of, though it is damaged.

        bits: as of open_frames().
        """
        if not paths:
            raise BadInput(f"video {video}: has no frames; put its images into its folder")
        self.paths, self.video = tuple(paths), video
        self.names = tuple(path.stem for path in paths)
        self._files, self._strict, self._bits = files, strict, bits
        self.size = self._read(0).shape[:2]

    def _read(self, j: int) -> Image:
        where = f"video {self.video}, frame {self.names[j]}: {self.paths[j]}"
        read = partial(_read_image, strict=self._strict, bits=self._bits)
        return read(self.paths[j], where, self._files)

    def decode(self, j: int) -> Image:
        image = self._read(j)
        if image.shape[:2] != self.size:
            raise BadInput(
                f"video {self.video}, frame {self.names[j]}: {self.paths[j]} is "
                f"{_by(image.shape[:2])}, the first frame is {_by(self.size)}; "
                "all frames of a video must be of one size"
            )
        return image


class VideoFrames(FrameReader):
    """A video that lies in one file; reading in order is fast, any order is exact."""

    def __init__(self, source: Path | Film, video: str, files: SourceFiles = DISK) -> None:
        film = source if isinstance(source, Film) else Film(source)
        path = film.path
        self.path, self.video, self._files = path, video, files
        if not path.is_file():
            raise BadInput(f"video {video}: {path} {_absent(path)}")
        files.check(path)
        self._decoder = self._open()
        _check_pixels(self._decoder.stored, f"video {video}: {path}", files)
        self._numbers = film.taken(count := self._count())
        if not self._numbers:
            raise BadInput(
                f"video {video}: {path} has {count} frames, numbered from 0, and none from "
                f"{film.first} to {film.last if film.last is not None else 'its end'}"
            )
        self.names = tuple(f"{n:05d}" for n in self._numbers)
        fps = self._decoder.fps
        self.fps = fps / film.step if fps else None
        self._restart()
        self.size = self._image(0).shape[:2]

    def _open(self) -> Decoder:
        try:
            return Decoder(self.path)
        except Unreadable as error:
            raise BadInput(
                f"video {self.video}: {self.path} cannot be opened as a video file"
            ) from error

    def _count(self) -> int:
        """Frames that can be decoded; BadInput if there is none, or should be more."""
        count, more = 0, False
        try:
            while self._decoder.grab():
                count += 1
        except Unreadable:
            more = True
        where = f"video {self.video}: {self.path}"
        if not count:
            raise BadInput(f"{where} holds no frame that can be decoded")
        # After damage there is more to come; a file that was cut short is known by its sizes.
        said = self._decoder.estimate
        with self.path.open("rb") as file:
            if more or not whole(file) or (said > count and counted(file)):
                of = f" of {said}" if said > count else ""
                raise BadInput(
                    f"{where} is damaged or cut short: {count}{of} frames can be decoded; copy it "
                    "anew, or save what is left of it as another file"
                )
        return count

    def _restart(self) -> None:
        self._decoder.close()
        self._decoder = self._open()
        self._next = 0
        self._last: tuple[int, Image] | None = None

    def decode(self, j: int) -> Image:
        image = self._image(j)
        if image.shape[:2] != self.size:
            raise BadInput(
                f"video {self.video}, frame {self.names[j]}: {self.path} has frames of "
                f"{_by(image.shape[:2])} there, and of {_by(self.size)} before; all frames of a "
                "video must be of one size"
            )
        return image

    def _image(self, j: int) -> Image:
        if self._last is not None and self._last[0] == j:
            return self._last[1]
        self._files.check(self.path)
        # seeking by position is inexact in many codecs: go back to the start instead
        if self._numbers[j] < self._next:
            self._restart()
        try:
            while self._next <= self._numbers[j] and self._decoder.grab():
                self._next += 1
        except Unreadable:
            pass
        if self._next <= self._numbers[j]:
            raise BadInput(
                f"video {self.video}, frame {self.names[j]}: {self.path} cannot be decoded there; "
                "the file is damaged or was changed"
            )
        self._files.check(self.path)
        self._last = (j, self._decoder.image())
        return self._last[1]


class ResizedFrames(FrameReader):
    """The frames of another reader in another size."""

    def __init__(self, frames: FrameReader, size: tuple[int, int]) -> None:
        """size: (H, W) px."""
        self.frames, self.size = frames, size
        self.names, self.fps = frames.names, frames.fps

    def decode(self, j: int) -> Image:
        return resize_image(self.frames.decode(j), self.size)


def open_frames(
    source: FrameSource,
    video: str,
    files: SourceFiles = DISK,
    *,
    strict: bool = False,
    bits: int = DEEP,
) -> FrameReader:
    """The frames of a video; BadInput if there are none or the first cannot be read.

    files: how its files are read. strict: as ImageFrames; a damaged video file is always refused.
    bits: of 16 a channel, that images of that depth use; the highest 8 of them are kept.
    """
    if isinstance(source, Path | Film):
        return VideoFrames(source, video, files)
    return ImageFrames(source, video, files, strict=strict, bits=bits)


def frame_files(source: FrameSource) -> tuple[Path, ...]:
    """The files of a video's frames."""
    if isinstance(source, Film):
        return (source.path,)
    return (source,) if isinstance(source, Path) else source


def extent(source: FrameSource, video: str) -> tuple[int, tuple[int, int]]:
    """How many frames there are, and (H, W) px, by the headers alone.

    Of a video file both are what its container says, mostly an estimate. BadInput if there is
    nothing to read.
    """
    if isinstance(source, tuple):
        return len(source), picture_size(source[0], f"video {video}")
    film = source if isinstance(source, Film) else Film(source)
    try:
        with closing(Decoder(film.path)) as decoder:
            return len(film.taken(decoder.estimate)), decoder.stored
    except Unreadable as error:
        raise BadInput(f"video {video}: {film.path} cannot be opened as a video file") from error


def manifest(
    source: FrameSource,
    video: str,
    digest: Callable[[Path], str],
    files: SourceFiles = DISK,
    *,
    bits: int = DEEP,
) -> Manifest:
    """Names, size and digests of all frames; every frame is decoded once to check it.

    digest: of a file's bytes. bits: as of open_frames(). Raises BadInput for a missing,
    unreadable, damaged or differently sized frame.
    """
    frames = open_frames(source, video, files, strict=True, bits=bits)
    for _ in frames:
        continue
    digests = tuple(map(digest, frame_files(source)))
    return Manifest(frames.names, frames.size, frames.fps, digests)


def working_size(size: tuple[int, int], settings: FramesSettings) -> tuple[int, int]:
    """(H, W) px at which the networks see frames of `size`."""
    height = settings.height
    scale = min(height / min(size), SLENDER * height / max(size)) if height else 1.0
    least = min(height, NARROW) if height else 1
    return max(least, round(size[0] * scale)), max(least, round(size[1] * scale))


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
    labels = np.flatnonzero(np.bincount(mask.ravel())).astype(mask.dtype)
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


def _read_image(path: Path, where: str, files: SourceFiles, *, strict: bool, bits: int) -> Image:
    data = file_bytes(path, where, files)
    mode = _header(data, where, files)
    if strict and mode != "CMYK":
        _check_jpeg(data, where)
    try:
        depth = cv2.IMREAD_ANYDEPTH if bits < DEEP else 0
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | depth)
    except cv2.error:
        image = None
    if image is None:
        raise BadInput(f"{where} cannot be decoded as an image; it is truncated or of another kind")
    if image.dtype == np.uint16:
        image = (image >> (bits - 8)).astype(np.uint8)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def deep(path: Path) -> bool:
    """Whether an image has 16 bits a channel; False if it cannot be read."""
    if path.suffix.lower() not in DEEP_SUFFIXES:
        return False
    with suppress(OSError, cv2.error), path.open("rb") as file:
        head = file.read(PNG_DEPTH + 1)
        if head.startswith(PNG):
            return head[PNG_DEPTH:] == bytes([DEEP])
        image = cv2.imdecode(np.frombuffer(head + file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
        return image is not None and image.dtype == np.uint16
    return False


def source_bits(source: FrameSource) -> int:
    """Bits a channel that a video's images hold of 16; 16 also for others, and for a film."""
    images = isinstance(source, tuple) and bool(source) and deep(source[0])
    return bits_held(frame_files(source)) if images else DEEP


def bits_held(paths: Sequence[Path]) -> int:
    """Bits a channel that 16-bit images use: 8, 10, 12 or 14 where all values fit, else 16."""
    highest = 0
    for path in paths:
        with suppress(OSError, cv2.error):
            data = np.frombuffer(path.read_bytes(), np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
            highest = max(highest, 0 if image is None else int(image.max()))
        if highest >> DEPTHS[-1]:
            break
    return next((bits for bits in DEPTHS if 0 < highest < 1 << bits), DEEP)


def file_bytes(path: Path, where: str, files: SourceFiles) -> bytes:
    """What a file holds; BadInput if it is no file, or unreadable."""
    try:
        if path.is_file():
            return files.read(path)
    except OSError as error:
        raise BadInput(f"{where} cannot be read ({error.strerror})") from error
    raise BadInput(f"{where} {_absent(path)}")


def _absent(path: Path) -> str:
    """Why a path is no file."""
    return "is no regular file" if path.exists() else "is missing"


def _header(data: bytes, where: str, files: SourceFiles) -> str | None:
    """Pillow's mode of an image, None if it knows none; BadInput if the image is too large."""
    try:
        with Pillow.open(BytesIO(data)) as image:
            size, mode = (image.height, image.width), image.mode
    except Exception:  # a damaged header can raise anything; the decoder says what is wrong
        return None
    _check_pixels(size, where, files)
    return mode


def _check_pixels(size: tuple[int, int], where: str, files: SourceFiles) -> None:
    if size[0] * size[1] > files.most_pixels:
        raise BadInput(
            f"{where} is {_by(size)}, more than {files.most_pixels // 1_000_000} million pixels; "
            "scale it down, or raise frames.megapixels"
        )


def _check_jpeg(data: bytes, where: str) -> None:
    """BadInput for a JPEG that this decoder has something to say against; others are exact."""
    if data.startswith(JPEG):
        try:
            decode_image_jpegturbo(data, "mono")
        except Exception as error:  # it raises no narrower one
            raise BadInput(
                f"{where} is damaged or truncated, so that a part of it cannot be decoded; "
                "restore the file"
            ) from error


def _by(size: Sequence[int]) -> str:
    """Width x height, as people write it."""
    return f"{size[1]}x{size[0]}"


# --- index masks -----------------------------------------------------------------


def picture_size(path: Path, where: str) -> tuple[int, int]:
    """(H, W) px of an image file, by its header; BadInput if it has none."""
    if not path.is_file():
        raise BadInput(f"{where}: {path} {_absent(path)}")
    try:
        with Pillow.open(path) as image:
            return image.height, image.width
    except Exception as error:  # a damaged header can raise anything
        raise BadInput(f"{where}: {path} cannot be read as an image ({error})") from error


def mask_files(source: MaskSource) -> tuple[Path, ...]:
    """The files that a mask is read from."""
    return (source,) if isinstance(source, Path) else source.paths


def read_index_mask(
    source: MaskSource,
    size: tuple[int, int],
    video: str,
    frame: str,
    files: SourceFiles = DISK,
    *,
    given: bool = False,
    blank: bool = False,
    wide: bool = False,
) -> IndexMask:
    """An index mask (H, W) uint8: 0 background, object numbers, 255 void.

    It is uint16, and void is 65535, where a file of 16 bits holds a number over 255, or where wide
    is set, since another mask of the video does: then 255 is a number too in a file of 16 bits.
    A mask of only 0 and void holds one object, number 1. given: a mask to start from, which must
    hold an object unless blank is set, and is scaled where it has the frames' proportions. Raises
    BadInput for a missing or unreadable file, another size, a colour or antialiased mask, and a
    given mask without an object.
    """
    where = f"video {video}, frame {frame}: mask {mask_files(source)[0]}"
    if isinstance(source, Layers):
        values = _joined(source, size, f"video {video}, frame {frame}", files)
    elif isinstance(source, Path):
        data = file_bytes(source, where, files)
        plain = _plain_values(data, size, where)
        if plain is None:
            plain = index_values(decode(data, where, files), where, wide=wide)
        values = one_object(plain)
    else:
        values = source.draw(size, where, files)
    if wide:
        values = widened(values)
    if given and proportional(values.shape, size):
        values = resize_mask(values, size)
    _check_size(values, size, where)
    if given and not blank and not holds_object(values):
        raise BadInput(f"{where} holds no object; paint each object with a number from 1 on")
    return values


def holds_object(mask: IndexMask) -> bool:
    """Whether any pixel of an index mask is an object's."""
    return bool(np.any((mask > 0) & (mask < void_of(mask))))


def widened(mask: IndexMask) -> IndexMask:
    """An index mask as uint16, in which void is 65535."""
    if mask.dtype == np.uint16:
        return mask
    wide = mask.astype(np.uint16)
    wide[mask == VOID] = WIDE_VOID
    return wide


def proportional(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sizes (H, W) are one picture's, each side of either rounded to whole px."""
    return 2 * abs(size[0] * other[1] - size[1] * other[0]) <= min(sum(size), sum(other))


def _check_size(mask: IndexMask, size: tuple[int, int], where: str) -> None:
    if mask.shape != tuple(size):
        raise BadInput(
            f"{where} is {_by(mask.shape)}, the frames are {_by(size)}; "
            "scale it with nearest-neighbour interpolation or give the original"
        )


def one_object(values: IndexMask) -> IndexMask:
    """0 and void as 0 and 1; a mask with other numbers as it is."""
    white = values == void_of(values)
    return white.view(np.uint8) if _black_and_white(values) else values


def _black_and_white(values: IndexMask) -> bool:
    """Whether a mask holds only 0 and void."""
    if values.max(initial=0) < void_of(values):
        return not values.any()
    # In 8 bits 255 + 1 is 0.
    return bool((values + values.dtype.type(1)).max() <= 1)


def _joined(layers: Layers, size: tuple[int, int], where: str, files: SourceFiles) -> IndexMask:
    """Layers as object numbers in the frames' size."""
    values = np.zeros(size, np.uint8)
    for number, path in enumerate(layers.paths, 1):
        this = f"{where}: mask {path}"
        data = file_bytes(path, this, files)
        _check_jpeg(data, this)
        shown = np.array(decode(data, this, files).convert("L")) > HALF
        layer = shown.astype(np.uint8)
        if layers.scaled:
            layer = cv2.resize(layer, size[::-1], interpolation=cv2.INTER_NEAREST)
        _check_size(layer, size, this)
        values[layer > 0] = number
    return values


def decode(data: bytes, where: str, files: SourceFiles) -> Pillow.Image:
    """The picture in a file's bytes, as it is stored; BadInput if it is damaged or too large."""
    _header(data, where, files)
    try:
        with Pillow.open(BytesIO(data)) as image:
            image.verify()
        with Pillow.open(BytesIO(data)) as image:
            image.load()
            return image
    except Exception as error:  # damage can raise anything
        raise BadInput(f"{where} cannot be decoded as an image ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """What a decoder says, in one line that does not name where its bytes were kept."""
    return re.sub(r"<.*>", "its bytes", str(error)).splitlines()[0] if str(error) else "damaged"


def _plain_values(data: bytes, size: tuple[int, int], where: str) -> IndexMask | None:
    """index_values() of a PNG with one channel of 8 bits and the frames' size; else None.

    Most masks are such, and this decoder takes a tenth of Pillow's time.
    """
    try:
        values = decode_image_png_u8(data, size, "mono")[..., 0]
    except Exception:  # it raises no narrower one, and Pillow says better what is wrong
        return None
    return values if data[COLOUR_TYPE] == PALETTE else _numbers(values, where)


def index_values(image: Pillow.Image, where: str, *, wide: bool = False) -> IndexMask:
    """Pixel values of a mask as object numbers; wide: as of read_index_mask().

    BadInput if they are none.
    """
    if image.format == "JPEG":
        raise BadInput(
            f"{where} is a JPEG, which changes object numbers; save it as PNG, or take a black and "
            "white one with --mask-from threshold"
        )
    pixels = np.array(image)
    if image.mode == "P":
        return pixels.astype(np.uint8, copy=False)
    if image.mode == "1":
        return pixels.astype(np.uint8) * VOID
    if pixels.ndim == 3:
        pixels = _grey(pixels, where)
    highest = pixels.max(initial=0)
    if highest > (VOID if pixels.dtype.kind == "f" else WIDE_VOID):
        raise BadInput(f"{where} has values up to {highest}; save it with 8 or 16 bits")
    if pixels.min(initial=0) < 0:
        raise BadInput(f"{where} has values down to {pixels.min()}; object numbers begin at 0")
    deep = highest > VOID or (wide and pixels.dtype != np.uint8)
    return _numbers(pixels.astype(np.uint16 if deep else np.uint8, copy=False), where)


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
        "numbers; --mask-from colours takes every colour as an object"
    )


def _numbers(values: IndexMask, where: str) -> IndexMask:
    """Grey values as object numbers; BadInput if they look antialiased."""
    if values.max(initial=0) <= LEVELS or _black_and_white(values):
        return values
    white = void_of(values)
    counts = np.bincount(values.ravel(), minlength=white + 1)
    between = counts[1:white]
    kinds = int((between > 0).sum())
    # object numbers leave no gap, or are small; the levels of a soft edge are spread up to white
    numbered = kinds < white - 1 and bool(between[:kinds].all())
    if white > VOID:  # few of so many numbers are in use, and a mask may lack some of them
        numbered = bool(values[values < white].max() <= max(WIDE_LEVELS, GAPS * kinds))
    soft = kinds >= 3 and between[LEVELS:].any() and counts[white] > between.sum()
    if not numbered and (kinds > LEVELS or soft):
        raise BadInput(
            f"{where} has {kinds} grey values between 0 and {white}: its edges are antialiased; "
            "--mask-from threshold takes what is brighter than half as the object"
        )
    return values
