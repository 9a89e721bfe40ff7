"""What Figs. 4, 5 and 7 are drawn from: parts of frames, heat maps and labelled grids."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.files import write_file
from pipeline.errors import UserError
from stages.boxmask import paste
from stages.types import Box, Image, IndexMask, Tracklet

KEY = "dyenet"
"""text chunk of a PNG that holds what it was drawn from"""
CELL = 320
"""px: width of a picture in a comparison"""
ROI = 160
"""px: the longer side of a RoI in the attention's figure"""
GAP, HEAD, FONT = 6, 26, 15
"""px: between pictures, the line of headings, letters"""
PAGE = (255, 255, 255)
INK = (30, 30, 30)
HEAT = 0.7
"""share of the heat map over the grey picture"""


def spread(first: int, last: int, count: int) -> list[int]:
    """At most `count` frames at equal interval, the first and the last among them."""
    return sorted({round(n) for n in np.linspace(first, last, count)})


def in_frame(tracklet: Tracklet, j: int, size: tuple[int, int]) -> IndexMask:
    """A tracklet's mask in frame j as an index mask (H, W); empty where it has ended."""
    mask = np.zeros(size, np.uint8)
    if tracklet.covers(j):
        n = j - tracklet.first
        y, x, p = paste(tracklet.boxes[n], tracklet.masks[n], size)
        mask[y : y + p.shape[0], x : x + p.shape[1]][p > 0.5] = tracklet.start.object_id
    return mask


def crop(array: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8]:
    """A part of a frame (H, W, ...), zero outside the frame; box rounded to whole pixels."""
    x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
    part = np.zeros((max(1, y1 - y0), max(1, x1 - x0), *array.shape[2:]), np.uint8)
    top, left = max(y0, 0), max(x0, 0)
    inside = array[top : max(y1, top), left : max(x1, left)]
    part[top - y0 :, left - x0 :][: inside.shape[0], : inside.shape[1]] = inside
    return part


def heat(image: Image, a: npt.NDArray[np.float32]) -> Image:
    """a (m, m) as colours, its least dark and its most yellow, over the image in grey."""
    import cv2

    scaled = np.rint(255 * (a - a.min()) / max(float(np.ptp(a)), 1e-6)).astype(np.uint8)
    size = image.shape[1], image.shape[0]
    large = cv2.resize(scaled, size, interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(large, cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mixed = cv2.addWeighted(np.ascontiguousarray(colours), HEAT, grey, 1 - HEAT, 0)
    return np.asarray(mixed, np.uint8)


def grid(rows: Sequence[Sequence[Image]], names: Sequence[str], heads: Sequence[str]) -> Image:
    """Pictures in rows and columns on a white page, with a name a row and a heading a column."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    heights = [max(cell.shape[0] for cell in row) for row in rows]
    font = ImageFont.load_default(FONT)
    needed = [max(cell.shape[1] for cell in column) for column in zip(*rows, strict=True)]
    widths = [max(w, int(font.getlength(h)) + GAP) for w, h in zip(needed, heads, strict=True)]
    side = max(int(font.getlength(name)) for name in names) + 2 * GAP
    size = side + sum(widths) + GAP * len(widths), HEAD + sum(heights) + GAP * len(heights)
    page = Pillow.new("RGB", size, PAGE)
    draw = ImageDraw.Draw(page)
    x = side
    for head, width in zip(heads, widths, strict=True):
        draw.text((x, GAP), head, INK, font)
        x += width + GAP
    y = HEAD
    for name, row, height in zip(names, rows, heights, strict=True):
        draw.text((GAP, y + height // 2), name, INK, font, anchor="lm")
        x = side
        for cell, width in zip(row, widths, strict=True):
            page.paste(Pillow.fromarray(cell), (x, y))
            x += width + GAP
        y += height + GAP
    return np.asarray(page)


def save(path: Path, image: Image, made_from: str) -> None:
    """Write a PNG that remembers what it was drawn from, whole or not at all."""
    from PIL import Image as Pillow
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text(KEY, made_from)
    data = io.BytesIO()
    Pillow.fromarray(image).save(data, "PNG", pnginfo=about)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data.getvalue())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
