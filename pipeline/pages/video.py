"""A video's part of a report: its pictures, curves and tracklets.

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

from pipeline.pages.page import Row, dots, line, picture, write_page
from pipeline.reports import per_frame, results, starts, templates
from pipeline.results.export import pictured
from pipeline.results.scores import last_iteration, totals
from pipeline.results.tables import video_page

VERSION = 1
"""of the pages of single videos; a new number makes them anew"""


class Tables:
    """The tables of an output folder, split by video once: looking each up reads whole tables."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def of(self, video: str) -> tuple[pd.DataFrame, ...]:
        """Rows of a video: scored frames, results, starting points, templates."""
        return tuple(parts.get(video, empty) for parts, empty in self._parts)

    @cached_property
    def _parts(self) -> list[tuple[dict[str, pd.DataFrame], pd.DataFrame]]:
        out = self._out
        tables = last_iteration(per_frame(out)), results(out), starts(out), templates(out)
        return [(dict(list(t.groupby("video", sort=False))), t.iloc[:0]) for t in tables]


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
class VideoPart:
    """A video's part of the report."""

    name: str
    frames: int
    size: tuple[int, int]
    objects: Sequence[int]
    seconds: float
    means: Mapping[str, float]
    table: Sequence[Row]
    pictures: Sequence[tuple[str, str]]
    """(frame name, data URI)"""
    curves: Mapping[str, Sequence[Curve]]
    """by measure"""
    lanes: Sequence[Lane]
    film: bool


def video_part(out: Path, name: str, about: Mapping[str, Any], tables: Tables) -> VideoPart:
    """A video's part; about: what run.json holds of it."""
    frames, table, begun, added = tables.of(name)
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
        about["objects"],
        sum(about["seconds"].values()),
        totals(table) if len(table) else {},
        table.to_dict("records"),
        _pictures(out, name, about),
        curves if len(frames) else {},
        lanes if len(begun) else [],
        (out / "overlays" / f"{name}.mp4").exists(),
    )


def _pictures(out: Path, name: str, about: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for n, label in zip(pictured(about["frames"]), about["frame_names"], strict=True):
        path = out / "pictures" / name / f"{n:05d}.jpg"
        if path.exists():
            found.append((label, picture(path.read_bytes())))
    return found


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
