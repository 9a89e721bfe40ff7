"""Results of a run as tables, and OUT/report.html made from them.

The functions read what export wrote below OUT and need nothing else:

    from pipeline.reports import results
    results("runs/davis16-val-dyenet").groupby("video")["G"].mean()
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from pipeline import scoring
from pipeline.errors import UserError
from pipeline.export import ITERATIONS, STARTS, pictured
from pipeline.overlays import colour
from pipeline.scoring import FRAMES, Rule, last_iteration, totals, write_text

PAPER: dict[tuple[str, str], tuple[tuple[str, str, float | None, float | None, float | None], ...]]
PAPER = {
    ("davis16", "val"): (
        ("dyenet", "DyeNet, offline", 84.7, None, None),
        ("dyenet", "DyeNet, online", 86.2, None, None),
        ("msk", "MSK, ResNet-101", 78.7, None, None),
    ),
    ("davis17", "val"): (
        ("dyenet", "DyeNet, offline", None, None, 74.1),
        ("remp", "Re-MP", 67.3, 71.0, 69.1),
        ("remp-no-attention", "Re-MP, no attention", 65.3, 69.7, 67.5),
        ("msk", "MSK, ResNet-101", 63.3, 67.2, 65.3),
    ),
    ("davis17", "test-dev"): (
        ("dyenet", "DyeNet, offline", 60.2, 64.8, 62.5),
        ("dyenet", "DyeNet, online", 65.8, 70.5, 68.2),
        ("remp", "Re-MP, online", 59.1, 62.8, 61.0),
        ("remp-no-attention", "Re-MP, no attention, online", 55.4, 60.5, 58.0),
        ("msk", "MSK, ResNet-101, online", 50.9, 52.6, 51.7),
    ),
    ("segtrackv2", "all"): (
        ("dyenet", "DyeNet, offline", 78.3, None, None),
        ("dyenet", "DyeNet, online", 78.7, None, None),
    ),
    ("youtube-objects", "all"): (
        ("dyenet", "DyeNet, offline", 74.9, None, None),
        ("dyenet", "DyeNet, online", 79.6, None, None),
    ),
}
"""the paper's J, F and G (Tables 1 to 5) by dataset and split: variant, name, figures in %"""

Row = Mapping[Hashable, Any]
"""a row of a table by column"""

PER_ITERATION = {
    **{name: kind for name, kind in ITERATIONS.items() if name not in ("video", "J", "F", "G")},
    "precision": "float64",
    "recall": "float64",
    "J": "float64",
    "F": "float64",
    "G": "float64",
}
"""columns of per_iteration()"""


def per_frame(out_dir: str | Path) -> pd.DataFrame:
    """J and F of every annotated frame, object and iteration.

    Columns (scoring.FRAMES): video str; frame int64, from 0; object int64; iteration int64,
    from 1; J, F float64 0..1; scored bool, whether the frame counts towards the means.
    Empty without annotations. UserError if out_dir holds no run.
    """
    return _table(Path(out_dir), "frames.csv", FRAMES)


def results(out_dir: str | Path) -> pd.DataFrame:
    """Final scores, a row for each video and object.

    Columns (scoring.RESULTS): video str; object, frames int64; J_mean, J_recall, J_decay,
    F_mean, F_recall, F_decay, G float64 as fractions. Empty without annotations. UserError
    if out_dir holds no run.
    """
    return scoring.results(last_iteration(per_frame(out_dir)))


def per_iteration(out_dir: str | Path) -> pd.DataFrame:
    """Retrieval and scores after each iteration, over the whole set (Table 2).

    Columns (PER_ITERATION): iteration int64; objects int64; correct, retrieved, found,
    visible int64, counts of starting points as in stages.scores.StartCounts; precision,
    recall, J, F, G float64 as fractions, NaN where nothing was counted. Empty without
    annotations. UserError if out_dir holds no run.
    """
    out = Path(out_dir)
    counts = _table(out, "iterations.csv", ITERATIONS)
    frames = per_frame(out)
    average = _rule(_run(out)).average if len(counts) else ""
    rows = []
    for k, part in counts.groupby("iteration"):
        sums = {name: int(part[name].sum()) for name in list(ITERATIONS)[2:7]}
        means = totals(scoring.results(frames[frames["iteration"] == k]), average)
        precision = _share(sums["correct"], sums["retrieved"])
        recall = _share(sums["found"], sums["visible"])
        measured = means["J_mean"], means["F_mean"], means["G"]
        rows.append((k, *sums.values(), precision, recall, *measured))
    return pd.DataFrame(rows, columns=list(PER_ITERATION)).astype(PER_ITERATION)


def starts(out_dir: str | Path) -> pd.DataFrame:
    """Every starting point and the tracklet it became.

    Columns (export.STARTS): video str; iteration, object, frame int64; similarity float64;
    given bool; first, last Int64, the tracklet's span, missing where it was skipped; merged
    bool. UserError if out_dir holds no run.
    """
    return _table(Path(out_dir), "starts.csv", STARTS)


def report_html(out_dir: str | Path) -> Path:
    """Write OUT/report.html, one file that needs no other, and return its path.

    UserError if out_dir holds no run.
    """
    out = Path(out_dir)
    run = _run(out)
    frames, table = last_iteration(per_frame(out)), results(out)
    begun, rule = starts(out), _rule(run)
    means = totals(table, rule.average)
    videos = [
        _video(out, name, about, *(t[t["video"] == name] for t in (frames, table, begun)))
        for name, about in run["videos"].items()
    ]
    videos.sort(key=lambda video: (video.means.get("G", math.inf), video.name))
    page = _template().render(
        run=run,
        rule=rule,
        scored=bool(len(table)),
        videos=videos,
        objects=sum(len(video.objects) for video in videos),
        frames=sum(video.frames for video in videos),
        means=means,
        paper=PAPER.get((run["dataset"], run["split"]), ()),
        iterations=per_iteration(out).to_dict("records"),
        stages=_stages(run),
        settings=_settings(run),
    )
    path = out / "report.html"
    write_text(path, page)
    return path


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
    """An object's tracklets: bars, and the starting points on them."""

    object: int
    bars: Sequence[Row]
    points: Sequence[Row]


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
) -> VideoPart:
    scored = sorted(int(i) for i in frames["object"].unique())
    curves = {
        measure: [_curve(i, frames[frames["object"] == i], begun, measure) for i in scored]
        for measure in "JF"
    }
    lanes = [_lane(i, begun[begun["object"] == i]) for i in about["objects"]]
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
            data = base64.b64encode(path.read_bytes()).decode()
            found.append((label, f"data:image/jpeg;base64,{data}"))
    return found


def _curve(i: int, frames: pd.DataFrame, begun: pd.DataFrame, measure: str) -> Curve:
    points = {
        int(frame): f"{frame} {100 - 100 * value:.1f}"
        for frame, value in sorted(zip(frames["frame"], frames[measure], strict=True))
    }
    marked = begun[(begun["object"] == i) & begun["frame"].isin(points.keys())]
    # Lines of no length: drawn with caps, they stay round however the plot is stretched.
    given, retrieved = (
        "".join(f"M{points[frame]}h0" for frame in sorted(set(part["frame"])))
        for part in (marked[marked["given"]], marked[~marked["given"]])
    )
    return Curve(i, "M" + "L".join(points.values()), given, retrieved)


def _lane(object_id: int, begun: pd.DataFrame) -> Lane:
    # What linking kept is drawn last, over what it dropped.
    kept = begun.sort_values("merged", kind="stable")
    return Lane(
        object_id,
        kept[kept["first"].notna()].to_dict("records"),
        kept.assign(skipped=kept["first"].isna()).to_dict("records"),
    )


def _stages(run: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Stages by time taken: name, seconds over all videos, share of the longest."""
    spent: dict[str, float] = {}
    for about in run["videos"].values():
        for stage, seconds in about["seconds"].items():
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


def _table(out: Path, name: str, columns: Mapping[str, str]) -> pd.DataFrame:
    path = out / "scores" / name
    if not path.exists():
        _run(out)
        return pd.DataFrame({column: [] for column in columns}).astype(dict(columns))
    # As text first: a video may be called 007 or NA, and floats are to keep every digit.
    text = {c: "str" if kind == "float64" else kind for c, kind in columns.items()}
    empty = {c: [""] for c, kind in columns.items() if kind != "str"}
    table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=empty)
    return table.astype(dict(columns))


def _run(out: Path) -> dict[str, Any]:
    path = out / "run.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no run to report on; give the --output of a run") from error


def _rule(run: Mapping[str, Any]) -> Rule:
    return Rule(**run["rule"])


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = _percent
    environment.filters["duration"] = _duration
    environment.filters["colour"] = colour
    return environment.get_template("report_template.html")


def _percent(fraction: float | None) -> str:
    """61.3 of 0.613; nothing where it was not measured."""
    if fraction is None or math.isnan(fraction):
        return ""
    return f"{round(100 * fraction, 1) + 0.0:.1f}"


def _duration(seconds: float) -> str:
    """2.4 s, 3 min 20 s, 1 h 12 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
