"""What a run leaves for people: masks, overlay videos, pictures, CSVs and run.json.

    OUT/masks/<video>/<frame name>.png    palette PNGs in the input's size and names
    OUT/overlays/<video>.mp4              the frames with their masks drawn in
    OUT/pictures/<video>/<frame>.jpg      seven frames of it at equal interval (Fig. 7)
    OUT/scores/*.csv                      tables, see pipeline/reports.py
    OUT/run.json                          settings, keys, versions, times
    OUT/.made/<video>.json                what the video's files were made from

A video's files are streamed frame by frame into a folder beside their place and moved
there whole, so a stop leaves either the old files or the new.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.datasets.rules import Rule
from pipeline.errors import UserError
from pipeline.results.files import write_csv, write_text
from pipeline.results.overlays import VideoFile, overlay, write_mask, write_picture
from pipeline.results.scores import (
    frame_table,
    join_frames,
    last_iteration,
    results,
    totals,
    write_official,
)
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


@dataclass(frozen=True)
class Run:
    """What a run was asked for, as written to run.json."""

    command: str
    dataset: str
    split: str
    variant: str
    weights: str
    rule: Rule
    settings: Mapping[str, Mapping[str, Any]]
    """by section (RunSettings.to_dict())"""
    defaults: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str]
    """of the programs and libraries involved"""
    started: str
    """ISO 8601 with time zone"""
    seconds: float
    """wall time of the whole run"""


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
    """Whether the video's files in `out` are there and were made from these keys."""
    try:
        made = json.loads(_marker(out, video).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    places = [place for _, place in _places(out, video)]
    return bool(made == _made_from(keys)) and all(place.exists() for place in places)


def export_video(result: VideoResult, out: Path) -> bool:
    """Write a video's masks, overlay and pictures; False if they are there already.

    Memory does not grow with the video. What lay in their place before is replaced whole.
    UserError if `out` cannot be written to.
    """
    if exported(out, result.name, result.keys):
        return False
    made = _places(out, result.name)
    try:
        _remove(new for new, _ in made)
        _draw(result, *(new for new, _ in made))
        # Without its marker a half-replaced video counts as not exported.
        _marker(out, result.name).unlink(missing_ok=True)
        for new, place in made:
            _remove([place])
            new.replace(place)
    except OSError as error:
        raise UserError(
            f"video {result.name}: cannot write to {out} ({error.strerror}); free some space "
            "or give another folder as --output"
        ) from error
    finally:
        _remove(new for new, _ in made)
    write_text(_marker(out, result.name), json.dumps(_made_from(result.keys), sort_keys=True))
    return True


def drop_others(out: Path, videos: Iterable[str]) -> None:
    """Remove from `out` what an earlier run exported of other videos than these."""
    names = set(videos)
    for marker in sorted((out / ".made").glob("*.json")):
        if marker.stem not in names:
            marker.unlink()
            _remove(place for _, place in _places(out, marker.stem))


def write_scores(out: Path, videos: Sequence[VideoResult], run: Run) -> None:
    """Write OUT/scores: the tables of pipeline/reports.py and the official two CSVs.

    Without annotations only starts.csv and templates.csv are written.
    """
    folder = out / "scores"
    for pattern in ("frames.csv", "iterations.csv", "*_results-*.csv"):
        _remove(folder.glob(pattern))
    starts = [{"video": v.name, **asdict(start)} for v in videos for start in v.starts]
    write_csv(folder / "starts.csv", pd.DataFrame(starts, columns=list(STARTS)).astype(STARTS))
    added = [{"video": v.name, **asdict(template)} for v in videos for template in v.templates]
    table = pd.DataFrame(added, columns=list(TEMPLATES)).astype(TEMPLATES)
    write_csv(folder / "templates.csv", table)
    frames = join_frames([table for v in videos for table in _frame_tables(v, run.rule)])
    if not len(frames):
        return
    write_csv(folder / "frames.csv", frames)
    write_csv(folder / "iterations.csv", _iterations(videos, frames))
    write_official(results(last_iteration(frames)), run.split, folder, run.rule.average)


def write_run(out: Path, videos: Sequence[VideoResult], run: Run) -> None:
    """Write OUT/run.json: the run, and of each video its keys, extent and seconds."""
    about = {
        v.name: {
            "frames": len(v.frame_names),
            "size": list(v.frames.size),
            "objects": list(v.objects),
            **({"names": dict(v.names)} if v.names else {}),
            "given": sorted(v.given),
            "frame_names": [v.frame_names[n] for n in pictured(len(v.frame_names))],
            "keys": dict(v.keys),
            "seconds": dict(v.seconds),
        }
        for v in videos
    }
    text = json.dumps({**asdict(run), "videos": about}, indent=1, ensure_ascii=False)
    write_text(out / "run.json", text + "\n")


def pictured(frames: int) -> list[int]:
    """The frames of a Fig. 7 strip: at equal interval, the first and the last among them."""
    return sorted({round(n) for n in np.linspace(0, frames - 1, PICTURES)})


def _frame_tables(video: VideoResult, rule: Rule) -> list[pd.DataFrame]:
    total = len(video.frame_names)
    return [
        frame_table(video.name, k.number, k.scores, lambda n: rule.counts(n, total, video.given))
        for k in video.iterations
        if k.scores is not None
    ]


def _iterations(videos: Sequence[VideoResult], frames: pd.DataFrame) -> pd.DataFrame:
    """ITERATIONS: a row for each iteration and video that has scores."""
    rows = []
    for video in videos:
        for k in video.iterations:
            if k.scores is None:
                continue
            mine = (frames["video"] == video.name) & (frames["iteration"] == k.number)
            table = results(frames[mine])
            means = totals(table)
            counts = k.counts or StartCounts(0, 0, 0, 0)
            counted = counts.correct, counts.total, counts.found, counts.visible
            measured = means["J_mean"], means["F_mean"], means["G"]
            rows.append((k.number, video.name, len(table), *counted, *measured))
    table = pd.DataFrame(rows, columns=list(ITERATIONS)).astype(ITERATIONS)
    return table.sort_values(["iteration", "video"], ignore_index=True)


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
    finally:
        film.close()


def _places(out: Path, video: str) -> list[tuple[Path, Path]]:
    """Where a video's masks, overlay and pictures are made, and where they belong."""
    place = out / "masks" / video, out / "overlays" / f"{video}.mp4", out / "pictures" / video
    # The temporary name keeps the suffix: OpenCV takes the container from it.
    return [(p.with_name(f".{os.getpid()}.{p.name}"), p) for p in place]


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()


def _marker(out: Path, video: str) -> Path:
    return out / ".made" / f"{video}.json"


def _made_from(keys: Mapping[str, str]) -> dict[str, Any]:
    return {"export": VERSION, "keys": dict(keys)}
