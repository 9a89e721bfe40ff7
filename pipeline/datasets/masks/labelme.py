"""labelme JSON: one file a frame, named after it."""

from __future__ import annotations

import base64
import json
from collections import Counter
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image as Pillow

from pipeline.datasets.masks.shapes import Malformed, Shape, ellipse, ring


def read(data: bytes) -> list[Shape]:
    """Objects of a frame. Shapes of one label and group are one; without a group, each is one."""
    document = json.loads(data)
    size = int(document["imageHeight"]), int(document["imageWidth"])
    seen = Counter[str]()
    return [_shape(drawn, size, seen) for drawn in document["shapes"]]


def _shape(drawn: dict[str, Any], size: tuple[int, int], seen: Counter[str]) -> Shape:
    label, group = str(drawn["label"]), drawn.get("group_id")
    if group is None:
        seen[label] += 1
    key = f"{label} group {group}" if group is not None else f"{label} {seen[label]}"
    kind, points = drawn.get("shape_type") or "polygon", np.array(drawn["points"], float)
    if kind == "polygon":
        return Shape(key, label, size, rings=(ring(points.ravel().tolist()),))
    if kind not in ("rectangle", "circle", "mask") or points.shape != (2, 2):
        raise Malformed(
            f"holds a {kind} ({label}); draw a polygon, a circle, a mask or a rectangle"
        )
    (x0, y0), (x1, y1) = np.sort(points, axis=0) if kind != "circle" else points
    if kind == "circle":
        radius = float(np.hypot(x1 - x0, y1 - y0))
        return Shape(key, label, size, rings=(ellipse(x0, y0, radius, radius),))
    if kind == "rectangle":
        return Shape(key, label, size, box=(float(x0), float(y0), float(x1), float(y1)))
    with Pillow.open(BytesIO(base64.b64decode(drawn["mask"]))) as image:
        pixels = np.array(image.convert("L")) > 0
    return Shape(key, label, size, pixels=pixels, corner=(round(y0), round(x0)))
