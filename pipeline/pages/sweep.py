"""OUT/sweep.html: the runs of a sweep side by side, in the form of the paper's Table 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.pages.page import Row, dots, line, similarity, until_settled, write_page
from pipeline.paper.published import RETRIEVAL, TABLE_2, likeness
from pipeline.plan.settings import described, run_name
from pipeline.reports import read_run, results, sweep

RHO = "matches.rho_reid"
Paper = Mapping[Any, Sequence[tuple[float, float, float]]]
NAMES = ("Iter. 1", "Iter. 2", "Iter. 3+")
"""rows of the paper's Table 2"""
MEASURES = ("precision", "recall", "G")


def sweep_html(out_dir: str | Path) -> Path:
    """Write OUT/sweep.html, one file that needs no other, and return its path.

    UserError if out_dir holds no sweep, or one of its runs is gone.
    """
    out = Path(out_dir)
    table = sweep(out)
    swept = list(table.columns[: table.columns.get_loc("iteration")])
    values = [dict(zip(swept, row, strict=True)) for row in table[swept].drop_duplicates().values]
    runs = [_run(out, table, value) for value in values]
    paper = {run.value: RETRIEVAL[run.value] for run in runs if run.value in RETRIEVAL}
    paper = paper if swept == [RHO] else {}
    about = read_run(out / runs[0].folder) if runs else None
    changing = until_settled(table)
    return write_page(
        out / "sweep.html",
        "sweep.html",
        about=about,
        profile=described(about["settings"], swept) if about else "",
        axis=_axis(swept, about["settings"]) if about else "",
        likeness=_likeness(about) if about and paper else "",
        swept=swept,
        runs=runs,
        iterations=changing,
        settled=len(changing) < table["iteration"].nunique(),
        paper={
            name: [paper[run.value][n] if run.value in paper else None for run in runs]
            for n, name in enumerate(NAMES)
            if paper
        },
        charts=[_chart(measure, runs, paper, changing) for measure in MEASURES] if runs else [],
        seconds=sum(run.seconds for run in runs),
        longest=max((run.seconds for run in runs), default=0.0) or 1.0,
        videos=_videos(out, runs),
    )


@dataclass(frozen=True)
class RunPart:
    """One run of a sweep."""

    folder: str
    label: str
    """its values as a heading shows them"""
    value: Any
    """of the first swept setting"""
    rows: Mapping[int, Row]
    """of sweep(), by iteration"""
    seconds: float

    def points(self, measure: str, iteration: int) -> float:
        """A measure after an iteration, in %; NaN where this run had fewer."""
        return 100 * self.rows[iteration][measure] if iteration in self.rows else math.nan


@dataclass(frozen=True)
class Chart:
    """A measure over the values of a sweep, as SVG paths on a plane of 100 x 100."""

    measure: str
    low: float
    """% at the lower edge"""
    high: float
    lines: Sequence[tuple[int, str, str]]
    """(iteration, line, its points)"""
    paper: str
    """the paper's last iteration"""


def _axis(swept: Sequence[str], settings: Mapping[str, Any]) -> str:
    """What the values of the runs are: names of settings, and of rho_reid its similarity."""
    names = ", ".join(swept)
    return f"{names}: {similarity(settings)}" if swept == [RHO] else names


def _likeness(about: Mapping[str, Any]) -> str:
    """Whether the paper's Table 2 and these runs are of the same, in sentences."""
    videos = likeness(about["dataset"], about["split"], len(about["videos"]), TABLE_2)
    alike = similarity(about["settings"])
    return videos if alike == "cosine" else f"{videos} Its rho_reid is a cosine, here {alike}."


def _run(out: Path, table: pd.DataFrame, value: Mapping[str, Any]) -> RunPart:
    mine = table[(table[list(value)] == pd.Series(value)).all(axis=1)]
    folder = run_name(value)
    label = str(next(iter(value.values()))) if len(value) == 1 else folder.replace(",", ", ")
    rows = {int(row["iteration"]): row for row in mine.to_dict("records")}
    return RunPart(folder, label, next(iter(value.values())), rows, float(mine["seconds"].sum()))


def _chart(measure: str, runs: Sequence[RunPart], paper: Paper, iterations: Sequence[int]) -> Chart:
    place = MEASURES.index(measure)
    theirs = [paper[run.value][-1][place] if run.value in paper else math.nan for run in runs]
    series = {k: [run.points(measure, k) for run in runs] for k in iterations}
    seen = [y for ys in [*series.values(), theirs] for y in ys if not math.isnan(y)] or [0.0, 100.0]
    low, high = 5 * math.floor(min(seen) / 5), 5 * math.ceil(max(seen) / 5)
    high = max(high, low + 5)

    def placed(ys: Sequence[float]) -> list[tuple[float, float]]:
        step = 100 / max(1, len(ys) - 1)
        return [(n * step, 100 * (high - y) / (high - low)) for n, y in enumerate(ys)]

    lines = [(k, line(placed(ys)), dots(placed(ys))) for k, ys in series.items()]
    return Chart(measure, low, high, lines, line(placed(theirs)))


def _videos(out: Path, runs: Sequence[RunPart]) -> list[tuple[str, Sequence[float], float]]:
    """Videos by how much the values differ: name, final G of every run, the largest gap."""
    columns = {run.label: results(out / run.folder).groupby("video")["G"].mean() for run in runs}
    table = pd.DataFrame(columns)
    gap = (table.max(axis=1) - table.min(axis=1)).sort_values(ascending=False, kind="stable")
    return [(str(video), table.loc[video].tolist(), float(gap[video])) for video in gap.index]
