"""Template search: windows of every frame that look like an object's given mask (an extension).

The proposal network offers what it was trained to offer, and misses small objects and unusual
ones. A given mask says what to look for and how large it is: features pooled over its box are
compared with features pooled alike over windows of that shape, at several scales, all over the
frame. The best windows join the frame's proposals; Re-ID judges them like any other box.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import box_iou

from models.backbone import STRIDE
from models.networks import Networks
from models.reid_network import SPREAD, ReIDNetwork
from stages.boxmask import object_ids, tight
from stages.settings import SearchSettings
from stages.types import FeatureReader, IndexMask

VERSION = 2

SCALES = (0.6, 1.0, 1.67)
"""sides of a window over those of the given box"""
STEPS = 4
"""windows to a window's side: how finely the frame is searched"""
BEST_WINDOWS = 20
"""windows of one scale that are compared with one another"""
OVERLAP_LIMIT = 0.5
"""IoU over which the less similar of two windows is dropped"""
SHORTEST_SIDE = 2.0 * STRIDE
"""px, the shortest side of a window"""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Template:
    """A given mask to look for."""

    object_id: int
    size: tuple[float, float]
    """height, width of its box in px"""
    vector: Tensor
    """(C,) float64, unit length"""


def search(
    features: FeatureReader,
    size: tuple[int, int],
    first_masks: Mapping[int, IndexMask],
    networks: Networks,
    settings: SearchSettings,
) -> Iterator[tuple[Array, Array]]:
    """Windows of every frame, in order, with their embeddings.

    size: (H, W) px. Yields boxes (M, 4) float32 xyxy px inside the frame, at most
    settings.windows of each object, and their Re-ID vectors (M, 256) float32. Free of any
    threshold. BadWeights if the weights hold no reid.
    """
    networks.need("reid", ReIDNetwork)
    with networks.inference():
        templates = [
            template
            for j, mask in sorted(first_masks.items())
            for template in _templates(_scene(features.coarse(j), networks), mask)
        ]
    for j in range(len(features)):
        f, boxes = features.coarse(j), np.zeros((0, 4), np.float32)
        if settings.windows:
            with networks.inference():
                found = windows(_scene(f, networks), templates, size, settings.windows)
                boxes = found.float().numpy()
        yield boxes, networks.embed(f, boxes)


def _scene(f: npt.NDArray[np.float16], networks: Networks) -> Tensor:
    """f (C, h, w) less its mean over the frame, which is no object's own.

    In float64, so that which of two windows is better does not depend on the order of sums.
    """
    whole = networks.tensor(f).double()
    return whole - whole.mean((1, 2), keepdim=True)


def _templates(scene: Tensor, mask: IndexMask) -> Iterator[Template]:
    for i in object_ids(mask):
        x0, y0, x1, y1 = (float(v) for v in tight(mask == i))
        middle = scene.new_tensor([(y0 + y1) / 2]), scene.new_tensor([(x0 + x1) / 2])
        extent = y1 - y0, x1 - x0
        yield Template(i, extent, _pooled(scene, *middle, extent)[:, 0, 0])


def windows(
    scene: Tensor, templates: Sequence[Template], size: tuple[int, int], count: int
) -> Tensor:
    """The windows (M, 4) most similar to each object's templates, `count` an object at most.

    scene (C, h, w); windows are on the host. A window that is more similar to another object's
    template is left to that object. Objects ascending, each one's windows by descending similarity.
    """
    kept = [torch.zeros((0, 4), dtype=scene.dtype)]
    for i in sorted({t.object_id for t in templates}):
        mine = [t for t in templates if t.object_id == i]
        own = torch.stack([t.vector for t in mine])
        rest = [t.vector for t in templates if t.object_id != i]
        others = torch.stack(rest) if rest else own[:0]
        parts = [similar(scene, own, others, t.size, s) for t in mine for s in SCALES]
        # overlaps are looked at one by one, so on the host
        similarity, boxes = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
        found = similarity.isfinite()
        kept.append(_without_overlap(similarity[found], _inside(boxes[found], size), count))
    return torch.cat(kept)


def similar(
    scene: Tensor, own: Tensor, others: Tensor, extent: tuple[float, float], scale: float
) -> tuple[Tensor, Tensor]:
    """The n = BEST_WINDOWS best windows of one shape: similarity (n,) and boxes (n, 4).

    own (K, C), others (L, C): vectors of an object's templates and of all others. The similarity
    is -inf where a window is more similar to one of the others.
    """
    height, width = (max(side * scale, SHORTEST_SIDE) for side in extent)
    ys, xs = (
        torch.arange(cells, device=scene.device, dtype=scene.dtype)[:: _stride(side)] * STRIDE
        + STRIDE / 2
        for cells, side in zip(scene.shape[1:], (height, width), strict=True)
    )
    pooled = _pooled(scene, ys, xs, (height, width)).flatten(1)
    mine = (own @ pooled).amax(0)
    if len(others):
        mine = torch.where(mine >= (others @ pooled).amax(0), mine, -torch.inf)
    best = mine.argsort(descending=True, stable=True)[:BEST_WINDOWS]
    y, x = ys[best // len(xs)], xs[best % len(xs)]
    half = scene.new_tensor([width / 2, height / 2, width / 2, height / 2])
    sign = scene.new_tensor([-1, -1, 1, 1])
    return mine[best], torch.stack((x, y, x, y), 1) + sign * half


def _stride(side: float) -> int:
    """Cells between two windows of that side in px."""
    return max(1, int(side / (STEPS * STRIDE)))


def _pooled(scene: Tensor, ys: Tensor, xs: Tensor, extent: tuple[float, float]) -> Tensor:
    """Unit vectors (C, Y, X) of the windows of one extent (height, width) around (ys, xs) px."""
    across = _weights(xs, extent[1], scene.shape[2])
    down = _weights(ys, extent[0], scene.shape[1])
    pooled = down @ (scene @ across.T)
    return pooled / pooled.norm(dim=0, keepdim=True).clamp(min=1e-12)


def _weights(centres: Tensor, side: float, cells: int) -> Tensor:
    """How much each cell counts for each window along one side (N, cells); rows sum to 1.

    High in the middle, as Re-ID pools a box; a cell counts as soon as its edge is inside.
    """
    places = torch.arange(cells, device=centres.device, dtype=centres.dtype) * STRIDE + STRIDE / 2
    away = (places - centres[:, None]).abs() / side
    weights = torch.exp(-(away**2) / (2 * SPREAD**2)) * (away <= 0.5 + STRIDE / 2 / side)
    return weights / weights.sum(1, keepdim=True)


def _inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def _without_overlap(similarity: Tensor, boxes: Tensor, count: int) -> Tensor:
    """The most similar boxes, none of which overlaps a better one."""
    kept: list[Tensor] = []
    for n in similarity.argsort(descending=True, stable=True).tolist():
        box = boxes[n : n + 1]
        if len(kept) == count:
            break
        if float((box[0, 2:] - box[0, :2]).min()) < SHORTEST_SIDE:
            continue
        if not kept or float(box_iou(box, torch.cat(kept)).max()) <= OVERLAP_LIMIT:
            kept.append(box)
    return torch.cat(kept) if kept else boxes[:0]
