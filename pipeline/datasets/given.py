"""The masks that a person gives for a clip: which file is of which frame, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

from pipeline.datasets.frames import Clip
from pipeline.datasets.layout import IMAGES, in_order, picture_files
from pipeline.datasets.masks import SUFFIXES as DRAWN
from pipeline.datasets.masks import drawn_masks
from pipeline.datasets.masks.pictures import (
    Apart,
    Picture,
    colours,
    disjoint,
    form_of,
    numbers_of,
    opened,
    turn_to,
)
from pipeline.datasets.masks.shapes import MOST, counted
from pipeline.datasets.reading import Reading
from pipeline.errors import UserError
from stages.frames import MaskSource

SUFFIXES = (".png", *sorted(IMAGES - {".png", ".jpg", ".jpeg"}), *DRAWN, ".jpg", ".jpeg")
"""of masks; in a folder those of the first kind that is there are taken"""
CLASSES = "classes.txt"
"""beside YOLO's files: the names of the classes"""


@dataclass(frozen=True)
class Masks:
    """Masks of a clip."""

    by_frame: Mapping[int, MaskSource]
    objects: Mapping[int, str] = field(default_factory=dict)
    """names by number, where there are any"""


def beside(clip: Path, masks: Path) -> tuple[Path, ...]:
    """The masks that lie among the images of a clip: the one given, or those of a given folder.

    In a folder they are the PNGs with the name of another image, else files of drawn objects.
    """
    if not clip.is_dir():
        return ()
    if masks.is_file() and masks.resolve().parent == clip.resolve():
        return (clip / masks.name,)
    if not (masks.is_dir() and masks.resolve() == clip.resolve()):
        return ()
    named = groupby(sorted(picture_files(clip), key=lambda p: p.stem), lambda p: p.stem)
    pairs = [list(paths) for _, paths in named]
    twins = [p for pair in pairs if len(pair) == 2 for p in pair if p.suffix.lower() == ".png"]
    return in_order(twins) or _of_kind(clip, DRAWN)


def masks_of(path: Path, clip: Clip, reading: Reading, among: Sequence[Path] = ()) -> Masks:
    """The masks in a file or folder; among: those of it that lie among the frames.

    UserError for a folder without masks, a mask that is of no frame, and one that may be read in
    two ways.
    """
    if not path.is_dir():
        return _by_frame([path], clip, reading, single=True)
    files = [*(among or _of_kind(path, SUFFIXES))]
    folders = [] if files else [p for p in in_order(path.iterdir()) if p.is_dir()]
    if folders:
        found = _by_object({p.name: picture_files(p) for p in folders}, clip, reading)
    elif _objects(files, clip):
        found = _by_object({p.stem: (p,) for p in files}, clip, reading, first=True)
    else:
        found = _by_frame(files, clip, reading)
    if not found.by_frame:
        raise UserError(
            f"video {clip.name}: {path} holds no mask of a frame that is taken; name masks after "
            "frames, 00000.png"
        )
    return found


def _of_kind(folder: Path, suffixes: Sequence[str]) -> tuple[Path, ...]:
    """The files of a folder with the first of some suffixes that any has."""
    files = [p for p in folder.iterdir() if p.name != CLASSES and p.is_file()]
    kinds = (in_order(p for p in files if p.suffix.lower() == suffix) for suffix in suffixes)
    return next(filter(None, kinds), ())


def _objects(files: Sequence[Path], clip: Clip) -> bool:
    """Whether pictures 1, 2, ... of a folder are each an object of the first frame."""
    names = [path.stem for path in files]
    if names != [str(n) for n in range(1, len(names) + 1)] or files[0].suffix.lower() in DRAWN:
        return False
    if clip.film is None:
        return not any(map(clip.has, names))
    return len(names) > 1 and disjoint(files)


def _by_frame(
    files: Sequence[Path], clip: Clip, reading: Reading, *, single: bool = False
) -> Masks:
    """Masks that lie as one file a frame; single: as the first frame's, by whatever name."""
    if files and files[0].suffix.lower() in DRAWN:
        drawn, names = drawn_masks(files, partial(_find, clip, single), f"video {clip.name}")
        names = _classes(files[0].parent / CLASSES, names)
        return Masks({j: mask for j, mask in drawn.items() if j >= 0}, names)
    placed = [(0 if single else clip.find(path, None), path) for path in files]
    numbers = _colours(files, clip.name) if reading.mask_from == "colours" else {}
    masks = {j: _picture(path, j, clip, reading, numbers) for j, path in placed if j >= 0}
    return Masks({j: mask if _changes(mask) else mask.path for j, mask in masks.items()})


def _find(clip: Clip, single: bool, path: Path, frame: str | int | None) -> int:
    """The frame of a file of drawn objects; a single file that says none is the first's."""
    return 0 if single and frame is None else clip.find(path, frame)


def _by_object(
    objects: Mapping[str, Sequence[Path]], clip: Clip, reading: Reading, *, first: bool = False
) -> Masks:
    """Masks that lie as pictures of one object each; first: all of the first frame."""
    if len(objects) > MOST:
        raise UserError(f"video {clip.name}: has {len(objects)} objects; {MOST} is the most")
    numbers = dict(zip(objects, counted([*objects]), strict=True))
    kept = all(name.isdigit() and int(name) == number for name, number in numbers.items())
    frames: dict[int, list[tuple[Picture, int]]] = {}
    for name, paths in objects.items():
        for path in paths:
            j = 0 if first else clip.find(path, None)
            if j >= 0:
                picture = _picture(path, j, clip, reading, {})
                frames.setdefault(j, []).append((picture, numbers[name]))
    masks = {
        j: Apart(tuple(p for p, _ in parts), tuple(n for _, n in parts))
        for j, parts in frames.items()
    }
    return Masks(masks, {} if kept else {number: name for name, number in numbers.items()})


def _picture(
    path: Path, j: int, clip: Clip, reading: Reading, numbers: Mapping[int, int]
) -> Picture:
    where = f"video {clip.name}: mask {path}"
    form = reading.mask_from or form_of(path, where)
    turn = turn_to(path, clip.source, j, reading.mask_turn, where)
    return Picture(path, form, turn, numbers)


def _changes(mask: Picture) -> bool:
    """Whether more than the pixels as they are stored has to be read of a mask."""
    return mask != Picture(mask.path)


def _colours(files: Sequence[Path], name: str) -> dict[int, int]:
    """Object numbers by colour of all masks."""
    found = []
    for path in files:
        try:
            with opened(path) as image:
                found.append(colours(image))
        except Exception as error:
            raise UserError(f"video {name}: mask {path} cannot be read as a picture") from error
    return numbers_of(found, f"video {name}: mask {files[0]}")


def _classes(path: Path, names: Mapping[int, str]) -> dict[int, str]:
    """Names of objects, YOLO's class numbers by their names where a file gives them."""
    if not path.is_file():
        return dict(names)
    known = path.read_text(encoding="utf-8").splitlines()
    found = {}
    for number, name in names.items():
        kind, *count = name.removeprefix("class ").split()
        plain = name.startswith("class ") and kind.isdigit() and int(kind) < len(known)
        found[number] = " ".join([known[int(kind)].strip(), *count]) if plain else name
    return found
