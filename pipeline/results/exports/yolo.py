"""YOLO segmentation: a text file a frame with `class x y x y ...`, shares of the sides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.datasets.given import CLASSES
from pipeline.errors import UserError
from pipeline.results.exports.clip import Clip, categories, one_line, present
from pipeline.results.exports.outlines import joined, loops


def write(clips: Sequence[Clip], folder: Path) -> None:
    """data.yaml, and labels/<video>/<frame>.txt; the frames belong into images/<video>/."""
    kinds = categories(clips)
    quoted = (json.dumps(kind, ensure_ascii=False) for kind in kinds)
    names = "".join(f"  {n}: {kind}\n" for n, kind in enumerate(quoted))
    head = "path: .\ntrain: images\nval: images\nnames:\n"
    (folder / "data.yaml").write_text(head + names, encoding="utf-8")
    for clip in clips:
        place = folder / "labels" / clip.name
        place.mkdir(parents=True)
        (place / CLASSES).write_text("".join(f"{one_line(k)}\n" for k in kinds), encoding="utf-8")
        sides = np.array(clip.size[::-1])
        for name, mask in clip.masks():
            if f"{name}.txt" == CLASSES:
                raise UserError(
                    f"video {clip.name}: has a frame {name}, whose file YOLO keeps for the "
                    "classes; choose another --format"
                )
            lines = [
                f"{kinds.index(clip.category(i))} {_numbers(joined(loops(mask == i)) / sides)}\n"
                for i in present(mask)
            ]
            (place / f"{name}.txt").write_text("".join(lines))


def _numbers(ring: np.ndarray) -> str:
    return " ".join(f"{value:.7g}" for value in ring.ravel())
