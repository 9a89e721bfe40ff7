"""YouTube-Objects with the masks of Jain and Grauman: one foreground a shot, sparsely annotated.

ROOT/<category>/data/<video>/shots/<shot>/images/<number>.jpg   or frame<number>.jpg
ROOT/<category>/data/<video>/shots/<shot>/labels/<number>.jpg   about every tenth frame

Labels are grey JPEGs, inside above 128, and may be of another size than the images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.layout import Video, images
from pipeline.errors import UserError
from stages.frames import Layers


def videos(root: Path, split: str) -> Iterator[Video]:
    """Every annotated shot, as `<category>_<video>_<shot>`; `split` only names the run."""
    found = sorted(root.glob("*/data/*/shots/*/labels"))
    if not found:
        raise UserError(
            f"--root {root}: holds no <category>/data/<video>/shots/<shot>/labels; give the folder "
            "that holds the categories"
        )
    for labels in found:
        yield _video(labels)


def _video(labels: Path) -> Video:
    """A shot; its first annotation is the given mask."""
    shot = labels.parent
    name = f"{shot.parents[3].name}_{shot.parents[1].name}_{shot.name}"
    pictures, marked = _by_number(shot / "images"), _by_number(labels)
    if not pictures or not marked:
        empty = labels if pictures else shot / "images"
        raise UserError(f"video {name}: {empty} holds no numbered images")
    lost = sorted(marked.keys() - pictures.keys())
    if lost:
        raise UserError(f"video {name}: {marked[lost[0]]} has no image in {shot / 'images'}")
    order = sorted(pictures)
    masks = {
        j: Layers((marked[number],), scaled=True)
        for j, number in enumerate(order)
        if number in marked
    }
    first = min(masks)
    frames = tuple(pictures[number] for number in order)
    return Video(name, frames, {first: masks[first]}, masks, [path.stem for path in frames])


def _by_number(folder: Path) -> dict[int, Path]:
    """The images of a folder by the number that their names end in."""
    if not folder.is_dir():
        return {}
    numbers = {path: re.search(r"\d+$", path.stem) for path in images(folder)}
    return {int(found.group()): path for path, found in numbers.items() if found}
