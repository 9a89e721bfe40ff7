"""Boxes of a clip: tight ones of its objects, and jittered ones as a proposal network gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from models import geometry
from stages.boxmask import VOID
from training.clips import SMALLEST_OBJECT
from training.settings import TrainSettings

POSITIVE = 0.5
"""IoU with an object from which a jittered box belongs to it (section 3.1, Mask R-CNN)"""
NEGATIVE = 0.3
"""IoU with every object below which a random box is background"""


def tight_box(inside: Tensor) -> Tensor:
    """Tight box (4,) px of a mask (H, W) that is not empty."""
    ys, xs = torch.nonzero(inside.any(1)).flatten(), torch.nonzero(inside.any(0)).flatten()
    return torch.stack((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1)).float()


def boxes_of(mask: Tensor, labels: Mapping[int, int]) -> dict[int, Tensor]:
    """Tight boxes (1, 4) by number of the objects in a frame that are large enough."""
    counts = torch.bincount(mask.flatten(), minlength=256).tolist()
    return {n: tight_box(mask == n)[None] for n in labels if counts[n] >= SMALLEST_OBJECT}


def followed(known: Mapping[int, Tensor], most: int, random: torch.Generator) -> list[int]:
    """At random `most` of the objects whose boxes are known, in order."""
    numbers = sorted(known)
    order = torch.randperm(len(numbers), generator=random).tolist()
    return sorted(numbers[i] for i in order[:most])


def jittered_boxes(
    masks: Tensor,
    known: Sequence[Mapping[int, Tensor]],
    settings: TrainSettings,
    random: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes as the proposal network gives them: near each object, and on the background.

    masks (T, H, W), known: boxes_of() each. Returns boxes (N, 4) px, the frame of each (N,),
    and the object's number (N,), -1 for background.
    """
    height, width = masks.shape[-2:]
    limit = torch.tensor([width, height, width, height]).float()
    boxes = [limit.new_zeros((0, 4))]
    index: list[int] = []
    numbers: list[int] = []
    for t, mask in enumerate(masks):
        for n, tight in known[t].items():
            near = _jitter(tight, settings.boxes - 1, limit, random)
            boxes.append(near)
            numbers += [n] * len(near)
            index += [t] * len(near)
        far = background(mask, list(known[t].values()), settings.negatives, limit, random)
        boxes.append(far)
        numbers += [-1] * len(far)
        index += [t] * len(far)
    return torch.cat(boxes), torch.tensor(index).long(), torch.tensor(numbers).long()


def _jitter(tight: Tensor, count: int, limit: Tensor, random: torch.Generator) -> Tensor:
    """A tight box (1, 4) and `count` near it, of which those that miss it are left out."""
    side = (tight[:, 2:] - tight[:, :2]).repeat(1, 2)
    noise = torch.randn(count, 4, generator=random) * 0.08
    near = torch.cat((tight, (tight + noise * side).clamp(min=0).minimum(limit)))
    return near[box_iou(near, tight)[:, 0] >= POSITIVE]


def background(
    mask: Tensor, known: Sequence[Tensor], count: int, limit: Tensor, random: torch.Generator
) -> Tensor:
    """Random boxes (N, 4) that hold neither an object nor void."""
    if not count:
        return limit.new_zeros((0, 4))
    draws = torch.rand(count, 4, generator=random)
    side = (0.08 + 0.42 * draws[:, 2:]) * limit[:2]
    low = draws[:, :2] * (limit[:2] - side)
    boxes = torch.cat((low, low + side), 1)
    taken = unknown(mask, boxes)
    if known:
        taken |= box_iou(boxes, torch.cat(list(known))).amax(1) >= NEGATIVE
    return boxes[~taken]


def unknown(mask: Tensor, boxes: Tensor) -> Tensor:
    """(N,) whether more than half of a box (N, 4) is void, counted at a few points."""
    void = (mask == VOID).float()[None, None]
    share = geometry.sample_box(
        void,
        boxes.new_tensor([[0, 0, mask.shape[1], mask.shape[0]]]),
        geometry.centres(boxes, 4).reshape(1, -1, 4, 2),
    )
    return share.reshape(len(boxes), 16).mean(1) > 0.5
