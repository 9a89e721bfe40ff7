"""CVAT XML 1.1, of images and of videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath
from xml.etree import ElementTree

import numpy as np

from pipeline.datasets.masks.shapes import Frame, Malformed, Shape, ellipse, ring, runs


def read(data: bytes) -> list[Shape]:
    """Objects of all frames: of a video, where a person drew them, not what CVAT put between."""
    root = ElementTree.fromstring(data)
    if root.tag != "annotations":
        raise Malformed("is XML, but not CVAT's")
    return [*_of_images(root), *_of_tracks(root)]


def _of_images(root: ElementTree.Element) -> Iterator[Shape]:
    for image in root.iter("image"):
        size = int(image.attrib["height"]), int(image.attrib["width"])
        seen = Counter[str]()
        for drawn in image:
            if label := drawn.get("label"):
                seen[label] += 1
                group = drawn.get("group_id") or "0"
                key = f"{label} {seen[label]}" if group == "0" else f"{label} group {group}"
                yield _shape(drawn, key, label, size, PurePath(image.attrib["name"]).stem)


def _of_tracks(root: ElementTree.Element) -> Iterator[Shape]:
    original = root.find(".//original_size")
    size = None
    if original is not None:
        size = int(original.findtext("height", "0")), int(original.findtext("width", "0"))
    for track in root.iter("track"):
        for drawn in track:
            if drawn.get("keyframe", "1") == "1" and drawn.get("outside", "0") == "0":
                key, label = f"track {track.attrib['id']}", track.attrib["label"]
                yield _shape(drawn, key, label, size, int(drawn.attrib["frame"]))


def _shape(
    drawn: ElementTree.Element, key: str, label: str, size: tuple[int, int] | None, frame: Frame
) -> Shape:
    if drawn.tag == "polygon":
        corners = drawn.attrib["points"].replace(";", ",").split(",")
        return Shape(key, label, size, frame, rings=(ring(list(map(float, corners))),))
    if drawn.tag == "box":
        x0, y0, x1, y1 = (float(drawn.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        return Shape(key, label, size, frame, box=(x0, y0, x1, y1))
    if drawn.tag == "ellipse":
        x, y, rx, ry = (float(drawn.attrib[name]) for name in ("cx", "cy", "rx", "ry"))
        return Shape(key, label, size, frame, rings=(ellipse(x, y, rx, ry),))
    if drawn.tag != "mask":
        raise Malformed(
            f"holds a {drawn.tag} ({label}); draw a polygon, an ellipse, a mask or a box"
        )
    left, top, width, height = (
        round(float(drawn.attrib[name])) for name in ("left", "top", "width", "height")
    )
    lengths = np.array(drawn.attrib["rle"].split(","), float).astype(int).tolist()
    pixels = runs(lengths, width * height).reshape(height, width)
    return Shape(key, label, size, frame, pixels=pixels, corner=(top, left))
