"""The masks of a run for other programs (`dyenet export`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError, one_of
from pipeline.reports import read_run
from pipeline.results.exports import FORMATS, export
from pipeline.results.exports.clip import Clip
from pipeline.results.files import masks_in

if TYPE_CHECKING:
    from stages.frames import FrameReader


def export_run(run: Path, name: str, videos: Sequence[str], out: Path) -> Path:
    """Write the masks in a run's folder as one of FORMATS below `out`; the folder of them.

    videos: by name; all where none is given. UserError for an unknown format or video, a mask
    that is gone, and for frames that are needed and not to be had.
    """
    if name not in FORMATS:
        raise UserError(f"--format {name}: {one_of(name, list(FORMATS))}")
    known = read_run(run)["videos"]
    for video in videos:
        if video not in known:
            raise UserError(
                f"--videos {video}: {run} holds no such video; {one_of(video, [*known])}"
            )
    return export([_clip(run, video, known[video]) for video in videos or known], name, out)


def _clip(run: Path, video: str, about: Mapping[str, Any]) -> Clip:
    paths = masks_in(run / "masks" / video)
    if len(paths) != about["frames"]:
        raise UserError(
            f"video {video}: {run / 'masks' / video} holds {len(paths)} masks of "
            f"{about['frames']}; run the same command again to have them written anew"
        )
    names = {int(number): label for number, label in about.get("names", {}).items()}
    height, width = about["size"]
    frames = partial(_frames, video, about["keys"]["frames"])
    return Clip(video, (height, width), paths, about["objects"], names, frames)


def _frames(video: str, key: str) -> FrameReader:
    """The pixels of a video by the key of its frames, read from where a run found them."""
    from pipeline.plan.chain import planned
    from pipeline.plan.inputs import cache_root
    from pipeline.plan.recipe import read
    from pipeline.run.video import VideoFiles

    root = cache_root()
    for run in (path.stem for path in sorted((root / "recipes").glob("*.json"))):
        if video in read(root, run).videos and planned(root, run, video)["frames"].key == key:
            return VideoFiles(root, run, video).frames()
    raise UserError(
        f"video {video}: no run of the cache {root} says where its frames lie; give the cache of "
        "its run in DYENET_CACHE, or run the same command again"
    )
