"""Dataset layouts: which file is which frame or mask of which video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.datasets import davis, demo, folder, segtrackv2, stills, youtube_objects, youtube_vos
from pipeline.datasets.frames import unpacked
from pipeline.datasets.layout import Dataset, Video, check_name
from pipeline.datasets.reading import AS_IT_IS, Reading
from pipeline.datasets.rules import DAVIS, LATER, Rule
from pipeline.errors import UserError, one_of

__all__ = ["LAYOUTS", "Dataset", "Video", "built_in", "open_dataset", "rule_of"]


@dataclass(frozen=True)
class Layout:
    """A kind of dataset."""

    videos: Callable[..., Iterable[Video]]
    """the videos of a split, from the folder that holds the dataset, and a Reading if it is own"""
    rule: Rule = LATER
    """what it is scored by"""
    label: str = ""
    """what the paper's tables call it"""
    built_in: bool = False
    """whether it is drawn below the artifact root, not read from --root"""
    own: bool = False
    """whether it takes one's own videos, which a Reading says how to read"""
    clip: bool = False
    """whether it is one clip of any place: --root is the clip, and --masks in place of a split"""


LAYOUTS = {
    "demo": Layout(demo.videos, DAVIS, built_in=True),
    "davis16": Layout(davis.videos16, DAVIS, "DAVIS16"),
    "davis17": Layout(davis.videos17, DAVIS),
    "segtrackv2": Layout(segtrackv2.videos, label="SegTrackv2"),
    "youtube-objects": Layout(youtube_objects.videos, label="YoutbObjs"),
    "youtube-vos": Layout(youtube_vos.videos),
    "stills": Layout(stills.videos),
    "folder": Layout(folder.videos, own=True),
    "clip": Layout(folder.clip, own=True, clip=True),
}
"""by the name that --dataset and --data give it; docs/extending.md"""


def open_dataset(
    name: str,
    root: str | Path | None,
    split: str,
    demo_root: Path = Path("artifacts"),
    masks: str | Path | None = None,
    reading: Reading = AS_IT_IS,
) -> Dataset:
    """The videos of a split, without decoding anything.

    demo_root: where the built-in demo is written when it is asked for first, and archives are
    unpacked. masks: of a clip, its first mask or a folder of masks. reading: of one's own videos.
    Raises UserError for an unknown dataset or split and a
    missing or unreadable folder or clip.
    """
    if name not in LAYOUTS:
        raise UserError(f"--dataset {name}: {one_of(name, list(LAYOUTS))}")
    check_name("--split", split)
    layout = LAYOUTS[name]
    if layout.clip and masks is None:
        raise UserError(f"--dataset {name} needs --masks, its first mask or a folder of masks")
    place = demo_root if layout.built_in else _place(name, root)
    part = str(masks) if layout.clip else split
    if not layout.own and reading != AS_IT_IS:
        raise UserError(f"--dataset {name}: its frames and masks are read as they are published")
    videos = partial(layout.videos, reading=reading) if layout.own else layout.videos
    with _readable():
        if layout.clip and place.suffix.lower() == ".zip" and place.is_file():
            place = unpacked(place, demo_root)
        return Dataset(name, split, tuple(videos(place, part)))


def _place(name: str, root: str | Path | None) -> Path:
    """Where a dataset lies; UserError if that was not given or is not there."""
    clip = LAYOUTS[name].clip
    if root is None:
        what = "the clip" if clip else "the folder that holds it"
        raise UserError(f"--dataset {name} needs --root, {what}")
    with _readable():
        there = clip or Path(root).is_dir()
    if not there:
        raise UserError(f"--root {root}: no such folder")
    return Path(root)


def built_in(name: str) -> bool:
    """Whether a dataset by that name needs no --root, since it is drawn."""
    return name in LAYOUTS and LAYOUTS[name].built_in


@contextmanager
def _readable() -> Iterator[None]:
    """UserError for a file or folder that the block may not look into."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); mend that, or choose another"
        ) from error


def rule_of(dataset: str) -> Rule:
    """The rule that a dataset is scored by."""
    return LAYOUTS[dataset].rule
