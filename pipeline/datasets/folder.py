"""A folder of videos of one's own.

ROOT/<video>/*.jpg or ROOT/<video>.mp4
ROOT/masks/<video>.png or ROOT/masks/<video>/<frame>.png
ROOT/annotations/<video>/<frame>.png        (only to be scored)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.datasets.layout import Video, check_name, images, one_each
from pipeline.errors import UserError

VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}
RESERVED = {"masks", "annotations"}


def videos(root: Path, split: str) -> Iterator[Video]:
    """Every video in the folder, by name; `split` only names the run."""
    found = [p for p in sorted(root.iterdir()) if p.name not in RESERVED and _is_video(p)]
    if not found:
        raise UserError(
            f"--root {root}: holds no videos; put them there as <video>/ or <video>.mp4, "
            "and their first masks as masks/<video>.png"
        )
    one_each((path.name if path.is_dir() else path.stem, path) for path in found)
    for path in found:
        yield video(path, root / "masks", root / "annotations")


def _is_video(path: Path) -> bool:
    if path.is_dir():
        return not path.name.startswith(".") and bool(images(path))
    return path.suffix.lower() in VIDEOS


def video(path: Path, masks: Path, annotations: Path) -> Video:
    """One video of the folder."""
    name = path.stem if path.is_file() else path.name
    check_name("video", name)
    single, several = masks / f"{name}.png", masks / name
    chosen = several if several.is_dir() else single
    if not chosen.exists():
        raise UserError(f"video {name}, first frame: mask {single} is missing")
    frames, names = _frames(path, name)
    truth = _by_frame(annotations / name, names, name) if (annotations / name).is_dir() else None
    return Video(name, frames, _given(chosen, names, name), truth, names)


def clip(path: Path, given: str) -> Iterator[Video]:
    """A clip anywhere; given: its first mask, or a folder of masks named after frames."""
    masks = Path(given)
    named = Path(os.path.abspath(path))  # noqa: PTH100 - the link's own name, not its end's
    check_name("video", named.name)
    if not path.exists():
        raise UserError(f"{path}: no such clip; give a video file or a folder of images")
    if not masks.exists():
        raise UserError(f"video {path.stem}, first frame: mask {masks} is missing")
    name = named.stem if path.is_file() else named.name
    frames, names = _frames(path, name)
    yield Video(name, frames, _given(masks, names, name), None, names)


def _frames(path: Path, name: str) -> tuple[tuple[Path, ...] | Path, Sequence[str]]:
    if not path.is_dir():
        return path, ()
    frames = images(path)
    if not frames:
        raise UserError(f"video {name}: {path} holds no images")
    return frames, [p.stem for p in frames]


def _given(masks: Path, names: Sequence[str], name: str) -> dict[int, Path]:
    if not masks.is_dir():
        return {0: masks}
    found = _by_frame(masks, names, name)
    if not found:
        raise UserError(f"video {name}: {masks} holds no mask; name them after frames, 00000.png")
    return found


def _by_frame(folder: Path, names: Sequence[str], name: str) -> dict[int, Path]:
    """Masks of a folder by frame; UserError for one that names no frame."""
    return {_frame(path, names, name): path for path in sorted(folder.glob("*.png"))}


def _frame(path: Path, names: Sequence[str], name: str) -> int:
    """The frame that a mask is named after; a video file's frames are numbered."""
    if path.stem in names:
        return names.index(path.stem)
    if not names and path.stem.isdigit():
        return int(path.stem)
    known = ", ".join(names[:2]) or "00000, 00001"
    raise UserError(f"video {name}: mask {path} is named after no frame; they are {known}, ...")
