"""YOLO segmentation: a text file a frame, a line an object, coordinates as shares of the sides."""

from __future__ import annotations

from collections import Counter

from pipeline.datasets.masks.shapes import Malformed, Shape, ring


def read(data: bytes) -> list[Shape]:
    """Objects of a frame: `class x y x y ...`, or `class x y width height` for a box."""
    seen = Counter[str]()
    shapes = []
    for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        label, *rest = line.split()
        try:
            values = [int(label), *map(float, rest)][1:]
        except ValueError:
            raise Malformed(f"is not YOLO's: line {number} is not a class and numbers") from None
        seen[label] += 1
        shapes.append(_shape(f"class {label}, {seen[label]}", f"class {label}", values))
    return shapes


def _shape(key: str, label: str, values: list[float]) -> Shape:
    if len(values) == 4:
        x, y, width, height = values
        box = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        return Shape(key, label, unit=True, box=box)
    return Shape(key, label, unit=True, rings=(ring(values),))
