"""SegTrack v2: 14 short videos, 24 objects.

ROOT/ImageSets/all.txt                            the videos; a name may start with `*`
ROOT/ImageSets/<video>.txt                        first its sub-folder, then its frames
ROOT/JPEGImages/<video>/<frame>.png or .bmp
ROOT/GroundTruth/<video>/<frame>.png or .bmp      where there is one object
ROOT/GroundTruth/<video>/<n>/<frame>.png or .bmp  where there are several, one folder each
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.layout import Video, check_name, images
from pipeline.errors import UserError, one_of
from stages.frames import Layers


def videos(root: Path, split: str) -> Iterator[Video]:
    """The videos of `ImageSets/<split>.txt`; published is `all`."""
    lists = root / "ImageSets"
    names = [line.lstrip("*") for line in _lines(lists / f"{split}.txt", split)]
    for name in names:
        check_name("video", name)
        yield _video(root, name, _lines(lists / f"{name}.txt", split))


def _lines(path: Path, split: str) -> list[str]:
    """Lines of a list without what surrounds them; UserError if there is none."""
    if not path.is_file():
        known = [p.stem for p in path.parent.glob("*.txt")] if path.parent.is_dir() else []
        folders = path.parents[1] / "JPEGImages"
        splits = sorted(name for name in known if not (folders / name).is_dir())
        raise UserError(f"--split {split}: {path} does not exist; {one_of(split, splits)}")
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _video(root: Path, name: str, listed: list[str]) -> Video:
    """A video by the lines of its list; its first annotation is the given mask."""
    if len(listed) < 2:
        raise UserError(f"video {name}: its list in {root / 'ImageSets'} names no frames")
    folder, names = listed[0].strip("/"), listed[1:]
    pictures = _by_stem(root / "JPEGImages" / folder, name)
    truth = root / "GroundTruth" / folder
    numbered = sorted((p for p in _folders(truth) if p.name.isdigit()), key=lambda p: int(p.name))
    layers = [_by_stem(p, name) for p in numbered or [truth]]
    masks = {
        j: Layers(tuple(_find(layer, frame, name, "mask", truth) for layer in layers))
        for j, frame in enumerate(names)
    }
    frames = tuple(_find(pictures, frame, name, "image", root / "JPEGImages") for frame in names)
    return Video(name, frames, {0: masks[0]}, masks, names)


def _folders(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []


def _by_stem(folder: Path, video: str) -> dict[str, Path]:
    """The images of a folder by name; png and bmp lie side by side."""
    if not folder.is_dir():
        raise UserError(f"video {video}: {folder} does not exist; it is listed in the split")
    return {path.stem: path for path in images(folder)}


def _find(found: dict[str, Path], frame: str, video: str, kind: str, folder: Path) -> Path:
    if frame not in found:
        raise UserError(f"video {video}, frame {frame}: its {kind} is missing below {folder}")
    return found[frame]
