"""COCO JSON: polygons, run lengths and boxes of many pictures in one file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from pipeline.datasets.masks.shapes import Malformed, Pixels, Shape, ring, runs

TRACKS = "track_id", "instance_id", "object_id"
"""fields, also among `attributes`, that say which object an annotation shows"""


def read(data: bytes) -> list[Shape]:
    """Objects of all pictures, each picture by the stem of its file name.

    An object is known in several by its track_id; without one it is the first, second, ... of its
    category in each.
    """
    document = json.loads(data)
    pictures = {picture["id"]: picture for picture in document["images"]}
    names = {kind["id"]: str(kind["name"]) for kind in document.get("categories", [])}
    seen = Counter[tuple[Any, str]]()
    shapes = []
    for drawn in document["annotations"]:
        picture = pictures[drawn["image_id"]]
        label = names.get(drawn.get("category_id"), str(drawn.get("category_id", "object")))
        seen[drawn["image_id"], label] += 1
        key = _track(drawn) or f"{label} {seen[drawn['image_id'], label]}"
        shapes.append(_shape(drawn, picture, key, label))
    return shapes


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
