"""Steps of the recurrence over frames: locate, warp, read, predict (section 3.2).

Training and inference share these functions; they work on N objects that read B
frames, `index` (N,) saying which. Boxes carry no gradient, masks and states do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models import geometry
from models.backbone import FINE_STRIDE, STRIDE
from models.config import Architecture
from models.memory import Given, Memory
from models.remp import ReMP

SURROUNDINGS = 1.0
"""margin of the second, wider RoI that the appearance memory keeps"""
FRAME_CELL = 2 * STRIDE
"""px a side of the cells in which the memory keeps a whole frame, or is compared with one"""


@dataclass
class Recurrence:
    """What N objects carry from frame to frame."""

    boxes: Tensor
    """RoI boxes (N, 4) px"""
    hidden: Tensor
    """h: (N, d, m, m)"""
    mask: Tensor
    """y: (N, 1, s, s) probabilities in `boxes`"""
    memory: Memory | None
    alive: Tensor
    """(N,) bool: the mask could be located in this frame"""
    logits: Tensor | None = None
    """of the last step (N, 1, s, s)"""
    attention: Tensor | None = None
    """a of the last step (N, 1, m, m)"""
    given: Given = ()
    """of one object: what joins its memory in every step, held once for all objects of a video"""


def memorise(
    remp: ReMP, a: Architecture, f: Tensor, boxes: Tensor, mask: Tensor, index: Tensor
) -> Memory | None:
    """Cells of the object's RoI, of its surroundings and of the frame; None without the extension.

    f (B, C, h, w), boxes (N, 4) RoI boxes, mask (N, 1, s, s) in them. The whole frame, coarsely,
    shows what else there is that the object must not be taken for.
    """
    if remp.memory is None:
        return None
    dtype = remp.memory.project.weight.dtype
    near = geometry.mirrored_roi_align(f, boxes, a.roi_size, STRIDE, index).to(dtype)
    wide, side = geometry.roi_box(boxes, SURROUNDINGS), a.roi_size // 2
    far = geometry.roi_align(f, wide, side, STRIDE, index).to(dtype)
    inner = F.adaptive_avg_pool2d(mask, a.roi_size)
    outer = geometry.sample_box(mask, boxes, geometry.centres(wide, side))
    frame = whole_frame(f.to(dtype))
    places = geometry.cells(frame.shape[-2:], FRAME_CELL, f.device).expand(len(boxes), -1, -1, -1)
    shown = geometry.sample_box(mask, boxes, places)
    return remp.memory.write((near, far, frame[index]), (inner, outer, shown))


def whole_frame(f: Tensor) -> Tensor:
    """Features of a whole frame (B, C, h, w) in cells of FRAME_CELL px."""
    return F.avg_pool2d(f, FRAME_CELL // STRIDE, ceil_mode=True)


def read(
    a: Architecture, f: Tensor, fine: Tensor | None, boxes: Tensor, index: Tensor, like: Tensor
) -> tuple[Tensor, Tensor | None]:
    """x_j (N, C, m, m) and, with refinement, the fine features (N, C4, s, s)."""
    x = geometry.mirrored_roi_align(f, boxes, a.roi_size, STRIDE, index).to(like)
    if a.refine == 1 or fine is None:
        return x, None
    thin = geometry.mirrored_roi_align(fine, boxes, a.mask_size, FINE_STRIDE, index)
    return x, thin.to(like)


def start(
    remp: ReMP,
    a: Architecture,
    f: Tensor,
    fine: Tensor | None,
    boxes: Tensor,
    mask: Tensor,
    index: Tensor,
    memory: Memory | None = None,
) -> Recurrence:
    """State of N objects in their starting frame: N_R on that frame with h = 0.

    f (B, C, h, w) float32, fine (B, C4, h4, w4) float32 or None, boxes (N, 4) RoI boxes,
    mask (N, 1, s, s) in them. `memory` replaces the starting frame's own.
    """
    weight = remp.recur.fuse.weight
    if memory is None:
        memory = memorise(remp, a, f, boxes, mask, index)
    x, thin = read(a, f, fine, boxes, index, weight)
    zero = weight.new_zeros((len(boxes), a.hidden, a.roi_size, a.roi_size))
    hidden = remp(zero, x, mask, thin, memory).hidden
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    return Recurrence(boxes, hidden, mask, memory, alive)


def step(
    remp: ReMP,
    a: Architecture,
    state: Recurrence,
    f: Tensor,
    fine: Tensor | None,
    flow: Tensor,
    index: Tensor,
) -> Recurrence:
    """Carry N objects into the next frame (equations 1 and 2).

    f, fine: features of the new frame(s); flow (B, 2, H, W) px on the new frame's grid,
    leading to the frame of `state`. An object whose warped mask is empty keeps its box
    and is no longer `alive`.
    """
    weight = remp.recur.fuse.weight
    tight, found = geometry.locate(state.mask.detach(), state.boxes, flow, index)
    boxes = torch.where(found[:, None], geometry.roi_box(tight, a.margin), state.boxes)
    hidden = geometry.warp(state.hidden.float(), state.boxes, boxes, a.roi_size, flow, index)
    mask = geometry.warp(state.mask, state.boxes, boxes, a.mask_size, flow, index)
    x, thin = read(a, f, fine, boxes, index, weight)
    out = remp(hidden.to(weight), x, mask, thin, state.memory)
    probability, memory = torch.sigmoid(out.logits), state.memory
    if remp.memory is not None and memory is not None:
        memory = remp.memory.follow(memory, x, probability)
    return Recurrence(
        boxes,
        out.hidden,
        probability,
        memory,
        state.alive & found,
        out.logits,
        out.attention,
    )
