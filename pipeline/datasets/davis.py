"""DAVIS 2016 (one object a video, masks 0 and 255) and 2017 (several, palette masks).

ROOT/ImageSets/480p/<split>.txt or ROOT/ImageSets/2017/<split>.txt
ROOT/JPEGImages/480p/<video>/<frame>.jpg
ROOT/Annotations/480p/<video>/<frame>.png
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.layout import Video, check_name, images
from pipeline.errors import UserError, one_of


def videos16(root: Path, split: str) -> Iterator[Video]:
    """The videos of `ImageSets/480p/<split>.txt`."""
    return _videos(root, root / "ImageSets" / "480p", split)


def videos17(root: Path, split: str) -> Iterator[Video]:
    """The videos of `ImageSets/2017/<split>.txt`."""
    return _videos(root, root / "ImageSets" / "2017", split)


def _videos(root: Path, lists: Path, split: str) -> Iterator[Video]:
    for name in split_names(lists, split):
        yield davis_video(root, name, root / "Annotations" / "480p" / name)


def split_names(folder: Path, split: str) -> list[str]:
    """Videos of `<split>.txt` in order; lines may name a video or its files.

    UserError for a name that cannot be a folder's, or for an unknown split, naming those there are.
    """
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.txt")) if folder.is_dir() else []
        raise UserError(f"--split {split}: {path} does not exist; {one_of(split, known)}")
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    lines = [line.split()[0] for line in text.splitlines() if line.strip()]
    # the official DAVIS 2016 lists name every frame: /JPEGImages/480p/bear/00000.jpg
    names = dict.fromkeys(Path(line).parent.name if "/" in line else line for line in lines)
    for name in names:
        check_name("video", name)
    return list(names)


def davis_video(root: Path, name: str, annotated: Path) -> Video:
    """A video of a DAVIS tree; its first annotation is the given mask."""
    pictures = root / "JPEGImages" / "480p" / name
    if not pictures.is_dir():
        raise UserError(f"video {name}: {pictures} does not exist; it is listed in the split")
    frames = images(pictures)
    names = [p.stem for p in frames]
    truth = {j: annotated / f"{n}.png" for j, n in enumerate(names)}
    found = {j: path for j, path in truth.items() if path.is_file()}
    if 0 not in found:
        missing = truth.get(0, annotated)
        raise UserError(f"video {name}, first frame: mask {missing} is missing")
    # test-dev gives the first mask only: that is no ground truth
    return Video(name, frames, {0: found[0]}, found if len(found) > 1 else None, names)
