"""Pictures of masks: palettes, frames with their masks drawn in, and overlay videos."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from colorsys import hsv_to_rgb
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import numpy.typing as npt

from pipeline.datasets.palette import davis_palette
from pipeline.errors import UserError
from stages.boxmask import index_type, void_of
from stages.types import Image, IndexMask

if TYPE_CHECKING:
    from stages.frames import MaskSource

COLOURS = (
    "#e08a00",
    "#2f8fe0",
    "#1fa36b",
    "#e0503c",
    "#a06be0",
    "#12a5a5",
    "#d85aa8",
    "#8f9a1f",
)
"""of objects 1, 2, ... in overlays and in the report: distinct on light and dark alike"""
GOLDEN = 0.618034
"""of a circle: multiples of it lie far from one another, however many there are"""
TINT = 0.45
"""share of an object's colour inside it; its contour is pure colour"""
ENCODERS = {
    "libx264": {"preset": "veryfast", "crf": "20"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b:v": "0"},
    "libsvtav1": {"preset": "12", "crf": "30"},
}
"""of overlay videos, with their options: H.264, VP9 and AV1, which browsers play in mp4; the first
that FFmpeg was built with is taken"""
BT601, LIMITED, BT709, SRGB = 6, 1, 1, 13
"""FFmpeg's numbers of the matrix and range that its conversion from RGB uses, the primaries of
sRGB and its curve: without them a player guesses, another one for large frames"""
QUALITY = 72
"""of the small JPEGs"""
SIDE = 2, 8000
"""px that a side of an overlay video has, at least and at most: what players take"""
FPS = 24.0
"""of an overlay video whose input names no rate"""


def colour(object_id: int) -> str:
    """An object's colour in overlays and reports, as #rrggbb.

    Beyond COLOURS, hues a golden section of the circle apart, in three shades.
    """
    if object_id <= len(COLOURS):
        return COLOURS[object_id - 1]
    shade = (0.55, 0.9), (0.9, 0.75), (0.95, 0.55)
    saturation, value = shade[object_id % 3]
    rgb = hsv_to_rgb(object_id * GOLDEN % 1, saturation, value)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)


def overlay(image: Image, mask: IndexMask) -> Image:
    """The image with every object tinted in its colour and outlined; void is left as it is.

    image: (H, W, 3) RGB. mask: (H, W). Returns a new image of the same size.
    """
    import cv2

    objects = np.where(mask == void_of(mask), mask.dtype.type(0), mask)
    x, y, w, h = cv2.boundingRect((objects > 0).view(np.uint8))
    result = image.copy()
    if w:
        window, objects = result[y : y + h, x : x + w], objects[y : y + h, x : x + w]
        painted = _colours(void_of(mask) + 1)[objects]
        edge = cv2.morphologyEx(objects, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        tinted = cv2.addWeighted(window, 1 - TINT, painted, TINT, 0)
        np.copyto(window, tinted, where=(objects > 0)[..., None])
        np.copyto(window, painted, where=((objects > 0) & (edge > 0))[..., None])
    return result


@lru_cache(maxsize=2)
def _colours(count: int) -> npt.NDArray[np.uint8]:
    """(count, 3) RGB of every ID."""
    return np.array([[0] * 3] + [list(bytes.fromhex(colour(i)[1:])) for i in range(1, count)], "u1")


def read_palette(mask: MaskSource, objects: Sequence[int]) -> bytes:
    """The palette of an input mask, or the DAVIS palette where it would show nothing.

    That is where the file has none, or paints one of the objects like the background. Masks of
    16 bits have none.
    """
    from PIL import Image as Pillow

    if not isinstance(mask, Path) or index_type(objects) != np.uint8:
        return davis_palette()
    with Pillow.open(mask) as file:
        stored = file.getpalette("RGB") if file.mode == "P" else None
    triples = np.zeros((256, 3), np.int16)
    if stored:
        triples[: len(stored) // 3] = np.array(stored, np.int16).reshape(-1, 3)
    seen = np.abs(triples[list(objects)] - triples[0]).max(1) > 32
    return triples.astype(np.uint8).tobytes() if seen.all() else davis_palette()


def write_mask(path: Path, mask: IndexMask, palette: bytes) -> None:
    """Write an index mask as a palette PNG, the form of the benchmark servers."""
    path.write_bytes(encode_mask(mask, palette))


def read_mask(path: Path) -> IndexMask:
    """An index mask (H, W) of write_mask(); OSError, ValueError or SyntaxError for no picture."""
    from PIL import Image as Pillow

    with Pillow.open(path) as file:
        return np.asarray(file)


def encode_mask(mask: IndexMask, palette: bytes | None = None) -> bytes:
    """An index mask as a palette PNG; palette: by default that of DAVIS.

    With object numbers over 254 it is a grey PNG of 16 bits: palettes end at 255.
    """
    from PIL import Image as Pillow

    image, data = Pillow.fromarray(mask), BytesIO()
    if mask.dtype == np.uint8:
        image.putpalette(palette or davis_palette())
    image.save(data, "PNG")
    return data.getvalue()


def write_picture(path: Path, image: Image, mask: IndexMask, width: int) -> None:
    """Write a small JPEG of a frame with its masks, `width` px wide."""
    path.write_bytes(encode_picture(picture(image, mask, width)))


def picture(image: Image, mask: IndexMask, width: int) -> Image:
    """A frame with its masks, resized to be `width` px wide."""
    import cv2

    height = round(image.shape[0] * width / image.shape[1])
    size = width, min(max(1, height), SIDE[1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    # Drawn after the resize, or the outlines would vanish in it.
    return overlay(small, cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))


def encode_picture(image: Image) -> bytes:
    """An image (H, W, 3) RGB as a small JPEG."""
    import cv2

    ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not ok:
        raise UserError("this OpenCV can write no JPEG; install opencv-python from PyPI")
    return data.tobytes()


class VideoFile:
    """An mp4 file in the making: write() every frame, then finish()."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float | None) -> None:
        """size: (H, W) px, scaled where players would not take it.

        The codec takes even sides only: an odd one gets its last row or column once more. OSError
        if nothing can be written, UserError if FFmpeg has none of ENCODERS.
        """
        self._path = path
        scale = min(1.0, SIDE[1] / max(size))
        self._size = max(SIDE[0], int(size[0] * scale)), max(SIDE[0], int(size[1] * scale))
        self._longer = self._size[0] % 2, self._size[1] % 2
        self._file = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        stream = self._file.add_stream(encoder(), _rate(fps), ENCODERS[encoder()])
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = (a + b for a, b in zip(self._size, self._longer, strict=True))
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = BT601, LIMITED
        context.color_primaries, context.color_trc = BT709, SRGB
        self._stream = stream

    def write(self, image: Image) -> None:
        """Add a frame: (H, W, 3) RGB."""
        import cv2

        if image.shape[:2] != self._size:
            image = cv2.resize(image, self._size[::-1], interpolation=cv2.INTER_AREA)
        bottom, right = self._longer
        if bottom or right:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._file.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Close the file; OSError if it is not whole."""
        self._file.mux(self._stream.encode())
        self.close()
        check_whole(self._path)

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()


@lru_cache(maxsize=1)
def encoder() -> str:
    """The name of what writes overlay videos; UserError if FFmpeg has nothing that does."""
    known = next((name for name in ENCODERS if name in av.codecs_available), None)
    if known is None:
        raise UserError(
            f"overlay videos: this PyAV has none of the encoders {', '.join(ENCODERS)}; install av "
            "from PyPI"
        )
    return known


def _rate(fps: float | None) -> Fraction:
    """Frames a second as a fraction, such as 30000/1001."""
    return max(Fraction(1, 1000), Fraction(fps or FPS).limit_denominator(1001))


def _try_disk(path: Path) -> None:
    """OSError if a file at that place cannot be written to; the file goes."""
    try:
        with path.open("wb") as file:
            file.write(bytes(1 << 20))
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


def check_whole(path: Path) -> None:
    """OSError unless the boxes of an mp4 file fill it, its table of frames among them."""
    at, kinds = 0, set[bytes]()
    with path.open("rb") as file:
        while head := file.read(16):
            size, kind = struct.unpack(">I4s", head[:8].ljust(8, b"\0"))
            if size == 1:  # a long box, whose size follows
                size = int.from_bytes(head[8:], "big")
            if size < 8:
                break
            kinds.add(kind)
            at += size
            file.seek(at)
    if at != path.stat().st_size or b"moov" not in kinds:
        _try_disk(path)
        raise OSError(errno.EIO, f"{path.name} was cut short", str(path))
