"""OUT/report.html: a run to judge in a minute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.pages.page import Row, dots, line, picture, until_settled, write_page
from pipeline.paper.published import PUBLISHED, RETRIEVAL, Published, likeness
from pipeline.plan.settings import described
from pipeline.reports import (
    per_frame,
    per_iteration,
    read_run,
    results,
    rule_used,
    starts,
    templates,
)
from pipeline.results.export import pictured
from pipeline.results.scores import last_iteration, totals

BEST_OF_TABLE_2 = RETRIEVAL[0.7][-1][2]
"""G on DAVIS 2017 val of the value that the paper then keeps"""


def report_html(out_dir: str | Path) -> Path:
    """Write OUT/report.html, one file that needs no other, and return its path.

    UserError if out_dir holds no run.
    """
    out = Path(out_dir)
    run = read_run(out)
    table, rule = results(out), rule_used(run)
    tables = last_iteration(per_frame(out)), table, starts(out), templates(out)
    means, iterations = totals(table, rule.average), per_iteration(out)
    changing = until_settled(iterations)
    paper, place = _paper(run["dataset"], run["split"]), (run["dataset"], run["split"])
    # Split once: looking each video up would read whole tables for every one.
    parts = [(dict(list(t.groupby("video", sort=False))), t.iloc[:0]) for t in tables]
    videos = [
        _video(out, name, about, *(part.get(name, none) for part, none in parts))
        for name, about in run["videos"].items()
    ]
    videos.sort(key=lambda video: (video.means.get("G", math.inf), video.name))
    return write_page(
        out / "report.html",
        "run.html",
        run=run,
        rule=rule,
        scored=bool(len(table)),
        videos=videos,
        objects=sum(len(video.objects) for video in videos),
        frames=sum(video.frames for video in videos),
        means=means,
        profile=described(run["settings"]),
        paper=paper,
        likeness=likeness(*place, len(videos), place) if paper else "",
        iterations=iterations[: len(changing)].to_dict("records"),
        settled=len(changing) < len(iterations),
        stages=_stages(run),
        settings=_settings(run),
    )


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


def _video(
    out: Path,
    name: str,
    about: Mapping[str, Any],
    frames: pd.DataFrame,
    table: pd.DataFrame,
    begun: pd.DataFrame,
    added: pd.DataFrame,
) -> VideoPart:
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


def _paper(dataset: str, split: str) -> list[Published]:
    """The paper's own rows for a set, one for each variant with and without online training."""
    every = (*PUBLISHED, Published(2, "DyeNet (offline)", "dyenet", G=BEST_OF_TABLE_2, split="val"))
    # Table 4 repeats rows of Table 3 under the method's name.
    rows = {
        (row.variant, bool(row.online)): row
        for row in every
        if row.source == "paper" and (row.dataset, row.split) == (dataset, split)
    }
    return list(rows.values())


def _stages(run: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Stages by time taken: name, seconds over all videos, share of the longest."""
    spent: dict[str, float] = {}
    for about in run["videos"].values():
        for label, seconds in about["seconds"].items():
            stage = label.partition("(")[0]
            spent[stage] = spent.get(stage, 0.0) + seconds
    longest = max(spent.values(), default=0.0) or 1.0
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return [(stage, seconds, seconds / longest) for stage, seconds in ordered]


def _settings(run: Mapping[str, Any]) -> list[tuple[str, Any, Any, bool]]:
    """Settings as (name, value, default, whether they are the same), by section."""
    rows = []
    for section, values in run["settings"].items():
        for name, value in values.items():
            default = run["defaults"].get(section, {}).get(name)
            rows.append((f"{section}.{name}", value, default, value == default))
    return rows
