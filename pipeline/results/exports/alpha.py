"""Cut-outs: the frames of every object with all else transparent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import UserError
from pipeline.results.exports.clip import Clip


def write(clips: Sequence[Clip], folder: Path) -> None:
    """<video>/<object number>/<frame>.png, RGBA, also where an object is not seen."""
    for clip in clips:
        places = {i: folder / clip.name / str(i) for i in clip.objects}
        for place in places.values():
            place.mkdir(parents=True)
        for image, (name, mask) in zip(clip.frames(), clip.masks(), strict=True):
            for i, place in places.items():
                opaque = np.where(mask == i, np.uint8(255), np.uint8(0))
                bgra = cv2.merge([*cv2.split(image[..., ::-1] * (opaque > 0)[..., None]), opaque])
                _write(place / f"{name}.png", bgra)


def _write(path: Path, bgra: np.ndarray) -> None:
    ok, data = cv2.imencode(".png", bgra, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not ok:
        raise UserError("this OpenCV can write no PNG; install opencv-python from PyPI")
    path.write_bytes(data.tobytes())
