"""Evidence: how well a box agrees with what the appearance memory sees of an object.

An extension to section 3.1. A Re-ID vector sums up a box, with whatever stands in front of
the object or behind it. The memory of a given mask says of every cell of a frame whether it
shows the object; a box whose mask covers just those cells is likely to hold the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import geometry
from models.memory import Memory
from models.networks import Half, Networks
from models.propagation import FRAME_CELL
from stages.boxmask import all_ids, cut, object_ids, tight
from stages.seen import BoxMemo, seen
from stages.types import Box, BoxReader, FeatureReader, IndexMask

VERSION = 5

SHORTLIST = 5
"""boxes of an object and frame that are given a mask; the others have no evidence"""
EVIDENCE_MARGIN = 0.5
"""sides beyond a box, each way, in which cells of the object speak against it"""
POINTS = 24
"""places a side at which a box and its surroundings are compared with the memory"""
TOGETHER = 20
"""given masks that are looked for together: bounds the memory that many objects take"""
EPSILON = 1e-6

Array = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Template:
    """A given mask."""

    object_id: int
    vector: Array
    """(256,) Re-ID vector of its box"""
    memory: Memory


def evidence(
    features: FeatureReader,
    proposals: BoxReader,
    first_masks: Mapping[int, IndexMask],
    networks: Networks,
    memo: BoxMemo,
    *,
    plain: bool = False,
) -> Iterator[Array]:
    """Evidence of every box for every object, frame by frame.

    memo: masks of boxes. plain: by the memory of Re-MP without attention. Yields (M, O) float32
    in 0..1, objects ascending; all zero where Re-MP has no memory. Free of any threshold.
    BadWeights if the weights lack reid, mask or Re-MP.
    """
    objects = all_ids(first_masks.values())
    templates = [
        template
        for j, mask in sorted(first_masks.items())
        for template in _templates(features.coarse(j), mask, networks, plain)
    ]
    groups = [templates[n : n + TOGETHER] for n in range(0, len(templates), TOGETHER)]
    for j in range(len(features)):
        f, boxes, vectors = features.coarse(j), proposals.boxes(j), proposals.embeddings(j)
        look = partial(seen, memo, j, look=partial(networks.masks, f))
        found = np.zeros((len(boxes), len(objects)), np.float32)
        for group in groups if len(boxes) else ():
            with networks.inference():
                share = networks.recognise(f, [t.memory for t in group], plain=plain)
                shown = Shown(share, networks.tensor(boxes))
                rows = _shortlist(group, vectors, shown)
                drawn = networks.tensor(_masks(look, boxes, rows)) / 255
                values = shown.agreement(torch.from_numpy(rows).to(networks.device), drawn)
            for t, short, value in zip(group, rows, values.cpu().numpy(), strict=True):
                column = found[:, objects.index(t.object_id)]
                column[short] = np.maximum(column[short], value)
        yield found


def _shortlist(templates: Sequence[Template], vectors: Array, shown: Shown) -> Rows:
    """Rows (K, n) of the boxes that promise most to hold what each of K templates shows."""
    rough = shown.rough_agreement().cpu().numpy()
    promise = [vectors @ t.vector + hint for t, hint in zip(templates, rough, strict=True)]
    return np.argsort(-np.stack(promise), axis=1, kind="stable")[:, :SHORTLIST]


def _masks(
    look: Callable[[Sequence[Box]], list[npt.NDArray[Any]]], boxes: Array, rows: Rows
) -> npt.NDArray[np.uint8]:
    """Masks (K, n, s, s) of the boxes of some rows (K, n), each box looked at once."""
    chosen, places = np.unique(rows, return_inverse=True)
    return np.stack(look(list(boxes[chosen])))[places.reshape(rows.shape)]


def _templates(f: Half, mask: IndexMask, networks: Networks, plain: bool) -> Iterator[Template]:
    """The given masks of one frame; none where Re-MP has no memory."""
    a, ids = networks.architecture, object_ids(mask)
    boxes = np.array([tight(mask == i) for i in ids], np.float32).reshape(-1, 4)
    vectors = networks.embed(f, boxes)
    for i, vector in zip(ids, vectors, strict=True):
        memory = networks.remember(f, *cut(mask, i, a.margin, a.mask_size), plain=plain)
        if memory is not None:
            yield Template(i, vector, memory)


class Shown:
    """What the memories of K masks show in one frame, in and around boxes.

    share (K, h, w): how surely each cell, FRAME_CELL px a side, shows the object of each. boxes
    (M, 4) px.
    """

    def __init__(self, share: Tensor, boxes: Tensor) -> None:
        self.boxes = boxes
        self.points = geometry.centres(geometry.roi_box(boxes, EVIDENCE_MARGIN), POINTS)
        low, high = boxes[:, None, None, :2], boxes[:, None, None, 2:]
        self.inside = ((self.points >= low) & (self.points < high)).all(-1).float()
        height, width = (cells * FRAME_CELL for cells in share.shape[1:])
        frame = boxes.new_tensor([[0, 0, width, height]]).expand_as(boxes)
        maps = share.expand(len(boxes), -1, -1, -1)
        self.share = geometry.sample_box(maps, frame, self.points).transpose(0, 1)

    def rough_agreement(self) -> Tensor:
        """(K, M) 0..1, without masks: the box is filled and the object not cut off."""
        inside = (self.share * self.inside).sum((2, 3))
        filled = inside / self.inside.sum((1, 2)).clamp(min=1)
        whole = inside / self.share.sum((2, 3)).clamp(min=EPSILON)
        return filled.sqrt() * whole

    def agreement(self, rows: Tensor, masks: Tensor) -> Tensor:
        """Soft IoU (K, n) of masks (K, n, s, s) in the boxes of rows (K, n) with what is shown."""
        flat = rows.flatten()
        places, boxes = self.points[flat], self.boxes[flat]
        drawn = geometry.sample_box(masks.flatten(0, 1)[:, None], boxes, places)
        drawn = drawn.view(*rows.shape, POINTS, POINTS) * self.inside[rows]
        share = self.share[torch.arange(len(rows), device=rows.device)[:, None], rows]
        both = torch.minimum(drawn, share).sum((2, 3))
        return both / torch.maximum(drawn, share).sum((2, 3)).clamp(min=EPSILON)
