"""Videos of one's own.

ROOT/<video>/*.jpg or ROOT/<video>.mp4
ROOT/masks/<video>.png or ROOT/masks/<video>/<frame>.png
ROOT/annotations/<video>/<frame>.png        (only to be scored)

Masks may be of any form in docs/inputs.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.frames import VIDEOS, Clip, open_clip
from pipeline.datasets.given import SUFFIXES, Masks, beside, masks_of
from pipeline.datasets.layout import Video, check_name, in_order, one_each, picture_files
from pipeline.datasets.reading import Reading
from pipeline.errors import UserError

RESERVED = {"masks", "annotations"}


def videos(root: Path, split: str, reading: Reading) -> Iterator[Video]:
    """Every video in the folder, by name; `split` only names the run."""
    found = [p for p in in_order(root.iterdir()) if p.name not in RESERVED and _is_video(p)]
    if not found:
        raise UserError(
            f"--root {root}: holds no videos; put them there as <video>/ or <video>.mp4, "
            "and their first masks as masks/<video>.png"
        )
    one_each((path.name if path.is_dir() else path.stem, path) for path in found)
    for path in found:
        yield video(path, root / "masks", root / "annotations", reading)


def _is_video(path: Path) -> bool:
    if path.is_dir():
        return not path.name.startswith(".") and bool(picture_files(path))
    return path.suffix.lower() in VIDEOS


def video(path: Path, masks: Path, annotations: Path, reading: Reading) -> Video:
    """One video of the folder."""
    name = path.stem if path.is_file() else path.name
    check_name("video", name)
    single, several = masks / f"{name}.png", masks / name
    others = (masks / f"{name}{suffix}" for suffix in SUFFIXES)
    chosen = several if several.is_dir() else next((p for p in others if p.exists()), single)
    if not chosen.exists():
        raise UserError(f"video {name}, first frame: mask {single} is missing")
    clip = open_clip(path, reading)
    truth = None
    if (annotations / name).is_dir():
        truth = masks_of(annotations / name, clip, reading)
    return _video(clip, masks_of(chosen, clip, reading), truth)


def clip(path: Path, given: str, reading: Reading) -> Iterator[Video]:
    """A clip anywhere; given: its first mask, or a folder of masks named after frames."""
    masks = Path(given)
    among = beside(path, masks)
    found = open_clip(path, reading, among)
    if not masks.exists():
        raise UserError(f"video {found.name}, first frame: mask {masks} is missing")
    yield _video(found, masks_of(masks, found, reading, among), None)


def _video(clip: Clip, masks: Masks, truth: Masks | None) -> Video:
    annotations = truth.by_frame if truth else None
    return Video(clip.name, clip.source, masks.by_frame, annotations, clip.names, masks.objects)
