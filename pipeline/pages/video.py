"""A video's part of a report: its pictures, curves and tracklets.

Without annotations it is about the video itself: the film, when each object is seen, what to look
at and how to correct it.

Reports of many videos hold none of them: each has a page, OUT/videos/<video>.html, which is made
once and again only when something of the video has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.pages.correct import Correction, correction
from pipeline.pages.page import Row, dots, line, picture, write_page
from pipeline.reports import changes, masks, per_frame, results, starts, templates
from pipeline.results.export import pictured
from pipeline.results.overlays import FPS
from pipeline.results.review import LOW
from pipeline.results.scores import last_iteration, totals
from pipeline.results.tables import video_page

VERSION = 1
"""of the pages of single videos; a new number makes them anew"""


class Tables:
    """The tables of an output folder, split by video once: looking each up reads whole tables."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def of(self, video: str) -> tuple[pd.DataFrame, ...]:
        """Rows of a video: scored frames, results, starting points, templates, masks, changes."""
        return tuple(parts.get(video, empty) for parts, empty in self._parts)

    @cached_property
    def _parts(self) -> list[tuple[dict[str, pd.DataFrame], pd.DataFrame]]:
        out = self._out
        scores = last_iteration(per_frame(out)), results(out)
        tables = (*scores, starts(out), templates(out), masks(out), changes(out))
        return [
            ({str(video): part for video, part in t.groupby("video", sort=False)}, t.iloc[:0])
            for t in tables
        ]


def video_pages(out: Path, run: Mapping[str, Any]) -> None:
    """Write the pages of all videos of a run that are not there as they would be written."""
    tables = Tables(out)
    for name, about in run["videos"].items():
        ledger, made_from = video_page(out, name, VERSION)
        if not ledger.whole(made_from):
            page = f"videos/{name}.html"
            ledger.begin([page])
            video = video_part(out, name, about, tables)
            write_page(out / page, "video.html", video=video, run=run)
            ledger.finish([page], made_from)


@dataclass(frozen=True)
class Curve:
    """A measure of an object over frames (x) as SVG paths; y is 100 less the percentage."""

    object: int
    line: str
    given: str
    """marks where a mask was given"""
    retrieved: str
    """marks where a starting point was retrieved"""


@dataclass(frozen=True)
class Lane:
    """An object's tracklets: bars, the starting points on them, and its templates."""

    object: int
    bars: Sequence[Row]
    points: Sequence[Row]
    templates: Sequence[Row]
    """one a frame, of the first iteration that used it"""


@dataclass(frozen=True)
class Seen:
    """When an object is seen."""

    object: int
    bars: Sequence[tuple[int, int, bool]]
    """first frame, number of frames, whether the confidence is low there"""
    given: str
    """marks where a mask was given, as an SVG path"""
    frames: int
    """how many show it"""


@dataclass(frozen=True)
class VideoPart:
    """A video's part of the report."""

    name: str
    frames: int
    size: tuple[int, int]
    fps: float
    objects: Mapping[int, str]
    """what each is called"""
    seconds: float
    means: Mapping[str, float]
    table: Sequence[Row]
    pictures: Sequence[tuple[int, str, str]]
    """(frame, its name, data URI)"""
    curves: Mapping[str, Sequence[Curve]]
    """by measure"""
    lanes: Sequence[Lane]
    film: bool
    looks: Sequence[Row]
    """as run.json has them, and a picture of each"""
    seen: Sequence[Seen]
    """without annotations"""
    changes: Sequence[Row]
    """frames, px and the first frame by object, if anything is not as it was in the run before"""
    correction: Correction | None
    """of one's own clip"""


def video_part(out: Path, name: str, about: Mapping[str, Any], tables: Tables) -> VideoPart:
    """A video's part; about: what run.json holds of it."""
    frames, table, begun, added, drawn, changed = tables.of(name)
    scored = sorted(int(i) for i in frames["object"].unique())
    curves = {
        measure: [_curve(i, frames[frames["object"] == i], begun, measure) for i in scored]
        for measure in "JF"
    }
    lanes = [
        _lane(i, begun[begun["object"] == i], added[added["object"] == i]) for i in about["objects"]
    ]
    return VideoPart(
        name,
        about["frames"],
        (about["size"][0], about["size"][1]),
        about.get("fps", FPS),
        object_names(about),
        sum(about["seconds"].values()),
        totals(table) if len(table) else {},
        table.to_dict("records"),
        _pictures(out, name, about),
        curves if len(frames) else {},
        lanes if len(begun) else [],
        (out / "overlays" / f"{name}.mp4").exists(),
        [pictured_look(out, name, look) for look in about.get("look", ())],
        [] if len(frames) else _seen(drawn, about["given"]),
        _changes(changed),
        correction(out, name, about),
    )


def pictured_look(out: Path, video: str, look: Row) -> Row:
    """A look of run.json with its picture."""
    return {**look, "picture": frame_picture(out, video, look["frame"])}


def object_names(about: Mapping[str, Any]) -> dict[int, str]:
    """What each object of a video is called; about: what run.json holds of it."""
    named = about.get("names", {})
    return {i: named.get(str(i), f"object {i}") for i in about["objects"]}


def _seen(drawn: pd.DataFrame, given: Sequence[int]) -> list[Seen]:
    found = []
    for i in sorted(set(drawn["object"])):
        rows = drawn[(drawn["object"] == i) & (drawn["pixels"] > 0)].sort_values("frame")
        low = rows["confidence"] < LOW
        runs = ((rows["frame"].diff() != 1) | (low != low.shift())).cumsum()
        bars = [
            (int(part["frame"].iloc[0]), len(part), bool(low[part.index[0]]))
            for _, part in rows.groupby(runs)
        ]
        marks = dots((j, 5) for j in given if j in set(rows["frame"]))
        found.append(Seen(i, bars, marks, len(rows)))
    return found


def _changes(changed: pd.DataFrame) -> list[Row]:
    """By object: how many frames are not as before, of how many px, and where most are."""
    found = list[Row]()
    for i in sorted(set(changed["object"])):
        rows = changed[changed["object"] == i]
        most = rows.loc[rows["pixels"].idxmax()]
        found.append(
            {
                "object": i,
                "frames": len(rows),
                "first": int(rows["frame"].min()),
                "last": int(rows["frame"].max()),
                "pixels": int(rows["pixels"].sum()),
                "most": int(most["pixels"]),
                "at": int(most["frame"]),
            }
        )
    return found


def _pictures(out: Path, name: str, about: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    found = []
    for n, label in zip(pictured(about["frames"]), about["frame_names"], strict=True):
        if data := frame_picture(out, name, n):
            found.append((n, label, data))
    return found


def frame_picture(out: Path, name: str, n: int) -> str:
    """A frame as a data URI; empty where it is not there."""
    path = out / "pictures" / name / f"{n:05d}.jpg"
    return picture(path.read_bytes()) if path.exists() else ""


def _curve(i: int, frames: pd.DataFrame, begun: pd.DataFrame, measure: str) -> Curve:
    heights = 100 - 100 * frames.set_index("frame")[measure].sort_index()
    marked = begun[(begun["object"] == i) & begun["frame"].isin(heights.index)]
    given, retrieved = (
        dots((j, heights[j]) for j in sorted(set(part["frame"])))
        for part in (marked[marked["given"]], marked[~marked["given"]])
    )
    return Curve(i, line(zip(heights.index, heights, strict=True)), given, retrieved)


def _lane(object_id: int, begun: pd.DataFrame, added: pd.DataFrame) -> Lane:
    # What linking kept is drawn last, over what it dropped.
    kept = begun.sort_values("merged", kind="stable")
    return Lane(
        object_id,
        kept[kept["first"].notna()].to_dict("records"),
        kept.assign(skipped=kept["first"].isna()).to_dict("records"),
        added.sort_values("iteration").drop_duplicates("frame").to_dict("records"),
    )
