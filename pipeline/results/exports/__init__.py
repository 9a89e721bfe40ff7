"""Masks of a run in the forms that other programs read (`dyenet export`); docs/outputs.md."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.results.claim import alone
from pipeline.results.exports import alpha, arrays, coco, labelme, mots, yolo
from pipeline.results.exports.clip import Clip
from pipeline.results.files import cannot_write
from pipeline.results.made import Ledger, draft_folder

FOLDER = "exports"


@dataclass(frozen=True)
class Format:
    """A form of the masks."""

    label: str
    write: Callable[[Sequence[Clip], Path], None]
    """into an empty folder"""
    frames: bool = False
    """whether it holds the video's pixels"""


FORMATS = {
    "coco": Format("COCO JSON of videos, as YouTube-VIS has it", coco.write),
    "yolo": Format("YOLO segmentation: a text file a frame, and data.yaml", yolo.write),
    "mots": Format("MOTS text: a file a video", mots.write),
    "npz": Format("NumPy: an .npz a video", arrays.write),
    "alpha": Format("cut-outs: a PNG with alpha for each object and frame", alpha.write, True),
    "contours": Format("outlines: a labelme JSON a frame", labelme.write),
}
"""by the name that `--format` gives it"""


def export(clips: Sequence[Clip], name: str, out: Path) -> Path:
    """Write masks as one of FORMATS into OUT/exports/<name>, whole or not at all; that folder.

    What an earlier export wrote there is replaced. UserError if something else is there, if a
    mask cannot be read or if `out` cannot be written to.
    """
    place, ledger = Path(FOLDER) / name, Ledger(out, f"export-{name}")
    with cannot_write(out), draft_folder(out) as draft:
        FORMATS[name].write(clips, draft)
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        names = [(place / path.relative_to(draft)).as_posix() for path in files]
        with alone(out):
            # Exports are made to be worked on: what somebody changed there is theirs.
            for edited in ledger.edited():
                raise UserError(
                    f"{out / edited}: was changed since it was exported; move it away, or give "
                    "another folder as --output"
                )
            ledger.begin(names)
            for path, target in zip(files, names, strict=True):
                (out / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, out / target)
            ledger.finish(names, name)
    return out / place
