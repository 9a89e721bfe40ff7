"""Masks that are pictures, but whose pixels are not simply object numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from pipeline.datasets.masks.shapes import MOST, NARROW, counted
from pipeline.datasets.palette import davis_palette
from pipeline.errors import UserError
from stages.boxmask import index_type, void_of
from stages.films import Decoder, Unreadable
from stages.frames import (
    HALF,
    LEVELS,
    BadInput,
    Film,
    FrameSource,
    decode,
    file_bytes,
    frame_files,
    index_values,
    one_object,
    proportional,
)
from stages.types import IndexMask, SourceFiles

ORIENTATION = 0x0112
"""EXIF tag of how a viewer turns a picture"""
UNTURNED = 1
"""its value where the picture is shown as it is stored"""
TURNS = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""what shows a stored picture as a viewer does, by the tag's value"""
FILM_TURNS = {0: UNTURNED, 90: 6, 180: 3, 270: 8}
"""the same, by degrees of a video file's rotation"""
Laid = tuple[tuple[int, int], int]
"""(H, W) px of a frame as it is stored, and the tag's value"""
Colours = npt.NDArray[np.uint32]
"""(H, W) RGB of a pixel as one number; 0 where it is transparent"""


@dataclass(frozen=True)
class Picture:
    """A mask in a picture: how it is turned, and what of it shows the objects."""

    path: Path
    form: str | None = None
    """one of reading.FORMS; None: its pixels are object numbers"""
    turn: int = UNTURNED
    """EXIF's number of the turn that lays it on the frames"""
    numbers: Mapping[int, int] = field(default_factory=dict)
    """object numbers by colour, 0xRRGGBB"""

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def content(self) -> Mapping[str, Any]:
        colours = {f"{colour:06x}": number for colour, number in self.numbers.items()}
        return {"form": self.form, "turn": self.turn, "colours": colours}

    def draw(self, size: tuple[int, int], where: str, files: SourceFiles) -> IndexMask:
        """(H, W) object numbers in the picture's own size; BadInput if it does not hold them."""
        image = decode(file_bytes(self.path, where, files), where, files)
        values = self._values(image, where)
        if self.turn != UNTURNED:
            values = np.array(Pillow.fromarray(values).transpose(TURNS[self.turn]))
        return values

    def _values(self, image: Pillow.Image, where: str) -> IndexMask:
        if self.form and image.mode[0] in "IF":
            raise BadInput(f"{where} has more than 8 bits; save it with 8 bits")
        if self.form == "alpha":
            return (alpha(image, where) >= HALF).astype(np.uint8)
        if self.form == "threshold":
            return (np.array(on_black(image)).max(axis=2) >= HALF).astype(np.uint8)
        if self.form == "colours":
            return _by_colour(colours(image), self.numbers)
        return one_object(index_values(image, where))


@dataclass(frozen=True)
class Apart:
    """A mask that lies as one picture an object."""

    pictures: tuple[Picture, ...]
    numbers: tuple[int, ...]
    """of the object that each shows"""

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(picture.path for picture in self.pictures)

    @property
    def content(self) -> Mapping[str, Any]:
        forms = [dict(picture.content) for picture in self.pictures]
        return {"apart": list(self.numbers), "forms": forms}

    def draw(self, size: tuple[int, int], where: str, files: SourceFiles) -> IndexMask:
        """(H, W) object numbers in the pictures' size; where two overlap, the later one wins."""
        layers = [picture.draw(size, where, files) for picture in self.pictures]
        mask = np.zeros(layers[0].shape, index_type(self.numbers))
        for picture, layer, number in zip(self.pictures, layers, self.numbers, strict=True):
            if layer.shape != mask.shape:
                raise BadInput(f"{where} and {picture.path} differ in size; give both in one")
            mask[(layer > 0) & (layer < void_of(layer))] = number
        return mask


def opened(path: Path) -> Pillow.Image:
    """A picture before it is decoded; OSError for what is no regular file: a pipe has no end."""
    if not path.is_file():
        raise OSError(f"{path} is no regular file")
    return Pillow.open(path)


def disjoint(paths: Sequence[Path]) -> bool:
    """Whether black-and-white pictures show objects that do not overlap, hence not the same one."""
    together = None
    for path in paths:
        try:
            with opened(path) as image:
                shown = one_object(index_values(image, str(path))) == 1
        except Exception:
            return False
        together = np.zeros(shown.shape, np.uint8) if together is None else together
        if shown.shape != together.shape or not shown.any():
            return False
        together += shown
    return together is not None and int(together.max()) == 1


def alpha(image: Pillow.Image, where: str) -> npt.NDArray[np.uint8]:
    """(H, W) opacity; BadInput if the picture has none."""
    if not image.has_transparency_data:
        raise BadInput(f"{where} has no alpha channel; leave --mask-from alpha out")
    return np.array(image.convert("RGBA"))[..., 3]


def on_black(image: Pillow.Image) -> Pillow.Image:
    """A picture in RGB; transparent parts are black."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    black = Pillow.new("RGBA", seen.size, (0, 0, 0, 255))
    return Pillow.alpha_composite(black, seen).convert("RGB")


def colours(image: Pillow.Image) -> Colours:
    """The colour of every pixel."""
    rgb = np.array(on_black(image)).astype(np.uint32)
    packed: Colours = rgb @ np.array([65536, 256, 1], np.uint32)
    return packed


def solid(picture: Colours) -> list[int]:
    """The colours of a mask's objects, in the order in which rows read from the top show them.

    Black and what is transparent is background. Of more than 32 colours only those count that
    fill 3 x 3 px somewhere; the others are the soft edges between them.
    """
    found, first = np.unique(picture, return_index=True)
    if len(found) > LEVELS:
        plane = picture.astype(np.float64)
        cross = np.ones((3, 3), np.uint8)
        same = cv2.erode(plane, cross) == cv2.dilate(plane, cross)
        kept = np.isin(found, picture[same])
        found, first = found[kept], first[kept]
    return [int(found[n]) for n in np.argsort(first) if found[n]]


def numbers_of(pictures: Sequence[Colours], where: str) -> dict[int, int]:
    """Object numbers by colour for all masks of a video.

    Colours of DAVIS's palette have their number there, if all are; else they are counted as they
    come. UserError for more than an index mask can number.
    """
    found = list(dict.fromkeys(colour for picture in pictures for colour in solid(picture)))
    if len(found) > MOST:
        raise UserError(f"{where} holds {len(found)} colours; {MOST} objects are the most")
    palette = np.frombuffer(davis_palette(), np.uint8).reshape(-1, 3).astype(int)
    known = {int(r << 16 | g << 8 | b): n for n, (r, g, b) in enumerate(palette)}
    if all(0 < known.get(colour, 0) <= NARROW for colour in found):
        return {colour: known[colour] for colour in found}
    return dict(zip(found, counted([""] * len(found)), strict=True))


def _by_colour(picture: Colours, numbers: Mapping[int, int]) -> IndexMask:
    """Object numbers by colour; another colour is that of the nearest one, or background."""
    known = np.array([0, *numbers], np.uint32)
    values = np.array([0, *numbers.values()], index_type(numbers.values()))
    found, place = np.unique(picture, return_inverse=True)
    distance = np.abs(_channels(found)[:, None] - _channels(known)).sum(2)
    return values[distance.argmin(1)][place].reshape(picture.shape)


def _channels(packed: Colours) -> npt.NDArray[np.int64]:
    """(N, 3)"""
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.int64)


# --- what a picture is, by what its file says -------------------------------------


def form_of(path: Path, where: str) -> str | None:
    """Whether a mask's alpha channel is the object, by what lies inside and outside of it.

    UserError where its colours may as well be the objects. None for a picture without such a
    channel, for one whose colours are object numbers, and for one that cannot be read.
    """
    try:
        with opened(path) as image:
            if image.mode not in ("RGBA", "LA", "PA"):
                return None
            seen = np.array(image.convert("RGBA")).astype(np.uint32)
    except Exception:  # the reader says what is wrong with it
        return None
    opaque = seen[..., 3] >= HALF
    if opaque.all() or not opaque.any():
        return None
    packed = seen[..., :3] @ np.array([65536, 256, 1], np.uint32)
    inside = np.unique(packed[opaque])
    grey = bool((inside % 256 * 0x010101 == inside).all())
    if grey and not packed[~opaque].any() and _are_numbers(inside % 256):
        return None
    if 1 < len(inside) <= LEVELS:
        raise UserError(
            f"{where} has {len(inside)} colours and an alpha channel; say what shows the objects: "
            "--mask-from alpha, or --mask-from colours"
        )
    return "alpha"


def _are_numbers(grey: npt.NDArray[np.uint32]) -> bool:
    """Whether grey values are object numbers: few, or without a gap."""
    present = grey[grey > 0]
    return len(present) > 0 and (len(grey) <= LEVELS or bool(present[-1] == len(present)))


def laid(frames: FrameSource, j: int) -> Laid | None:
    """How frame j of a video lies in its file; None where that cannot be read."""
    return (
        _laid_film(frame_files(frames)[0]) if isinstance(frames, Path | Film) else _laid(frames[j])
    )


def _laid(path: Path) -> Laid | None:
    try:
        with opened(path) as image:
            turn = int(image.getexif().get(ORIENTATION, UNTURNED))
            return (image.height, image.width), turn if turn in TURNS else UNTURNED
    except Exception:  # the reader says what is wrong with it
        return None


@lru_cache(maxsize=16)
def _laid_film(path: Path) -> Laid | None:
    if not path.is_file():
        return None
    try:
        with closing(Decoder(path)) as film:
            film.grab()
            turn = FILM_TURNS.get(film.degrees)
            return None if turn is None else (film.stored, turn)
    except Unreadable:  # the reader says what is wrong with it
        return None


def turn_to(mask: Path, frames: FrameSource, j: int, asked: str | None, where: str) -> int:
    """How a mask must be turned to lie on frame j, which is read as viewers show it.

    asked: one of reading.TURNS. UserError where a mask without a tag fits both ways and nothing
    was asked.
    """
    try:
        with opened(mask) as image:
            size, own = (image.height, image.width), image.getexif().get(ORIENTATION)
    except Exception:  # the reader says what is wrong with it
        return UNTURNED
    if own in (UNTURNED, *TURNS):
        return int(own)
    frame = laid(frames, j)
    if frame is None or frame[1] == UNTURNED:
        return UNTURNED
    stored, turn = frame
    shown = stored[::-1] if turn > 4 else stored
    fits = {"shown": proportional(size, shown), "stored": proportional(size, stored)}
    if all(fits.values()) and asked is None:
        raise UserError(
            f"{where} fits the frames both as they are shown and as they are stored, for they "
            f"have an orientation tag ({turn}); say which: --mask-turn shown, or --mask-turn stored"
        )
    way = asked if all(fits.values()) else "stored" if fits["stored"] else "shown"
    return turn if way == "stored" else UNTURNED
