"""First masks in the forms that people have them in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from pipeline.datasets.masks import arrays, coco, cvat, labelme, yolo
from pipeline.datasets.masks.shapes import Frame, Malformed, Shape, numbered, paint
from pipeline.errors import UserError
from stages.frames import DISK, BadInput, file_bytes, proportional
from stages.types import IndexMask, SourceFiles


@dataclass(frozen=True)
class Form:
    """A kind of file that holds drawn objects."""

    label: str
    suffixes: tuple[str, ...]
    read: Callable[[bytes], list[Shape]]
    begins: str = ""
    """a field that a JSON document of this form has"""


FORMS = {
    "labelme": Form("labelme JSON", (".json",), labelme.read, "shapes"),
    "coco": Form("COCO JSON", (".json",), coco.read, "annotations"),
    "cvat": Form("CVAT XML", (".xml",), cvat.read),
    "yolo": Form("YOLO text", (".txt",), yolo.read),
    "numpy": Form("NumPy", (".npy", ".npz"), arrays.read),
}
"""by the name that enters keys"""
SUFFIXES = tuple(dict.fromkeys(suffix for form in FORMS.values() for suffix in form.suffixes))


@dataclass(frozen=True)
class Drawn:
    """The objects of one frame in a file that holds drawn objects."""

    path: Path
    form: str
    """one of FORMS"""
    frame: Frame
    """as the file calls it; None where it holds one frame"""
    numbers: Mapping[str, int]
    """object numbers by key"""

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def content(self) -> Mapping[str, Any]:
        return {"form": self.form, "frame": self.frame, "numbers": dict(self.numbers)}

    def draw(self, size: tuple[int, int], where: str, files: SourceFiles) -> IndexMask:
        """(H, W) object numbers in the size of the annotated picture; BadInput if it is unfit."""
        try:
            shapes = FORMS[self.form].read(file_bytes(self.path, where, files))
            mine = [shape for shape in shapes if shape.frame == self.frame]
            own = next((shape.size for shape in mine if shape.size), size)
            boxed = next((shape for shape in mine if shape.box), None)
            if boxed is not None:
                sides = zip(boxed.box or (), own[::-1] * 2, strict=True)
                px = ",".join(f"{x * side if boxed.unit else x:.0f}" for x, side in sides)
                raise Malformed(f"holds a box of {boxed.label}, no outline; give --box {px}")
            # Before it is painted: a size that a file makes up may not fit into memory.
            if not proportional(own, size):
                raise Malformed(f"is for {own[1]}x{own[0]} px, the frames are {size[1]}x{size[0]}")
            return paint(mine, self.numbers, own)
        except Malformed as error:
            raise BadInput(f"{where} {error}") from error


def drawn_masks(
    paths: Sequence[Path], find: Callable[[Path, Frame], int], where: str
) -> tuple[dict[int, Drawn], dict[int, str]]:
    """Masks by frame that lie in files of FORMS, and the names of objects by number.

    find: the number of the frame that a file, and what it says, are about. UserError for a file
    that cannot be read.
    """
    found = [(path, *_shapes(path, where)) for path in paths]
    try:
        numbers, names = numbered(shape for _, _, shapes in found for shape in shapes)
    except Malformed as error:
        raise UserError(f"{where}: mask {paths[0]} {error}") from error
    masks = dict[int, Drawn]()
    for path, form, shapes in found:
        for frame in dict.fromkeys(shape.frame for shape in shapes):
            masks[find(path, frame)] = Drawn(path, form, frame, numbers)
    return masks, names


def _shapes(path: Path, where: str) -> tuple[str, list[Shape]]:
    """Name of a file's form, and the objects in it."""
    this = f"{where}: mask {path}"
    try:
        data = file_bytes(path, this, DISK)
    except BadInput as error:
        raise UserError(str(error)) from error
    name = _form(path, data, this)
    try:
        shapes = FORMS[name].read(data)
    except Malformed as error:
        raise UserError(f"{this} {error}") from error
    except (ValueError, TypeError, LookupError, AttributeError, ParseError, OSError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{this} cannot be read as {FORMS[name].label} ({what})") from error
    if not shapes:
        raise UserError(f"{this} holds no object; draw one, or leave the file out")
    return name, shapes


def _form(path: Path, data: bytes, where: str) -> str:
    """Which of FORMS a file is."""
    suffix = path.suffix.lower()
    names = [name for name, form in FORMS.items() if suffix in form.suffixes]
    if len(names) == 1:
        return names[0]
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error})") from error
    fields = document if isinstance(document, dict) else {}
    known = [name for name in names if FORMS[name].begins in fields]
    if not known:
        forms = " or ".join(FORMS[name].label for name in names)
        raise UserError(f"{where} is not {forms}; export it as one of these, or as a PNG")
    return known[0]
