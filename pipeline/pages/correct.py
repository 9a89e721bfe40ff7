"""How a result of one's own clip is corrected: with one more mask, and the same command again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Correction:
    """What to do, for a frame that is to be corrected."""

    example: str
    """name of that frame"""
    prepare: Sequence[str]
    """commands that put the given masks into a folder, where they do not lie in one"""
    drawn: str
    """file of the frame's mask as it was found, to start from"""
    place: str
    """file that the corrected mask becomes"""
    command: str
    """the run with it"""


def correction(out: Path, video: str, about: Mapping[str, Any]) -> Correction | None:
    """How to correct a video of a run; None for one that is not a clip of one's own.

    about: what run.json holds of it.
    """
    if "asked" not in about:
        return None
    masks, command = Path(about["asked"]["masks"]), shlex.split(about["asked"]["command"])
    found, folder, prepare = out / "masks" / video, masks, list[str]()
    if not any(masks.glob("*.png")):
        folder = out / "corrections" / video
        # What was given is kept to the pixel there, whatever form it had.
        given = [str(found / f"{name}.png") for name in about["given_names"]]
        prepare = [f"mkdir -p {shlex.quote(str(folder))}", shlex.join(["cp", *given, str(folder)])]
        command = _from_folder(command, about["asked"], folder)
    name = next((look["name"] for look in about["look"]), about["frame_names"][-1])
    start, place = found / f"{name}.png", folder / f"{name}.png"
    return Correction(name, prepare, str(start), str(place), shlex.join(command))


def _from_folder(command: Sequence[str], asked: Mapping[str, str], folder: Path) -> list[str]:
    """A command with a folder in place of a mask, or of the boxes that stood for one."""
    kept, words = list[str](), iter(command)
    for word in words:
        if word in ("--box", "--mask-from"):
            next(words, None)
        elif not word.startswith(("--box=", "--mask-from=", "--mask-colours", "--mask-threshold")):
            kept.append(word)
    mask = _last(kept, asked["masks"])
    if mask is None:
        return [*kept, str(folder)]
    kept[mask] = str(folder)
    return kept


def _last(words: Sequence[str], path: str) -> int | None:
    """The last word that names a file, whose path is absolute; None if none does."""
    ends = [n for n, word in enumerate(words) if path.endswith(f"/{Path(word)}") or path == word]
    return ends[-1] if ends else None
