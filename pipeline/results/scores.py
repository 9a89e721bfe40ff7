"""Tables of scores: per frame, per object, per set, and the official two CSVs.

Everything is made from the scores of single frames and objects (FRAMES, in a run), so that no
two figures can disagree.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.results.files import write_text
from stages.scores import Scores, aggregate

if TYPE_CHECKING:
    import pandas as pd

    Table = pd.DataFrame | Mapping[str, Sequence[Any]]
    """columns by name; scoring a folder takes less time than importing pandas"""

FRAMES = {
    "video": "str",
    "frame": "int64",
    "object": "int64",
    "iteration": "int64",
    "J": "float64",
    "F": "float64",
    "scored": "bool",
}
"""columns of scores/frames.csv; frame counts from 0, scored: counts towards the means"""
RESULTS = {
    "video": "str",
    "object": "int64",
    "frames": "int64",
    "J_mean": "float64",
    "J_recall": "float64",
    "J_decay": "float64",
    "F_mean": "float64",
    "F_recall": "float64",
    "F_decay": "float64",
    "G": "float64",
}
"""columns of results(); frames: how many were scored"""
MEASURES = tuple(name for name, kind in RESULTS.items() if kind == "float64")


def frame_table(
    video: str, iteration: int, scores: Scores, counts: Callable[[int], bool]
) -> pd.DataFrame:
    """Scores of a video's iteration as rows of FRAMES; counts: whether a frame counts."""
    import pandas as pd

    frames = {
        "video": video,
        "frame": scores.frames,
        "object": scores.objects,
        "iteration": iteration,
        "J": scores.j,
        "F": scores.f,
        "scored": [counts(int(frame)) for frame in scores.frames],
    }
    return pd.DataFrame(frames).astype(FRAMES)


def join_frames(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of FRAMES below one another; an empty one where there are none."""
    import pandas as pd

    empty = pd.DataFrame({name: [] for name in FRAMES}).astype(FRAMES)
    return pd.concat(tables, ignore_index=True) if tables else empty


def last_iteration(frames: pd.DataFrame) -> pd.DataFrame:
    """Rows of each video's last iteration."""
    return frames[frames["iteration"] == frames.groupby("video")["iteration"].transform("max")]


def results(frames: pd.DataFrame) -> pd.DataFrame:
    """RESULTS of one iteration as object_results() has them.

    frames: rows of FRAMES, all of one iteration.
    """
    import pandas as pd

    scored = frames[frames["scored"]].sort_values("frame")
    found = {
        str(video): Scores(*(part[name].to_numpy() for name in ("frame", "object", "J", "F")))
        for video, part in scored.groupby("video")
    }
    return pd.DataFrame(object_results(found)).astype(RESULTS)


def object_results(
    found: Mapping[str, Scores], *, official_decay: bool = False
) -> dict[str, list[Any]]:
    """Columns of RESULTS: a row for each video and object, in order of both.

    found: scores of the frames that count, by video, in order of frames. G is the mean of
    J_mean and F_mean. official_decay: as stages.scores.aggregate().
    """
    rows = [
        _result(video, i, found[video], official_decay)
        for video in sorted(found)
        for i in np.unique(found[video].objects).tolist()
    ]
    return {name: [row[n] for row in rows] for n, name in enumerate(RESULTS)}


def _result(video: str, i: int, scores: Scores, official_decay: bool) -> tuple[Any, ...]:
    """A row of RESULTS."""
    mine = scores.objects == i
    j, f = (aggregate(v[mine], official_decay=official_decay) for v in (scores.j, scores.f))
    measured = (j.mean, j.recall, j.decay, f.mean, f.recall, f.decay, (j.mean + f.mean) / 2)
    return (video, i, int(mine.sum()), *measured)


def totals(table: Table, average: str = "objects") -> dict[str, float]:
    """Means of RESULTS over a set, by column (J_mean ... G); NaN where there are no rows."""
    kinds = np.array([category(video) for video in table["video"]])

    def mean(values: npt.NDArray[np.float64]) -> float:
        if average == "categories":
            values = np.array([_mean(values[kinds == kind]) for kind in np.unique(kinds)])
        return _mean(values)

    return {name: mean(np.array(table[name], np.float64)) for name in MEASURES}


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def category(video: str) -> str:
    """The kind of object a video shows, by its name: `cat_0001` shows a cat."""
    return re.split(r"[-_]?\d", video)[0] or video


def write_official(table: Table, split: str, folder: Path, average: str) -> None:
    """Write official() into a folder."""
    for name, text in official(table, split, average).items():
        write_text(folder / name, text)


def official(table: Table, split: str, average: str) -> dict[str, str]:
    """Text of global_results-SPLIT.csv and per-sequence_results-SPLIT.csv, by name.

    Columns, order and rounding are those of the official tool.
    """
    means = totals(table, average)
    overall = {"J&F-Mean": means["G"]} | {
        f"{measure}-{name.capitalize()}": means[f"{measure}_{name}"]
        for measure in "JF"
        for name in ("mean", "recall", "decay")
    }
    columns = (table[name] for name in ("video", "object", "J_mean", "F_mean"))
    each = [
        (f"{video}_{i}", _digits(j), _digits(f)) for video, i, j, f in zip(*columns, strict=True)
    ]
    return {
        f"global_results-{split}.csv": _csv(overall, [map(_digits, overall.values())]),
        f"per-sequence_results-{split}.csv": _csv(("Sequence", "J-Mean", "F-Mean"), each),
    }


def _digits(value: float) -> str:
    """Three decimals; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.3f}"


def _csv(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()
