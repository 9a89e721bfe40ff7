"""Tables of scores: per frame, per object, per set, and the official two CSVs.

Everything is made from the scores of single frames and objects (FRAMES, in a run), so that no
two figures can disagree.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cache.files import write_file
from pipeline.errors import UserError
from stages.boxmask import all_ids
from stages.frames import BadInput, Layers, mask_files, picture_size, read_index_mask
from stages.scores import Scores, aggregate, score_video, unknown_ids
from stages.types import IndexMask

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.datasets import Dataset, Video

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


@dataclass(frozen=True)
class Rule:
    """Which frames count, and what the mean over a set is taken over."""

    frames: str
    """inner: all but a video's first and last (DAVIS); later: all without a given mask; all"""
    average: str = "objects"
    """objects; or categories: objects of one kind first (`cat_0001`, `cat_0002`: cat)"""

    def __post_init__(self) -> None:
        if self.frames not in ("inner", "later", "all"):
            raise UserError(f"scored frames {self.frames!r}: must be inner, later or all")
        if self.average not in ("objects", "categories"):
            raise UserError(f"average over {self.average!r}: must be objects or categories")

    def counts(self, frame: int, total: int, given: Iterable[int]) -> bool:
        """Whether a frame counts in a video of `total` frames with masks given in some."""
        if self.frames == "inner":
            return 0 < frame < total - 1
        return self.frames == "all" or frame not in given

    def __str__(self) -> str:
        frames = {
            "inner": "all annotated frames but each video's first and last",
            "later": "all annotated frames without a given mask",
            "all": "all annotated frames",
        }
        return f"{frames[self.frames]}; mean over {self.average}"


def rule_of(dataset: str) -> Rule:
    """The rule a dataset is scored by: DAVIS's for its layouts, else every frame not given."""
    return Rule("inner" if dataset in ("davis16", "davis17", "demo") else "later")


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
    """Write global_results-SPLIT.csv and per-sequence_results-SPLIT.csv into a folder.

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
    _write_rows(folder / f"global_results-{split}.csv", overall, [map(_digits, overall.values())])
    _write_rows(
        folder / f"per-sequence_results-{split}.csv", ("Sequence", "J-Mean", "F-Mean"), each
    )


def _digits(value: float) -> str:
    """Three decimals; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.3f}"


def _write_rows(path: Path, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_text(path, text.getvalue())


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table whole or not at all, with every digit."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; UserError if the place cannot be written to."""
    try:
        write_file(path, text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def objects_of(masks: Iterable[IndexMask], rule: Rule) -> tuple[int, ...]:
    """The objects to score, by the masks given for a video.

    DAVIS (rule.frames inner) counts to the highest ID, whether or not each one is there.
    """
    ids = all_ids(masks)
    return tuple(range(1, max(ids, default=0) + 1) if rule.frames == "inner" else ids)


def score_folder(
    predicted: Path, dataset: Dataset, output: Path, rule: Rule, *, official_decay: bool = False
) -> dict[str, list[Any]]:
    """Score masks of any program and write the official two CSVs into `output`.

    predicted holds `<video>/<frame name>.png`. Videos are scored in parallel processes.
    official_decay: as stages.scores.aggregate(). Returns object_results(). UserError, before
    anything is written, if a mask that counts is missing, unreadable, of another size or in
    colour, or holds an unknown object.
    """
    workers = min(len(dataset.videos), _cores())
    score = partial(_score, predicted=predicted, rule=rule)
    if workers > 1:
        # Not forked from here: that would inherit OpenCV's threads in a state that can hang.
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__])
        with ProcessPoolExecutor(workers, context, _one_thread) as pool:
            scores = list(pool.map(score, dataset.videos))
    else:
        scores = [score(video) for video in dataset.videos]
    names = (video.name for video in dataset.videos)
    found = dict(zip(names, scores, strict=True))
    table = object_results(found, official_decay=official_decay)
    write_official(table, dataset.split, output, rule.average)
    return table


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _score(video: Video, predicted: Path, rule: Rule) -> Scores:
    """Scores of one video's frames that count."""
    if not video.annotations:
        raise UserError(
            f"video {video.name}: its dataset has no annotations to score against; the folder of "
            "masks is itself what the benchmark's server takes"
        )
    names, truths = video.frame_names, video.annotations
    counted = [n for n in sorted(truths) if rule.counts(n, len(names), video.first_masks)]
    try:
        size = _size(video)
        given = [
            read_index_mask(source, size, video.name, names[n], given=True)
            for n, source in video.first_masks.items()
        ]
        objects = objects_of(given, rule)
        scores = score_video(
            (_predicted(predicted, video, n, size, objects) for n in counted),
            lambda k: read_index_mask(truths[counted[k]], size, video.name, names[counted[k]]),
            objects,
        )
    except BadInput as error:
        raise UserError(str(error)) from error
    return replace(scores, frames=np.array(counted, np.int32)[scores.frames])


def _predicted(
    folder: Path, video: Video, n: int, size: tuple[int, int], objects: Sequence[int]
) -> IndexMask:
    """The mask to score in frame n."""
    name = video.frame_names[n]
    path = folder / video.name / f"{name}.png"
    where = f"video {video.name}, frame {name}"
    if not path.is_file():
        raise UserError(f"{where}: there is no mask {path}; every annotated frame needs one")
    mask = read_index_mask(path, size, video.name, name)
    extra = unknown_ids(mask, objects)
    if extra:
        raise UserError(
            f"{where}: {path} holds object {extra[0]}, but the given masks have only "
            f"{', '.join(map(str, objects))}; renumber the objects or set those pixels to 0"
        )
    return mask


def _size(video: Video) -> tuple[int, int]:
    """(H, W) px that a video is scored in: its first mask's, or its frames' where masks scale."""
    first = min(video.first_masks)
    source = video.first_masks[first]
    path = mask_files(source)[0]
    if isinstance(source, Layers) and source.scaled and isinstance(video.frames, tuple):
        path = video.frames[first]
    return picture_size(path, f"video {video.name}, frame {video.frame_name(first)}")
