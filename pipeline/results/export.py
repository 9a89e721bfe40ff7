"""What a run leaves for people of each video: masks, an overlay video and pictures.

    OUT/masks/<video>/<frame name>.png    palette PNGs in the input's size and names
    OUT/overlays/<video>.mp4              the frames with their masks drawn in
    OUT/pictures/<video>/<frame>.jpg      seven frames of it at equal interval (Fig. 7)

The tables beside them are in pipeline/results/tables.py; how they are told from a person's own
files, in pipeline/results/made.py. A video's files are streamed frame by frame into a draft and
moved from there, so a stop leaves the old files, the new, or a video that counts as not exported.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.results.claim import alone
from pipeline.results.made import Ledger, draft_folder, listed_videos, present, refuse_foreign
from pipeline.results.overlays import VideoFile, overlay, write_mask, write_picture
from stages.frames import FrameReader
from stages.scores import Scores, StartCounts
from stages.types import IndexMask, Linking, Matches, Tracklet

VERSION = 1
"""of the files of a video; a new number exports them anew"""
PICTURES = 7
"""frames of a video in a Fig. 7 strip"""
PICTURE_WIDTH = 240
"""px"""

ITERATIONS = {
    "iteration": "int64",
    "video": "str",
    "objects": "int64",
    "correct": "int64",
    "retrieved": "int64",
    "found": "int64",
    "visible": "int64",
    "J": "float64",
    "F": "float64",
    "G": "float64",
}
"""columns of scores/iterations.csv; the counts are those of StartCounts"""
STARTS = {
    "video": "str",
    "iteration": "int64",
    "object": "int64",
    "frame": "int64",
    "similarity": "float64",
    "given": "bool",
    "first": "Int64",
    "last": "Int64",
    "merged": "bool",
}
"""columns of scores/starts.csv; first, last: the tracklet's span, empty where skipped"""
TEMPLATES = {"video": "str", "iteration": "int64", "object": "int64", "frame": "int64"}
"""columns of scores/templates.csv"""


@dataclass(frozen=True)
class Start:
    """A starting point and what became of it."""

    iteration: int
    object: int
    frame: int
    similarity: float
    given: bool
    first: int | None = None
    """first frame of its tracklet; None where it was skipped"""
    last: int | None = None
    merged: bool = False
    """False where linking dropped its tracklet"""


@dataclass(frozen=True)
class Template:
    """A mask that an iteration used as a template besides the given ones (section 3.3)."""

    iteration: int
    object: int
    frame: int


@dataclass(frozen=True)
class Iteration:
    """Scores of one iteration; None where there is nothing to score against."""

    number: int
    """from 1"""
    scores: Scores | None = None
    counts: StartCounts | None = None


@dataclass(frozen=True)
class VideoResult:
    """All that export and report need of a video."""

    name: str
    frame_names: Sequence[str]
    frames: FrameReader
    masks: Iterable[IndexMask]
    """the final index mask (H, W) of every frame, in order; read once"""
    objects: Sequence[int]
    palette: bytes
    """256 RGB triples of the mask files"""
    keys: Mapping[str, str]
    """key of every artifact, by label"""
    given: frozenset[int]
    """frames with a given mask"""
    iterations: Sequence[Iteration] = ()
    starts: Sequence[Start] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """wall time by artifact, such as `tubes(2)`"""
    templates: Sequence[Template] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    """of objects by number, as far as the masks' form gives any"""


def starts_of(
    matches: Sequence[Matches], tracklets: Sequence[Tracklet], linking: Linking
) -> list[Start]:
    """Starting points of the iterations 1.. in order, with what became of each.

    tracklets, linking: those of the last iteration.
    """
    spans = {
        (t.iteration, t.start.object_id, t.start.frame, t.start.box.tobytes()): (
            t.first,
            t.first + len(t.masks) - 1,
            bool(merged),
        )
        for t, merged in zip(tracklets, linking.merged, strict=True)
    }
    return [
        Start(
            k,
            start.object_id,
            start.frame,
            start.similarity,
            start.given,
            *spans.get((k, start.object_id, start.frame, start.box.tobytes()), ()),
        )
        for k, found in enumerate(matches, 1)
        for start in found.starts
    ]


def exported(out: Path, video: str, keys: Mapping[str, str]) -> bool:
    """Whether the video's files in `out` are whole and were made from these keys."""
    return _ledger(out, video).whole(_made_from(keys))


def export_video(result: VideoResult, out: Path) -> bool:
    """Write a video's masks, overlay and pictures; False if they are whole already.

    Memory does not grow with the video. Of what lay in their place only what was written here
    before is replaced. UserError if something else is there, or if `out` cannot be written to.
    """
    if exported(out, result.name, result.keys):
        return False
    try:
        with draft_folder(out) as draft:
            _draw(result, *places(draft, result.name))
            with alone(out):
                _put(draft, out, result)
    except OSError as error:
        raise UserError(
            f"video {result.name}: cannot write to {out} ({error.strerror or error}); free some "
            "space or give another folder as --output"
        ) from error
    return True


def places(out: Path, video: str) -> tuple[Path, Path, Path]:
    """Where a video's masks, overlay and pictures belong."""
    return out / "masks" / video, out / "overlays" / f"{video}.mp4", out / "pictures" / video


def refuse_foreign_video(out: Path, video: str) -> None:
    """UserError if files lie in the video's place that this program did not write."""
    if not _ledger(out, video).path.exists() and video not in listed_videos(out):
        for name in _shaped(out, video):
            refuse_foreign(out / name)


def refuse_foreign_masks(out: Path) -> None:
    """UserError if `out` is a folder of videos, whose given masks lie where results go.

    Those of a run would be taken for given ones, also of other frames.
    """
    known = present(out) | listed_videos(out)
    masks = {path.name if path.is_dir() else path.stem: path for path in _files(out / "masks", "")}
    for path in _files(out, "") if masks else ():
        given = masks.get(path.name if path.is_dir() else path.stem)
        if given and given.name not in known:
            raise UserError(
                f"{given}: is a mask of {path}, and results beside it would be taken for given "
                "masks too; give another folder as --output"
            )


def _put(draft: Path, out: Path, result: VideoResult) -> None:
    """Move a video's files to where they belong, beside what others have put there."""
    files = {path.relative_to(draft): path for path in draft.rglob("*") if path.is_file()}
    names = [name.as_posix() for name in files]
    ledger = _ledger(out, result.name)
    # A damaged record, or that of an earlier version, does not say which files it is for.
    ours = ledger.path.exists() or result.name in listed_videos(out)
    ledger.begin(names, () if ledger.owns() or not ours else _shaped(out, result.name))
    for name, path in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, out / name)
    ledger.finish(names, _made_from(result.keys))


def _ledger(out: Path, video: str) -> Ledger:
    return Ledger(out, f"{video}.json")


def _shaped(out: Path, video: str) -> list[str]:
    """Files in the video's place that are named as this program names them."""
    masks, film, pictures = places(out, video)
    found = [*_files(masks, ".png"), *_files(film.parent, film.name), *_files(pictures, ".jpg")]
    return [path.relative_to(out).as_posix() for path in found]


def _files(folder: Path, ending: str) -> list[Path]:
    """A folder's files by the end of their names; a pattern would read a name's brackets."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending))


def pictured(frames: int) -> list[int]:
    """The frames of a Fig. 7 strip: at equal interval, the first and the last among them."""
    return sorted({round(n) for n in np.linspace(0, frames - 1, PICTURES)})


def _draw(result: VideoResult, masks: Path, video: Path, pictures: Path) -> None:
    """Stream the frames once into the three places."""
    for folder in (masks, pictures, video.parent):
        folder.mkdir(parents=True, exist_ok=True)
    chosen = frozenset(pictured(len(result.frame_names)))
    film = VideoFile(video, result.frames.size, result.frames.fps)
    try:
        frames = zip(result.frame_names, result.frames, result.masks, strict=True)
        for n, (name, image, mask) in enumerate(frames):
            write_mask(masks / f"{name}.png", mask, result.palette)
            film.write(overlay(image, mask))
            if n in chosen:
                write_picture(pictures / f"{n:05d}.jpg", image, mask, PICTURE_WIDTH)
        film.finish()
    finally:
        film.close()


def _made_from(keys: Mapping[str, str]) -> dict[str, Any]:
    return {"export": VERSION, "keys": dict(keys)}
