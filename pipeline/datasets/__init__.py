"""Dataset layouts: which file is which frame or mask of which video."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets import davis, demo, folder, segtrackv2, stills, youtube_objects, youtube_vos
from pipeline.datasets.layout import Dataset, Video, check_name, one_of
from pipeline.datasets.rules import DAVIS, LATER, Rule
from pipeline.errors import UserError

__all__ = ["Dataset", "Video", "open_clip", "open_dataset", "rule_of"]


@dataclass(frozen=True)
class Layout:
    """A kind of dataset."""

    videos: Callable[[Path, str], Iterable[Video]]
    """the videos of a split, from the folder that holds the dataset"""
    rule: Rule = LATER
    """what it is scored by"""
    built_in: bool = False
    """whether it is drawn below the artifact root, not read from --root"""


LAYOUTS = {
    "demo": Layout(demo.videos, DAVIS, built_in=True),
    "davis16": Layout(davis.videos16, DAVIS),
    "davis17": Layout(davis.videos17, DAVIS),
    "segtrackv2": Layout(segtrackv2.videos),
    "youtube-objects": Layout(youtube_objects.videos),
    "youtube-vos": Layout(youtube_vos.videos),
    "stills": Layout(stills.videos),
    "folder": Layout(folder.videos),
}


def open_dataset(
    name: str, root: str | Path | None, split: str, demo_root: Path = Path("artifacts")
) -> Dataset:
    """The videos of a split, without decoding anything.

    demo_root: where the built-in demo is written when it is asked for first. Raises
    UserError for an unknown dataset or split and a missing folder.
    """
    if name not in LAYOUTS:
        raise UserError(f"--dataset {name}: {one_of(name, list(LAYOUTS))}")
    check_name("--split", split)
    layout = LAYOUTS[name]
    place = demo_root if layout.built_in else _folder(name, root)
    return Dataset(name, split, tuple(layout.videos(place, split)))


def _folder(name: str, root: str | Path | None) -> Path:
    """The folder of a dataset; UserError if it was not given or is not there."""
    if root is None:
        raise UserError(f"--dataset {name} needs --root, the folder that holds it")
    if not Path(root).is_dir():
        raise UserError(f"--root {root}: no such folder")
    return Path(root)


def open_clip(clip: Path, masks: Path) -> Video:
    """One clip, a video file or a folder of images, with its first mask or masks."""
    return folder.clip(clip, masks)


def rule_of(dataset: str) -> Rule:
    """The rule that a dataset is scored by; of a clip of one's own, every frame not given."""
    return LAYOUTS[dataset].rule if dataset in LAYOUTS else LATER
