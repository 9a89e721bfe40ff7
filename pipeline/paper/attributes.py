"""Fig. 6's categories of an instance: size, scale variation, occlusion and pose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.errors import UserError
from pipeline.paper.given import read_given
from stages.boxmask import tight
from stages.types import IndexMask

SIZES = ("small", "medium", "large")
OCCLUSION = ("none", "partial", "heavy")
POSE = {"yes": True, "no": False}
SCALE_RATIO = 0.5
"""two boxes of one object below this ratio of areas are scale variation (section 4.1)"""

ATTRIBUTES = {"video": "str", "object": "int64", "occlusion": "str", "pose": "boolean"}
"""columns of attributes(); occlusion is empty and pose is missing where it is not known"""


def size_class(share: float, thresholds: tuple[float, float]) -> str:
    """small, medium or large, by the share of the frame that the first mask covers.

    thresholds: the share from which an object is medium, and from which it is large.
    """
    return SIZES[sum(share >= threshold for threshold in thresholds)]


def box_areas(masks: Iterable[IndexMask], objects: Sequence[int]) -> dict[int, list[float]]:
    """Areas in px of each object's tight boxes, one for every index mask that shows it."""
    areas: dict[int, list[float]] = {i: [] for i in objects}
    for mask in masks:
        for i in objects:
            inside = mask == i
            if inside.any():
                x0, y0, x1, y1 = tight(inside).tolist()
                areas[i].append((x1 - x0) * (y1 - y0))
    return areas


def scale_varies(areas: Sequence[float]) -> bool:
    """Whether the ratio of any two box areas is below SCALE_RATIO; False without a box."""
    # The smallest against the largest is the lowest ratio of all pairs.
    return bool(areas) and min(areas) < SCALE_RATIO * max(areas)


def parse_sizes(text: str) -> tuple[float, float]:
    """Two thresholds as `0.02,0.05`; UserError unless 0 < first < second < 1."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not 0 < low < high < 1:
        raise UserError(
            f"--sizes {text}: must be two shares of the frame, medium from and large from, "
            "such as 0.02,0.05"
        )
    return low, high


def attributes(path: Path) -> pd.DataFrame:
    """Occlusion and pose of instances, as a person has judged them: columns of ATTRIBUTES.

    A CSV with the columns video, object, occlusion (none, partial or heavy) and pose (yes or
    no: noticeable pose variation); either may be left empty. UserError names the line that
    does not fit.
    """
    table = read_given("--attributes", path, tuple(ATTRIBUTES))
    allowed: Mapping[str, tuple[str, ...]] = {"occlusion": OCCLUSION, "pose": tuple(POSE)}
    for line, row in enumerate(table.to_dict("records"), 2):
        for name, values in allowed.items():
            if row[name] not in ("", *values):
                raise UserError(
                    f"--attributes {path}, line {line}: {name} is {row[name]!r}, must be "
                    f"{', '.join(values)} or empty"
                )
        if not row["object"].isdecimal():
            raise UserError(
                f"--attributes {path}, line {line}: object is {row['object']!r}, must be a number"
            )
    table = table.assign(pose=table["pose"].map(POSE)).astype(ATTRIBUTES)
    twice = table.duplicated(["video", "object"])
    if twice.any():
        first = table[twice].iloc[0]
        raise UserError(
            f"--attributes {path}: names object {first['object']} of video {first['video']} twice"
        )
    return table
