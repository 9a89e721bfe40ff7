"""Linking: tracklets become one mask tube an object (section 3.2), and templates (3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from stages.boxmask import Window, iou, merge, object_ids, paste, rescaled, tight
from stages.edges import sharpen
from stages.frames import FrameReader
from stages.settings import TubesSettings
from stages.starts import rank
from stages.types import (
    Box,
    Drawn,
    Image,
    IndexMask,
    Linking,
    Offers,
    Probability,
    Tracklet,
)

VERSION = 7

COSINE_LIMIT = 1.0
"""no cosine exceeds it; a similarity above it has evidence in it"""


def link(
    tracklets: Sequence[Tracklet], frames: int, size: tuple[int, int], settings: TubesSettings
) -> Linking:
    """Which tracklet owns each object in each frame.

    frames: T. size: (H, W) px of the frames that the boxes lie in. Greedy, down the order of
    similarity. The best tracklet of an object starts its tube, and a given one always belongs
    to it. Any other is merged unless it contradicts: its mean IoU over shared frames with its
    own object's tube is below settings.contradiction, or with another object's tube above
    settings.rival. A contradictory tracklet is dropped wholly, but for one that contradicts
    only its own object's tube, is more similar than COSINE_LIMIT to a given mask (so of the first
    iteration) and starts where the tube has no mask: it takes the frames around its start that
    the tube lacks. On shared frames the higher order keeps its mask.
    """
    objects = tuple(sorted({t.start.object_id for t in tracklets}))
    owner = np.full((len(objects), frames), -1, np.int32)
    merged = np.zeros(len(tracklets), np.bool_)
    for n in sorted(range(len(tracklets)), key=lambda n: rank(tracklets[n].start)):
        taken = _taken(tracklets[n], tracklets, objects, owner, size, settings)
        if taken is not None:
            merged[n] = True
            owner[objects.index(tracklets[n].start.object_id), taken] = n
    return Linking(objects, owner, merged)


def _taken(
    new: Tracklet,
    tracklets: Sequence[Tracklet],
    objects: Sequence[int],
    owner: npt.NDArray[np.int32],
    size: tuple[int, int],
    settings: TubesSettings,
) -> npt.NDArray[np.intp] | None:
    """Frames that a tracklet takes of those that its object's tube lacks; None if dropped."""
    row = objects.index(new.start.object_id)
    tube = owner[row]
    frames = np.arange(new.first, new.first + len(new.masks))
    free = frames[tube[frames] < 0]
    if new.start.given or not (tube >= 0).any():
        return free
    rivals = (_agreement(new, tracklets, o, size) for r, o in enumerate(owner) if r != row)
    if any(mean is not None and mean > settings.rival for mean in rivals):
        return None
    own = _agreement(new, tracklets, tube, size)
    if own is None or own >= settings.contradiction:
        return free
    if new.iteration == 1 and new.start.similarity > COSINE_LIMIT and tube[new.start.frame] < 0:
        return _run(free, new.start.frame)
    return None


def _run(frames: npt.NDArray[np.intp], around: int) -> npt.NDArray[np.intp]:
    """Those of ascending frames that lie without a gap around one of them."""
    runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    return next(run for run in runs if run[0] <= around <= run[-1])


def _agreement(
    new: Tracklet,
    tracklets: Sequence[Tracklet],
    tube: npt.NDArray[np.int32],
    size: tuple[int, int],
) -> float | None:
    """Mean IoU of a tracklet with a tube (T,) of owners over the frames of both; None without."""
    shared = [
        iou(*_at(new, j), *_at(tracklets[tube[j]], j), size)
        for j in range(new.first, new.first + len(new.masks))
        if tube[j] >= 0
    ]
    return sum(shared) / len(shared) if shared else None


def _at(tracklet: Tracklet, frame: int) -> tuple[Box, Probability]:
    return tracklet.boxes[frame - tracklet.first], tracklet.masks[frame - tracklet.first]


def render(
    linking: Linking,
    tracklets: Sequence[Tracklet],
    first_masks: Mapping[int, IndexMask],
    pictures: FrameReader,
    working: tuple[int, int],
    settings: TubesSettings,
    before: Drawn | None = None,
) -> Iterator[tuple[IndexMask, npt.NDArray[np.float32]]]:
    """The tubes, frame by frame, in the size of the pictures (H, W).

    first_masks: of that size. working: (H, W) px of the frames that the boxes lie in. before:
    tubes of fewer tracklets, the first of these, drawn alike; a frame in which the same ones own
    the objects is not drawn again.
    Yields the index mask (H, W) and the confidence of each object of linking.objects: the
    mean foreground probability over its pixels, 0 where it has none. Overlaps are settled
    by boxmask.merge(). Given masks of a frame are kept to the pixel, with confidence 1.
    """
    read = lru_cache(maxsize=1)(pictures.__getitem__)
    for j in range(len(pictures)):
        owners = linking.owner[:, j]
        if before is not None and np.array_equal(before.linking.owner[:, j], owners):
            yield before.masks[j], before.confidence[j]
            continue
        given = first_masks.get(j)
        known = [] if given is None else object_ids(given)
        windows = {
            i: _window(tracklets[n], j, read, pictures.size, working, settings)
            for i, n in zip(linking.objects, owners, strict=True)
            if n >= 0 and i not in known
        }
        yield merge(windows, linking.objects, pictures.size, given)


def _window(
    tracklet: Tracklet,
    j: int,
    picture: Callable[[int], Image],
    size: tuple[int, int],
    working: tuple[int, int],
    settings: TubesSettings,
) -> Window:
    """A tracklet's mask in frame j, in the `size` (H, W) of the picture."""
    box, mask = _at(tracklet, j)
    box = rescaled(box, working, size)
    y0, x0, p = paste(box, mask, size)
    if settings.edges and p.size:
        cell = math.sqrt((box[2] - box[0]) * (box[3] - box[1])) / len(mask)
        part = picture(j)[y0 : y0 + p.shape[0], x0 : x0 + p.shape[1]]
        p = sharpen(p, part, cell, settings.edges)
    return y0, x0, p


def offers(
    linking: Linking, tracklets: Sequence[Tracklet], settings: TubesSettings, size: tuple[int, int]
) -> Offers:
    """Tight boxes of the tubes' confident masks, by frame, then object (section 3.3).

    Confident: the mean foreground probability of the pixels over 0.5 is at least
    settings.template_confidence.
    """
    rows: list[tuple[int, int, Box, float]] = []
    for j in range(linking.owner.shape[1]):
        for i, n in zip(linking.objects, linking.owner[:, j], strict=True):
            if n < 0:
                continue
            y0, x0, p = paste(*_at(tracklets[n], j), size)
            inside = p > 0.5
            confidence = float(p[inside].mean()) if inside.any() else 0.0
            if inside.any() and confidence >= settings.template_confidence:
                shift = np.array([x0, y0, x0, y0], np.float32)
                rows.append((j, i, tight(inside) + shift, confidence))
    return Offers(
        np.array([r[0] for r in rows], np.int32),
        np.array([r[1] for r in rows], np.int32),
        np.array([r[2] for r in rows], np.float32).reshape(-1, 4),
        np.array([r[3] for r in rows], np.float32),
    )
