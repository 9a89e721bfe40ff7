"""COCO JSON: polygons, run lengths and boxes of many pictures, or of videos, in one file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from pipeline.datasets.masks.shapes import Malformed, Pixels, Shape, ring, runs

TRACKS = "track_id", "instance_id", "object_id"
"""fields, also among `attributes`, that say which object an annotation shows"""


def read(data: bytes) -> list[Shape]:
    """Objects of all pictures, each picture by the stem of its file name.

    An object is known in several by its track_id; without one it is the first, second, ... of its
    category in each. In the form of YouTube-VIS, with one video, an annotation is an object.
    """
    document = json.loads(data)
    names = {kind["id"]: str(kind["name"]) for kind in document.get("categories", [])}
    if "videos" in document:
        return list(_of_video(document, names))
    pictures = {picture["id"]: picture for picture in document["images"]}
    seen = Counter[tuple[Any, str]]()
    shapes = []
    for drawn in document["annotations"]:
        picture = pictures[drawn["image_id"]]
        label = names.get(drawn.get("category_id"), str(drawn.get("category_id", "object")))
        seen[drawn["image_id"], label] += 1
        key = _track(drawn) or f"{label} {seen[drawn['image_id'], label]}"
        shapes.append(_shape(drawn, picture, key, label))
    return shapes


def _of_video(document: Mapping[str, Any], names: Mapping[Any, str]) -> Iterator[Shape]:
    """Objects of a file in the form of YouTube-VIS."""
    if len(document["videos"]) != 1:
        raise Malformed(f"holds {len(document['videos'])} videos; give a file with this one alone")
    (video,) = document["videos"]
    frames = [PurePath(name).stem for name in video["file_names"]]
    for n, track in enumerate(document["annotations"]):
        label = names.get(track["category_id"], str(track["category_id"]))
        for frame, outline in zip(frames, track["segmentations"], strict=True):
            if outline:
                drawn = {**track, "segmentation": outline}
                yield _shape(drawn, {**video, "file_name": frame}, f"track {n}", label)


def _track(drawn: Mapping[str, Any]) -> str | None:
    places = drawn, drawn.get("attributes") or {}
    found = [place[name] for place in places for name in TRACKS if place.get(name) is not None]
    return f"track {found[0]}" if found else None


def _shape(drawn: Mapping[str, Any], picture: Mapping[str, Any], key: str, label: str) -> Shape:
    size = int(picture["height"]), int(picture["width"])
    frame, outline = PurePath(picture["file_name"]).stem, drawn.get("segmentation")
    if isinstance(outline, dict):
        return Shape(key, label, size, frame, pixels=decode(outline))
    if outline:
        return Shape(key, label, size, frame, rings=tuple(map(ring, outline)))
    x, y, width, height = map(float, drawn["bbox"])
    return Shape(key, label, size, frame, box=(x, y, x + width, y + height))


def decode(rle: Mapping[str, Any]) -> Pixels:
    """(H, W) pixels of COCO's run lengths, plain or compressed; they run down the columns."""
    height, width = map(int, rle["size"])
    counts = rle["counts"]
    lengths = _lengths(counts) if isinstance(counts, str) else counts
    return runs(lengths, height * width).reshape(width, height).T


def encode(pixels: Pixels) -> dict[str, Any]:
    """COCO's run lengths, compressed, of (H, W) pixels; decode() reads them."""
    column_by_column = np.concatenate([[False], pixels.ravel("F"), [not pixels[-1, -1]]])
    changes = np.flatnonzero(np.diff(column_by_column))
    lengths = np.diff(changes, prepend=0).tolist()
    return {"size": list(pixels.shape), "counts": "".join(map(_text, _differences(lengths)))}


def _differences(lengths: Sequence[int]) -> Iterator[int]:
    """Lengths; from the fourth on, by how much each differs from the last but one."""
    for n, length in enumerate(lengths):
        yield length - lengths[n - 2] if n > 2 else length


def _text(value: int) -> str:
    """A number as COCO's text: 5 bits a character, the sixth where more follow."""
    text = ""
    while True:
        bits, value = value & 31, value >> 5
        more = value != (-1 if bits & 16 else 0)
        text += chr(bits + 32 * more + 48)
        if not more:
            return text


def _lengths(text: str) -> Sequence[int]:
    """Lengths from COCO's text: 5 bits a character, and from the third on differences."""
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise Malformed("holds run lengths that are not COCO's")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths
