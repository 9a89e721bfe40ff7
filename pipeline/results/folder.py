"""Scores of a folder of masks, whoever made them (`dyenet score`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.datasets.rules import Rule, objects_of
from pipeline.errors import UserError
from pipeline.results.scores import object_results, write_official
from stages.boxmask import is_wide
from stages.frames import Layers, mask_files, picture_size, read_index_mask
from stages.scores import Scores, score_video, unknown_ids
from stages.types import IndexMask

if TYPE_CHECKING:
    from pipeline.datasets import Dataset, Video


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
    size = _size(video)
    given = [
        read_index_mask(source, size, video.name, names[n], given=True)
        for n, source in video.first_masks.items()
    ]
    objects, wide = objects_of(given, rule), is_wide(given)
    read = partial(read_index_mask, size=size, video=video.name, wide=wide)
    scores = score_video(
        (_predicted(predicted, video, n, read, objects) for n in counted),
        lambda k: read(truths[counted[k]], frame=names[counted[k]]),
        objects,
    )
    return replace(scores, frames=np.array(counted, np.int32)[scores.frames])


def _predicted(
    folder: Path, video: Video, n: int, read: Callable[..., IndexMask], objects: Sequence[int]
) -> IndexMask:
    """The mask to score in frame n; read: read_index_mask() for this video."""
    name = video.frame_names[n]
    path = folder / video.name / f"{name}.png"
    where = f"video {video.name}, frame {name}"
    if not path.is_file():
        raise UserError(f"{where}: there is no mask {path}; every annotated frame needs one")
    mask = read(path, frame=name)
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
    scales = not isinstance(source, Path | Layers) or (isinstance(source, Layers) and source.scaled)
    if scales and isinstance(video.frames, tuple):
        path = video.frames[first]
    return picture_size(path, f"video {video.name}, frame {video.frame_name(first)}")
