"""COCO JSON of videos in the form of YouTube-VIS: a track has a run length for each frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.datasets.masks.coco import encode
from pipeline.results.exports.clip import Clip, categories, present


def write(clips: Sequence[Clip], folder: Path) -> None:
    """instances.json with all videos; `name` and `track_id` say which object an annotation is."""
    kinds = categories(clips)
    videos, annotations = [], list[dict[str, Any]]()
    for n, clip in enumerate(clips, 1):
        height, width = clip.size
        shape = {"width": width, "height": height, "length": len(clip.paths)}
        files = [f"{clip.name}/{path.stem}.jpg" for path in clip.paths]
        videos.append({"id": n, "name": clip.name, "file_names": files, **shape})
        for number, track in _tracks(clip).items():
            kind = kinds.index(clip.category(number)) + 1
            about = {"id": len(annotations) + 1, "video_id": n, "category_id": kind}
            who = {"track_id": number, "name": clip.label(number), "iscrowd": 0}
            annotations.append({**about, **who, **shape, **track})
    named = [{"id": n, "name": kind, "supercategory": ""} for n, kind in enumerate(kinds, 1)]
    document = {"info": {}, "videos": videos, "categories": named, "annotations": annotations}
    text = json.dumps(document, ensure_ascii=False)
    (folder / "instances.json").write_text(text, encoding="utf-8")


def _tracks(clip: Clip) -> dict[int, dict[str, list[Any]]]:
    """Run lengths, boxes (x, y, w, h) and areas of every object by frame, None where absent."""
    parts = ("segmentations", "bboxes", "areas")
    tracks = {i: {part: [None] * len(clip.paths) for part in parts} for i in clip.objects}
    for j, (_, mask) in enumerate(clip.masks()):
        for i in present(mask):
            shown = mask == i
            values = encode(shown), cv2.boundingRect(shown.view(np.uint8)), int(shown.sum())
            for part, value in zip(parts, values, strict=True):
                tracks[i][part][j] = value
    return tracks
