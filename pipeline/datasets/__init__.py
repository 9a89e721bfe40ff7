"""Dataset layouts: which file is which frame or mask of which video."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets import (
    davis16,
    davis17,
    demo,
    folder,
    segtrackv2,
    stills,
    youtube_objects,
    youtube_vos,
)
from pipeline.datasets.layout import Dataset, Video, one_of
from pipeline.errors import UserError

__all__ = ["Dataset", "Video", "open_clip", "open_dataset"]

LAYOUTS = {
    "davis16": davis16.videos,
    "davis17": davis17.videos,
    "segtrackv2": segtrackv2.videos,
    "youtube-objects": youtube_objects.videos,
    "youtube-vos": youtube_vos.videos,
    "stills": stills.videos,
    "folder": folder.videos,
}


def open_dataset(
    name: str, root: str | Path | None, split: str, demo_root: Path = Path("artifacts")
) -> Dataset:
    """The videos of a split, without decoding anything.

    demo_root: where the built-in demo is written when it is asked for first. Raises
    UserError for an unknown dataset or split and a missing folder.
    """
    if name == "demo":
        return Dataset(name, split, tuple(davis17.videos(demo.write_demo(demo_root), demo.SPLIT)))
    if name not in LAYOUTS:
        raise UserError(f"--dataset {name}: {one_of(name, ['demo', *LAYOUTS])}")
    if root is None:
        raise UserError(f"--dataset {name} needs --root, the folder that holds it")
    folder_path = Path(root)
    if not folder_path.is_dir():
        raise UserError(f"--root {root}: no such folder")
    return Dataset(name, split, tuple(LAYOUTS[name](folder_path, split)))


def open_clip(clip: Path, masks: Path) -> Video:
    """One clip, a video file or a folder of images, with its first mask or masks."""
    return folder.clip(clip, masks)
