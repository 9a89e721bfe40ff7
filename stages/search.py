"""Template search: windows of every frame that look like an object's given mask (an extension).

The proposal network offers what it was trained to offer, and misses small objects and unusual
ones. A given mask says what to look for and how large it is: features pooled over its box are
compared with features pooled alike over windows of that shape, at several scales, all over the
frame. The best windows join the frame's proposals; Re-ID judges them like any other box.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import box_iou

from models.backbone import STRIDE
from models.networks import Half, Networks
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

SHORTEST_VECTOR = 1e-12
"""length below which a window shows nothing"""

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
        cells = networks.tensor(features.coarse(0)).double()[0]
        grids = [[Grid.of(t.size, scale, cells) for scale in SCALES] for t in templates]
    for j in range(len(features)):
        f, boxes = features.coarse(j), np.zeros((0, 4), np.float32)
        if settings.windows:
            with networks.inference():
                found = windows(_scene(f, networks), templates, grids, size, settings.windows)
                boxes = found.float().numpy()
        yield boxes, networks.embed(f, boxes)


def _scene(f: Half, networks: Networks) -> Tensor:
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
        pooled = Grid.around(*middle, extent, scene[0]).pooled(scene)[:, 0]
        yield Template(i, extent, pooled / pooled.norm().clamp(min=SHORTEST_VECTOR))


@dataclass(frozen=True)
class Grid:
    """All windows of one shape in a frame, Y rows of X; the same in every frame."""

    ys: Tensor
    """(Y,) px, their middles"""
    xs: Tensor
    """(X,) px"""
    down: Tensor
    """(Y, h) how much each cell counts for each window"""
    across: Tensor
    """(X, w)"""
    half: Tensor
    """(4,) px from the middle of a window to the edges of its box"""

    @classmethod
    def of(cls, size: tuple[float, float], scale: float, cells: Tensor) -> Grid:
        """Windows of a given box's shape, size (height, width) px, all over cells (h, w)."""
        extent = (max(size[0] * scale, SHORTEST_SIDE), max(size[1] * scale, SHORTEST_SIDE))
        ys, xs = (
            torch.arange(count, device=cells.device, dtype=cells.dtype)[:: _stride(side)] * STRIDE
            + STRIDE / 2
            for count, side in zip(cells.shape, extent, strict=True)
        )
        return cls.around(ys, xs, extent, cells)

    @classmethod
    def around(cls, ys: Tensor, xs: Tensor, extent: tuple[float, float], cells: Tensor) -> Grid:
        """Windows of one extent (height, width) px around (ys, xs)."""
        down, across = (
            _weights(middles, side, count)
            for middles, side, count in zip((ys, xs), extent, cells.shape, strict=True)
        )
        y, x = extent[0] / 2, extent[1] / 2
        return cls(ys, xs, down, across, cells.new_tensor([-x, -y, x, y]))

    def pooled(self, scene: Tensor) -> Tensor:
        """What shows in every window: (C, Y * X)."""
        return (self.down @ (scene @ self.across.T)).flatten(1)

    def boxes(self, chosen: Tensor) -> Tensor:
        """Boxes (n, 4) of some windows (n,)."""
        y, x = self.ys[chosen // len(self.xs)], self.xs[chosen % len(self.xs)]
        return torch.stack((x, y, x, y), 1) + self.half


def windows(
    scene: Tensor,
    templates: Sequence[Template],
    grids: Sequence[Sequence[Grid]],
    size: tuple[int, int],
    count: int,
) -> Tensor:
    """The windows (M, 4) most similar to each object's templates, `count` an object at most.

    scene (C, h, w); grids: of each template; windows are on the host. A window that is more similar
    to another object's template is left to that object. Objects ascending, each one's windows by
    descending similarity.
    """
    objects = sorted({t.object_id for t in templates})
    best, ends = [], [0]
    for i in objects:
        own = torch.stack([t.vector for t in templates if t.object_id == i])
        others = [t.vector for t in templates if t.object_id != i]
        vectors = torch.cat([own, *(vector[None] for vector in others)])
        mine = [row for t, row in zip(templates, grids, strict=True) if t.object_id == i]
        best += [similar(scene, vectors, len(own), grid) for row in mine for grid in row]
        ends.append(sum(len(similarity) for similarity, _ in best))
    if not objects:
        return scene.new_zeros((0, 4)).cpu()
    # overlaps are looked at one by one, so on the host
    similarity, boxes = (torch.cat(column).cpu() for column in zip(*best, strict=True))
    boxes = _inside(boxes, size)
    spans = [slice(*pair) for pair in pairwise(ends)]
    return torch.cat([_without_overlap(similarity[span], boxes[span], count) for span in spans])


def similar(scene: Tensor, vectors: Tensor, own: int, grid: Grid) -> tuple[Tensor, Tensor]:
    """The n = BEST_WINDOWS best windows of a grid: similarity (n,) and boxes (n, 4).

    vectors (L, C): of an object's templates, `own` of them, and of all others. The similarity is
    -inf where a window is more similar to one of the others.
    """
    pooled = grid.pooled(scene)
    alike = vectors @ pooled / pooled.norm(dim=0).clamp(min=SHORTEST_VECTOR)
    mine = alike[:own].amax(0)
    if own < len(vectors):
        mine = torch.where(mine >= alike[own:].amax(0), mine, -torch.inf)
    best = mine.argsort(descending=True, stable=True)[:BEST_WINDOWS]
    return mine[best], grid.boxes(best)


def _stride(side: float) -> int:
    """Cells between two windows of that side in px."""
    return max(1, int(side / (STEPS * STRIDE)))


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
    """The most similar boxes, `count` at most, none of which overlaps a better one."""
    fits = similarity.isfinite() & ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= SHORTEST_SIDE)
    overlap = (box_iou(boxes, boxes) > OVERLAP_LIMIT).numpy()
    kept: list[int] = []
    for n in similarity.argsort(descending=True, stable=True).tolist():
        if fits[n] and not overlap[n, kept].any():
            kept.append(n)
        if len(kept) == count:
            break
    return boxes[kept]
