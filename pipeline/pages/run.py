"""OUT/report.html: a run to judge in a minute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.pages.page import Row, until_settled, write_page
from pipeline.pages.video import Tables, object_names, pictured_look, video_pages, video_part
from pipeline.paper.published import PUBLISHED, RETRIEVAL, Published, likeness
from pipeline.plan.settings import described
from pipeline.reports import per_iteration, read_run, results, rule_used
from pipeline.results.review import LOOKS
from pipeline.results.scores import MEASURES, totals

EMBEDDED = 50
"""videos that the report holds with all their pictures, at most; of more, each has its page"""
ROWS = 2000
"""videos in the report's table, at most: the worst"""
BEST_OF_TABLE_2 = RETRIEVAL[0.7][-1][2]
"""G on DAVIS 2017 val of the value that the paper then keeps"""


def report_html(out_dir: str | Path) -> Path:
    """Write OUT/report.html and return its path.

    One file that needs no other; of more than EMBEDDED videos one that leads to a page for each.
    UserError if out_dir holds no run.
    """
    out = Path(out_dir)
    run = read_run(out)
    table, rule = results(out), rule_used(run)
    means, iterations = totals(table, rule.average), per_iteration(out)
    changing = until_settled(iterations)
    paper, place = _paper(run["dataset"], run["split"]), (run["dataset"], run["split"])
    videos = _videos(run, table)
    few = len(videos) <= EMBEDDED
    if not few:
        video_pages(out, run)
    tables = Tables(out)
    return write_page(
        out / "report.html",
        "run.html",
        run=run,
        rule=rule,
        scored=bool(len(table)),
        own=run["dataset"] == "clip",
        looks=_looks(out, videos) if len(videos) > 1 else [],
        videos=videos,
        rows=videos[:ROWS],
        embedded=[video_part(out, v.name, v.about, tables) for v in videos if few],
        objects=sum(len(video.about["objects"]) for video in videos),
        frames=sum(video.about["frames"] for video in videos),
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
class VideoRow:
    """A video's line of the table."""

    name: str
    about: Mapping[str, Any]
    """what run.json holds of it"""
    means: Mapping[str, float]
    """over its objects; empty without annotations"""


def _videos(run: Mapping[str, Any], table: pd.DataFrame) -> list[VideoRow]:
    """The run's videos, the worst first."""
    means = table.groupby("video")[list(MEASURES)].mean()
    scored = {str(name): dict(zip(MEASURES, row, strict=True)) for name, *row in means.itertuples()}
    videos = [VideoRow(name, about, scored.get(name, {})) for name, about in run["videos"].items()]
    return sorted(videos, key=lambda video: (video.means.get("G", math.inf), video.name))


def _looks(out: Path, videos: Sequence[VideoRow]) -> list[tuple[str, str, Row]]:
    """What to look at first in all videos: (video, object, look), the weightiest first."""
    every = [(look, video) for video in videos for look in video.about.get("look", ())]
    every.sort(key=lambda item: (-item[0]["weight"], item[1].name, item[0]["frame"]))
    return [
        (
            video.name,
            object_names(video.about)[look["object"]],
            pictured_look(out, video.name, look),
        )
        for look, video in every[:LOOKS]
    ]


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
