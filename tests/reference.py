"""Naive references of the stages: plain loops over pixels and lists, from the paper's text.

They share no code with the stages. Masks are lists or arrays of bytes, boxes are plain
(x0, y0, x1, y1); everything is computed in Python floats. The last part is the official
DAVIS 2017 tool's arithmetic, as that tool does it: whole frames, one object at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage


def value_at(box: Sequence[float], mask: Any, x: float, y: float) -> float:
    """Bilinear probability of a box mask at a point of the frame; zero beyond its cells."""
    s = len(mask)
    x0, y0, x1, y1 = (float(v) for v in box)
    column = (x - x0) / (x1 - x0) * s - 0.5
    row = (y - y0) / (y1 - y0) * s - 0.5
    total = 0.0
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < s and 0 <= c < s:
                weight = (1 - abs(row - r)) * (1 - abs(column - c))
                total += weight * float(mask[r][c]) / 255
    return total


def frame_of(box: Any, mask: Any, size: tuple[int, int]) -> np.ndarray:
    """A box mask over the whole frame, pixel by pixel."""
    result = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            result[y, x] = value_at(box, mask, x + 0.5, y + 0.5)
    return result


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two frames of probabilities cut at 0.5; 0 where both are empty."""
    both = either = 0
    for p, q in zip(a.ravel(), b.ravel(), strict=True):
        both += p > 0.5 and q > 0.5
        either += p > 0.5 or q > 0.5
    return both / either if either else 0.0


def cut_out(mask: np.ndarray, object_id: int, margin: float, s: int) -> tuple[list[float], Any]:
    """RoI box of an object, and the share of each cell that it covers times 255.

    The mask's border goes on beyond it, as far as the box reaches.
    """
    ys = [y for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x] == object_id]
    xs = [x for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x] == object_id]
    x0, y0, x1, y1 = min(xs), min(ys), max(xs) + 1, max(ys) + 1
    w, h = (x1 - x0) * margin, (y1 - y0) * margin
    box = [x0 - w, y0 - h, x1 + w, y1 + h]
    cell_w, cell_h = (box[2] - box[0]) / s, (box[3] - box[1]) / s
    cells = [[0.0] * s for _ in range(s)]
    beyond = math.ceil(max(w, h))
    wide = np.pad(mask == object_id, beyond, mode="edge")
    places = np.argwhere(wide) - beyond
    for r in range(s):
        for c in range(s):
            left, top = box[0] + c * cell_w, box[1] + r * cell_h
            for y, x in places.tolist():
                across = min(left + cell_w, x + 1) - max(left, x)
                down = min(top + cell_h, y + 1) - max(top, y)
                if across > 0 and down > 0:
                    cells[r][c] += across * down / (cell_w * cell_h) * 255
    return box, cells


def composite(
    probabilities: Mapping[int, np.ndarray],
    objects: Sequence[int],
    size: tuple[int, int],
    given: np.ndarray | None,
) -> tuple[np.ndarray, list[float], np.ndarray]:
    """background = prod(1 - p), normalise, argmax, pixel by pixel.

    Third: where the winner leads by so little that rounding may decide otherwise.
    """
    index = np.zeros(size, np.uint8)
    close = np.zeros(size, bool)
    values: dict[int, list[float]] = {i: [] for i in objects}
    fixed = [] if given is None else [i for i in objects if i in given]
    for y in range(size[0]):
        for x in range(size[1]):
            if given is not None and given[y, x] in fixed:
                index[y, x] = given[y, x]
                values[int(given[y, x])].append(1.0)
                continue
            shares = {0: 1.0}
            for i in objects:
                if i in probabilities and i not in fixed:
                    shares[i] = float(probabilities[i][y, x])
                    shares[0] *= 1 - shares[i]
            total = sum(shares.values())
            winner = max(sorted(shares), key=lambda i: shares[i])
            index[y, x] = winner
            rest = [v for i, v in shares.items() if i != winner]
            close[y, x] = bool(rest) and shares[winner] - max(rest) < 1e-4
            if winner:
                values[winner].append(shares[winner] / total)
    return index, [sum(v) / len(v) if v else 0.0 for v in values.values()], close


def order(starts: Sequence[Any]) -> list[int]:
    """Given masks, then descending similarity; ties by frame, then object."""
    return sorted(
        range(len(starts)),
        key=lambda n: (
            0 if starts[n].given else 1,
            -starts[n].similarity,
            starts[n].frame,
            starts[n].object_id,
        ),
    )


def mask_of(tracklet: Any, frame: int, size: tuple[int, int]) -> np.ndarray:
    k = frame - tracklet.first
    return frame_of(tracklet.boxes[k], tracklet.masks[k], size)


def is_covered(start: Any, tracklets: Sequence[Any], limit: float, size: tuple[int, int]) -> bool:
    for t in tracklets:
        frames = range(t.first, t.first + len(t.masks))
        if t.start.object_id == start.object_id and start.frame in frames:
            mine = frame_of(start.box, start.mask, size)
            if overlap(mine, mask_of(t, start.frame, size)) > limit:
                return True
    return False


def accept(
    starts: Sequence[Any],
    accepted: Sequence[Any],
    grow: Callable[[Any], Any],
    limit: float,
    size: tuple[int, int],
    frames: int,
) -> list[Any]:
    """One after the other: skip what is covered or settled, propagate the rest."""
    kept = list(accepted)
    for start in starts:
        mine = [t for t in kept if t.start.given and t.start.object_id == start.object_id]
        settled = all(any(t.covers(j) for t in mine) for j in range(frames))
        if start.given or not (settled or is_covered(start, kept, limit, size)):
            kept.append(shortened(grow(start), kept, size))
    return kept


def shortened(tracklet: Any, kept: Sequence[Any], size: tuple[int, int]) -> Any:
    """A retrieved tracklet without what follows three frames that are held already, either way."""
    start = tracklet.start

    def held(j: int) -> bool:
        there = [t for t in kept if t.covers(j)]
        mine = mask_of(tracklet, j, size)
        return any(
            t.start.object_id == start.object_id or overlap(mine, mask_of(t, j, size)) > 0.5
            for t in there
        )

    def last(frames: Sequence[int]) -> int:
        run = 0
        for j in frames:
            run = run + 1 if held(j) else 0
            if run == 3:
                return j
        return frames[-1] if frames else start.frame

    if start.given:
        return tracklet
    end = tracklet.first + len(tracklet.masks)
    a = last(range(start.frame - 1, tracklet.first - 1, -1))
    b = last(range(start.frame + 1, end))
    part = slice(a - tracklet.first, b - tracklet.first + 1)
    return replace(tracklet, first=a, boxes=tracklet.boxes[part], masks=tracklet.masks[part])


def extend(
    start: Any,
    known: Sequence[Any],
    networks: Any,
    features: Any,
    flow: Any,
    ratio: float,
    least: float,
    plain: bool,
) -> tuple[int, list[Any], list[Any]]:
    """One starting point, one object, one frame at a time: first frame, boxes, masks."""

    def go(frames: Sequence[int], flow_of: Callable[[int], Any]) -> list[tuple[Any, Any]]:
        i = start.frame
        boxes, masks = start.box[None], start.mask[None]
        read = features.coarse(i), features.fine(i)
        state = networks.start(*read, boxes, masks, plain=plain, given=known)
        least_area = max(least, ratio * float(state.areas[0]))
        result = []
        for j in frames:
            f, fine = features.coarse(j), features.fine(j)
            state = networks.step(state, f, fine, flow_of(j), plain=plain)
            if not state.alive[0] or float(state.areas[0]) < least_area:
                break
            result.append((state.boxes[0], state.masks[0]))
        return result

    after = go(range(start.frame + 1, len(features)), flow.to_previous)
    before = go(range(start.frame - 1, -1, -1), flow.to_next)
    whole = [*reversed(before), (start.box, start.mask), *after]
    return start.frame - len(before), [b for b, _ in whole], [m for _, m in whole]


def agreement(
    tracklet: Any, tracklets: Sequence[Any], tube: Sequence[int], size: tuple[int, int]
) -> float | None:
    """Mean IoU of a tracklet with a tube's owners (T,), -1 none; None if they share no frame."""
    values = [
        overlap(mask_of(tracklet, j, size), mask_of(tracklets[tube[j]], j, size))
        for j in range(tracklet.first, tracklet.first + len(tracklet.masks))
        if tube[j] >= 0
    ]
    return sum(values) / len(values) if values else None


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def expanded(
    known: Mapping[int, list[Any]],
    offered: Sequence[tuple[int, int, float, Any]],
    given: set[tuple[int, int]],
    rho: float,
    count: int,
    gap: int,
) -> dict[int, list[Any]]:
    """Templates by object: the given ones and confirmed offers (frame, object, conf, vector)."""
    gallery = {i: list(v) for i, v in known.items()}
    taken: dict[int, list[int]] = {i: [] for i in gallery}
    for frame, i, _, vector in sorted(offered, key=lambda o: (-o[2], o[0])):
        if (frame, i) in given or len(taken[i]) >= count:
            continue
        if any(abs(frame - k) < gap for k in taken[i]):
            continue
        mine = max(cosine(v, vector) for v in gallery[i])
        others = [cosine(v, vector) for k, vs in gallery.items() if k != i for v in vs]
        if mine >= rho and all(mine >= other for other in others):
            gallery[i].append(vector)
            taken[i].append(frame)
    return gallery


def retrieved(
    vectors: Any,
    evidence: Any,
    gallery: Mapping[int, list[Any]],
    given: Sequence[int],
    rho: float,
    weight: float,
    every: bool = False,
) -> list[tuple[int, int, float]]:
    """(object, proposal, similarity) of one frame; every: of all proposals over rho."""
    best: dict[int, tuple[int, float]] = {}
    found = []
    for n, vector in enumerate(vectors):
        scores = {
            i: max(cosine(vector, t) for t in gallery[i]) + weight * float(evidence[n][column])
            for column, i in enumerate(sorted(gallery))
        }
        winner = max(sorted(scores), key=lambda i: scores[i])
        if scores[winner] > rho:
            found.append((winner, n, scores[winner]))
        if scores[winner] > rho and (winner not in best or scores[winner] > best[winner][1]):
            best[winner] = (n, scores[winner])
    if every:
        return sorted(found, key=lambda row: row[:2])
    return [(i, n, s) for i, (n, s) in sorted(best.items()) if i not in given]


# --- J and F by their definition ------------------------------------------------------

Binary = npt.NDArray[np.bool_]
Pixels = set[tuple[int, int]]


def naive_jf(predicted: Binary, truth: Binary) -> tuple[float, float]:
    """J and F of two masks (H, W), pixel by pixel in plain Python."""
    height, width = truth.shape
    a, b = ({(int(y), int(x)) for y, x in np.argwhere(mask)} for mask in (predicted, truth))
    if not a | b:
        return 1.0, 1.0
    j = len(a & b) / len(a | b)
    edge_a, edge_b = naive_boundary(a, height, width), naive_boundary(b, height, width)
    if not edge_a or not edge_b:
        return j, float(len(edge_a) == len(edge_b))
    radius = math.ceil(0.008 * math.hypot(height, width))
    precision = len(naive_near(edge_a, edge_b, radius)) / len(edge_a)
    recall = len(naive_near(edge_b, edge_a, radius)) / len(edge_b)
    if precision + recall == 0:
        return j, 0.0
    return j, 2 * precision * recall / (precision + recall)


def naive_boundary(inside: Pixels, height: int, width: int) -> Pixels:
    """Pixels of which a neighbour to the right, below or both is on the other side."""
    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        for down, right in ((0, 1), (1, 0), (1, 1))
        if ((y, x) in inside) != ((min(y + down, height - 1), min(x + right, width - 1)) in inside)
    }


def naive_near(some: Pixels, others: Pixels, radius: int) -> Pixels:
    """Those of some pixels that lie within `radius` px of another."""
    return {
        (y, x) for y, x in some if any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others)
    }


# --- the official DAVIS 2017 tool ------------------------------------------------


def official_j(truth: Binary, predicted: Binary) -> npt.NDArray[np.float64]:
    """db_eval_iou: (T, H, W) each to (T,); 1 where both are empty."""
    truth, predicted = truth.astype(bool), predicted.astype(bool)
    void = np.zeros_like(predicted)
    shared = np.sum((predicted & truth) & np.logical_not(void), axis=(-2, -1))
    union = np.sum((predicted | truth) & np.logical_not(void), axis=(-2, -1))
    with np.errstate(invalid="ignore"):
        j = shared / union
    j[np.isclose(union, 0)] = 1
    return np.asarray(j, np.float64)


def official_f(
    truth: Binary, predicted: Binary, dilated: Callable[[Binary, Binary], Any]
) -> npt.NDArray[np.float64]:
    """db_eval_boundary: (T, H, W) each to (T,); dilated: by_scipy or by_opencv."""
    return np.array([_official_f(p, t, dilated) for p, t in zip(predicted, truth, strict=True)])


def _official_f(
    predicted: Binary, truth: Binary, dilated: Callable[[Binary, Binary], Any]
) -> float:
    """f_measure of one frame."""
    void = np.zeros_like(predicted).astype(bool)
    radius = int(np.ceil(0.008 * np.linalg.norm(predicted.shape)))
    mine = official_boundary(predicted * np.logical_not(void))
    theirs = official_boundary(truth * np.logical_not(void))
    near_mine, near_theirs = dilated(mine, disk(radius)), dilated(theirs, disk(radius))
    match_theirs, match_mine = theirs * near_mine, mine * near_theirs
    n_mine, n_theirs = np.sum(mine), np.sum(theirs)
    if n_mine == 0 and n_theirs > 0:
        precision, recall = 1.0, 0.0
    elif n_mine > 0 and n_theirs == 0:
        precision, recall = 0.0, 1.0
    elif n_mine == 0 and n_theirs == 0:
        precision, recall = 1.0, 1.0
    else:
        precision = float(np.sum(match_mine) / float(n_mine))
        recall = float(np.sum(match_theirs) / float(n_theirs))
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def official_boundary(mask: Binary) -> Binary:
    """seg2bmap: boundaries one pixel wide, half a pixel towards the origin."""
    mask = mask.astype(bool)
    mask[mask > 0] = True
    east, south, corner = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    east[:, :-1] = mask[:, 1:]
    south[:-1] = mask[1:]
    corner[:-1, :-1] = mask[1:, 1:]
    edge = mask ^ east | mask ^ south | mask ^ corner
    edge[-1] = mask[-1] ^ east[-1]
    edge[:, -1] = mask[:, -1] ^ south[:, -1]
    edge[-1, -1] = False
    return edge


def disk(radius: int) -> Binary:
    """skimage.morphology.disk."""
    steps = np.arange(-radius, radius + 1)
    x, y = np.meshgrid(steps, steps)
    return x**2 + y**2 <= radius**2


def by_scipy(boundary: Binary, around: Binary) -> Any:
    """Dilation that shares nothing with OpenCV."""
    return ndimage.binary_dilation(boundary, around)


def by_opencv(boundary: Binary, around: Binary) -> Any:
    """Dilation as the official tool does it."""
    return cv2.dilate(boundary.astype(np.uint8), around.astype(np.uint8))


def official_statistics(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """db_statistics: mean, recall and decay, the quarters' edges in 8 bits."""
    exact = np.round(np.linspace(1, len(values), 5) + 1e-10) - 1
    # The tool was written for NumPy 1, where 255 of 8 bits and 1 are 256.
    edges = [int(edge) for edge in exact.astype(np.int64).astype(np.uint8)]
    quarters = [values[edges[i] : edges[i + 1] + 1] for i in range(4)]
    if not len(quarters[0]) or not len(quarters[3]):
        decay = math.nan
    else:
        decay = float(np.mean(quarters[0]) - np.mean(quarters[3]))
    return float(np.mean(values)), float(np.mean(values > 0.5)), decay


def one_hot(masks: npt.NDArray[np.float64], objects: int) -> Binary:
    """(T, H, W) of numbers to (N, T, H, W) bool, as the tool keeps whole videos."""
    numbers = np.ones((objects, *masks.shape)) * np.arange(1, objects + 1)[:, None, None, None]
    return (numbers == masks[None]) > 0


def official_video(
    truth: npt.NDArray[np.float64],
    predicted: npt.NDArray[np.float64],
    dilated: Callable[[Binary, Binary], Any] = by_opencv,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """J and F (N, T - 2) of a video given as (T, H, W) numbers, its first and last frame left out.

    Objects are those up to the highest of the first annotation; void counts as background;
    predictions of fewer objects are padded with empty ones. ValueError for more. Void is
    cleared in `truth` itself.
    """
    for frame in truth:
        frame[frame == 255] = 0
    objects = int(np.max(truth[0]))
    truths, masks = one_hot(truth, objects)[:, 1:-1], predicted[1:-1]
    found = int(np.max(masks))
    if found > objects:
        raise ValueError("a prediction holds a number higher than there are objects")
    results = one_hot(masks, found)
    if found < objects:
        results = np.concatenate([results, np.zeros((objects - found, *masks.shape), bool)])
    pairs = list(zip(truths, results, strict=True))
    return (
        np.array([official_j(t, p) for t, p in pairs]),
        np.array([official_f(t, p, dilated) for t, p in pairs]),
    )
