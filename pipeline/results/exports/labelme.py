"""Outlines as labelme JSON: a file a frame, which labelme opens and `dyenet segment` takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.results.exports.clip import Clip, present
from pipeline.results.exports.outlines import parts


def write(clips: Sequence[Clip], folder: Path) -> None:
    """<video>/<frame>.json; polygons of an object have its number as their group."""
    for clip in clips:
        (folder / clip.name).mkdir()
        height, width = clip.size
        for name, mask in clip.masks():
            shapes = [
                {
                    "label": clip.label(i),
                    "points": ring.tolist(),
                    "group_id": i,
                    "shape_type": "polygon",
                    "flags": {},
                }
                for i in present(mask)
                for ring in parts(mask == i)
            ]
            document: dict[str, Any] = {
                "version": "5.0.0",
                "flags": {},
                "shapes": shapes,
                "imagePath": f"{name}.jpg",
                "imageData": None,
                "imageHeight": height,
                "imageWidth": width,
            }
            text = json.dumps(document, ensure_ascii=False)
            (folder / clip.name / f"{name}.json").write_text(text, encoding="utf-8")
