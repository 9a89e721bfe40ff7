"""MOTS text: `frame id class height width run-length`, a line for each object and frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.datasets.masks.coco import encode
from pipeline.errors import UserError
from pipeline.results.exports.clip import Clip, categories, one_line, present

EACH = 1000
"""an object's id is its class times this, and its number within the class"""


def write(clips: Sequence[Clip], folder: Path) -> None:
    """instances_txt/<video>.txt, objects.txt (names by id), classes.txt (by class)."""
    kinds = categories(clips)
    rows = [f"{n} {one_line(kind)}\n" for n, kind in enumerate(kinds, 1)]
    (folder / "classes.txt").write_text("".join(rows), encoding="utf-8")
    (folder / "instances_txt").mkdir()
    objects = []
    for clip in clips:
        ids = _ids(clip, kinds)
        objects += [f"{clip.name} {ids[i]} {one_line(clip.label(i))}\n" for i in clip.objects]
        height, width = clip.size
        with (folder / "instances_txt" / f"{clip.name}.txt").open("w") as file:
            for j, (_, mask) in enumerate(clip.masks()):
                for i in present(mask):
                    about = f"{j} {ids[i]} {ids[i] // EACH} {height} {width}"
                    file.write(f"{about} {encode(mask == i)['counts']}\n")
    (folder / "objects.txt").write_text("".join(objects), encoding="utf-8")


def _ids(clip: Clip, kinds: Sequence[str]) -> dict[int, int]:
    """The id of every object; UserError for more of a class than ids have room for."""
    seen, ids = Counter[str](), {}
    for number in clip.objects:
        kind = clip.category(number)
        ids[number] = (kinds.index(kind) + 1) * EACH + seen[kind]
        seen[kind] += 1
        if seen[kind] > EACH:
            raise UserError(
                f"video {clip.name}: has more than {EACH} objects of class {kind}, which MOTS "
                "cannot number; choose another --format"
            )
    return ids
