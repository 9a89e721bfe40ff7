"""What a run leaves for people of each video: masks, an overlay video and pictures.

    OUT/masks/<video>/<frame name>.png    palette PNGs in the input's size and names
    OUT/overlays/<video>.mp4              the frames with their masks drawn in
    OUT/pictures/<video>/<frame>.jpg      seven frames of it at equal interval (Fig. 7), and those
                                          worth a look (pipeline/results/review.py)
    OUT/.made/<video>.masks               of every frame and object: px, confidence, and how many px
                                          are not as in the masks that lay there before

The tables beside them are in pipeline/results/tables.py; how they are told from a person's own
files, in pipeline/results/made.py. A video's files are streamed frame by frame into a draft and
moved from there, so a stop leaves the old files, the new, or a video that counts as not exported.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.errors import UserError
from pipeline.results.claim import alone
from pipeline.results.files import write_csv
from pipeline.results.made import (
    MADE,
    Ledger,
    draft_folder,
    listed_videos,
    present,
    refuse_foreign,
)
from pipeline.results.overlays import VideoFile, overlay, read_mask, write_mask, write_picture
from pipeline.results.review import MASKS, worth_a_look
from stages.frames import FrameReader
from stages.scores import Scores, StartCounts
from stages.types import IndexMask, Linking, Matches, Tracklet

VERSION = 2
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
DRAWN = {**MASKS, "changed": "Int64"}
"""columns of .made/<video>.masks; changed: px, empty where nothing lay there to compare with"""


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
    confidence: npt.NDArray[np.float32] | None = None
    """(T, O) mean probability over each object's px, 0 where it has none"""
    asked: Mapping[str, str] = field(default_factory=dict)
    """of one's own clip: the `command` that it was asked for by, and where its `masks` lie"""
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
    return ledger_of(out, video).whole(_made_from(keys))


def export_video(result: VideoResult, out: Path) -> bool:
    """Write a video's masks, overlay and pictures; False if they are whole already.

    Memory does not grow with the video. Of what lay in their place only what was written here
    before is replaced. UserError if something else is there, or if `out` cannot be written to.
    """
    if exported(out, result.name, result.keys):
        return False
    try:
        with draft_folder(out) as draft:
            _draw(result, out, draft)
            with alone(out):
                # Another run may have come first; what it has finished is never taken apart.
                if exported(out, result.name, result.keys):
                    return False
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


def drawn_file(out: Path, video: str) -> Path:
    """Where the px and confidence of a video's masks are, a table of DRAWN."""
    return out / MADE / f"{video}.masks"


def refuse_foreign_video(out: Path, video: str) -> None:
    """UserError if files lie in the video's place that this program did not write."""
    if not ledger_of(out, video).path.exists() and video not in listed_videos(out):
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
    ledger = ledger_of(out, result.name)
    # A damaged record, or that of an earlier version, does not say which files it is for.
    ours = ledger.path.exists() or result.name in listed_videos(out)
    ledger.begin(names, () if ledger.owns() or not ours else _shaped(out, result.name))
    for name, path in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, out / name)
    ledger.finish(names, _made_from(result.keys))


def ledger_of(out: Path, video: str) -> Ledger:
    """The record of a video's files."""
    return Ledger(out, f"{video}.json")


def _shaped(out: Path, video: str) -> list[str]:
    """Files in the video's place that are named as this program names them."""
    masks, film, pictures = places(out, video)
    table = drawn_file(out, video)
    found = [*_files(masks, ".png"), *_files(pictures, ".jpg")]
    found += [path for file in (film, table) for path in _files(file.parent, file.name)]
    return [path.relative_to(out).as_posix() for path in found]


def _files(folder: Path, ending: str) -> list[Path]:
    """A folder's files by the end of their names; a pattern would read a name's brackets."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending))


def pictured(frames: int) -> list[int]:
    """The frames of a Fig. 7 strip: at equal interval, the first and the last among them."""
    return sorted({round(n) for n in np.linspace(0, frames - 1, PICTURES)})


def _draw(result: VideoResult, out: Path, draft: Path) -> None:
    """Stream the frames once into the draft, then the table of their masks and pictures."""
    masks, video, pictures = places(draft, result.name)
    for folder in (masks, pictures, video.parent, draft / MADE):
        folder.mkdir(parents=True, exist_ok=True)
    earlier, rows = _Earlier(out, result), list[tuple[Any, ...]]()
    film = VideoFile(video, result.frames.size, result.frames.fps)
    try:
        frames = zip(result.frame_names, result.frames, result.masks, strict=True)
        for n, (name, image, mask) in enumerate(frames):
            write_mask(masks / f"{name}.png", mask, result.palette)
            film.write(overlay(image, mask))
            rows += _drawn(result, n, mask, earlier.mask(name))
        film.finish()
    finally:
        film.close()
    table = pd.DataFrame(rows, columns=list(DRAWN)).astype(DRAWN)
    write_csv(drawn_file(draft, result.name), table)
    looks = worth_a_look(table, result.given)
    for n in sorted({*pictured(len(result.frame_names)), *(look.frame for look in looks)}):
        mask = read_mask(masks / f"{result.frame_names[n]}.png")
        write_picture(pictures / f"{n:05d}.jpg", result.frames[n], mask, PICTURE_WIDTH)


def _drawn(
    result: VideoResult, n: int, mask: IndexMask, before: IndexMask | None
) -> Iterator[tuple[Any, ...]]:
    """Rows of DRAWN of a frame; before: its mask of an earlier export."""
    for o, i in enumerate(result.objects):
        mine = mask == i
        confidence = math.nan if result.confidence is None else result.confidence[n, o]
        changed = None if before is None else np.count_nonzero(mine != (before == i))
        yield result.name, n, i, np.count_nonzero(mine), confidence, changed


class _Earlier:
    """Masks of a video that an export from other keys has left in an output folder."""

    def __init__(self, out: Path, result: VideoResult) -> None:
        self._folder, self._size = places(out, result.name)[0], result.frames.size
        ledger = ledger_of(out, result.name)
        other = ledger.made_from() != _made_from(result.keys)
        self._names = {Path(name).name for name in ledger.owns()} if other else set()

    def mask(self, name: str) -> IndexMask | None:
        """The mask of a frame by name; None if there is none of this size."""
        if f"{name}.png" not in self._names:
            return None
        with suppress(OSError, ValueError, SyntaxError):
            mask = read_mask(self._folder / f"{name}.png")
            return mask if mask.shape == self._size else None
        return None


def _made_from(keys: Mapping[str, str]) -> dict[str, Any]:
    return {"export": VERSION, "keys": dict(keys)}
