"""Objects that optical flow loses are looked for near by, with what is remembered of them.

An extension: the paper carries a mask by flow alone (section 3.2). Flow loses what moves fast, or
far between two frames of a low rate. An appearance memory knows cell by cell what shows the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models import geometry
from models.backbone import STRIDE
from models.networks import Array, Half, Networks, State
from models.propagation import Recurrence

AGREEING = 0.8
"""share of an object over which both directions of the flow must agree, or it is looked for"""
TOLERANCE = (3.0, 0.1)
"""what they may differ by: px, or a share of the way if that is more"""
GAIN = 0.05
"""by how much more another place must look like the object than where flow leads"""
REACH = 64.0
"""px that it is looked for beyond its own longer side"""
CELLS = 48
"""cells a side of the part of the frame where it is looked for"""
SCALES = (0.8, 1.0, 1.25)
"""sizes tried, of the last one"""
EPSILON = 1e-6


def step(
    networks: Networks,
    state: State,
    read: tuple[Half, Half | None],
    flow: Array,
    ahead: Array,
    *,
    plain: bool,
) -> State:
    """networks.step(), of objects that flow loses from where they were found.

    read: f and f4 of the new frame; flow (2, H, W) px on the new frame's grid, leading to the
    frame of `state`; ahead: on that frame's grid, leading to the new one. An object found elsewhere
    is moved there before the step, in which it then stands still.
    """
    found = relocated(networks, state.parts, read[0], flow, ahead, plain=plain)
    if not found:
        return networks.step(state, *read, flow, plain=plain)
    here = [n for n in range(len(state)) if n not in found]
    moved = State(list(found.values()), state.areas[list(found)])
    steps = [networks.step(moved, *read, np.zeros_like(flow), plain=plain)]
    if here:
        steps.append(networks.step(state[here], *read, flow, plain=plain))
    return State.cat(steps)[np.argsort([*found, *here]).tolist()]


def relocated(
    networks: Networks,
    parts: Sequence[Recurrence],
    f: Half,
    flow: Array,
    ahead: Array,
    *,
    plain: bool,
) -> dict[int, Recurrence]:
    """By row, those of some objects that flow loses, in the boxes where they were found.

    f: coarse features (C, h, w) of the new frame; flow, ahead: as in step(). Empty without an
    appearance memory.
    """
    found = {}
    with networks.inference():
        coarse, back, on = networks.frame(f), networks.frame(flow), networks.frame(ahead)
        for n, part in enumerate(parts):
            if part.memory is not None and agreeing(part, back, on) < AGREEING:
                box = _better(networks, part, coarse, back, plain)
                if box is not None:
                    found[n] = replace(part, boxes=box)
    return found


def agreeing(part: Recurrence, back: Tensor, on: Tensor) -> float:
    """Share of an object's cells that flow (1, 2, H, W) leads on, and back to where they were."""
    index = torch.zeros(1, dtype=torch.long, device=on.device)
    inside = (part.mask[0, 0] > 0.5).float()
    places = geometry.centres(part.boxes, inside.shape[-1])
    way = geometry.sample_frame(on, places, index).permute(0, 2, 3, 1)
    returned = geometry.sample_frame(back, places + way, index).permute(0, 2, 3, 1)
    pixels, share = TOLERANCE
    near = (way + returned).norm(dim=-1) <= (share * way.norm(dim=-1)).clamp(min=pixels)
    return float((near[0] * inside).sum() / inside.sum().clamp(min=1))


def _better(
    networks: Networks, part: Recurrence, f: Tensor, back: Tensor, plain: bool
) -> Tensor | None:
    """RoI box (1, 4) px in which an object looks more like itself than where flow leads, if any."""
    reach = (part.boxes[:, 2:] - part.boxes[:, :2]).amax() + REACH
    window = _within(f, torch.cat((part.boxes[:, :2] - reach, part.boxes[:, 2:] + reach), 1))
    share = networks.recognised(part, f, window, CELLS, plain=plain)
    mask = (part.mask > 0.5).float()
    index = torch.zeros(1, dtype=torch.long, device=f.device)
    led = geometry.warp(mask, part.boxes, window, CELLS, back, index)
    bar = float(_alike((led * share).sum(), led.sum(), share)) + GAIN
    places = [_best(mask, part.boxes, window, share, scale, reach) for scale in SCALES]
    value, box = max(places, key=itemgetter(0))
    return box if value > bar else None


def _within(f: Tensor, window: Tensor) -> Tensor:
    """The part of a window (1, 4) px, of a px at least, that lies in the frame."""
    whole = window.new_tensor([f.shape[-1], f.shape[-2]]) * STRIDE
    low = torch.minimum(window[:, :2].clamp(min=0), whole - 1)
    return torch.cat((low, torch.maximum(torch.minimum(window[:, 2:], whole), low + 1)), 1)


def _alike(both: Tensor, area: Tensor, share: Tensor) -> Tensor:
    """Soft IoU of a mask with what is shown, from what they share and the mask's area in cells."""
    return both / (area + share.sum() - both).clamp(min=EPSILON)


def _best(
    mask: Tensor, boxes: Tensor, window: Tensor, share: Tensor, scale: float, reach: Tensor
) -> tuple[float, Tensor]:
    """Where a mask (1, 1, s, s), enlarged by `scale`, looks most like itself: how much, its box.

    The mask fills boxes (1, 4) px, share (1, 1, CELLS, CELLS) the window (1, 4). The farther from
    the last place, the less a place counts: reach px are a standard deviation.
    """
    half = (boxes[:, 2:] - boxes[:, :2]) * scale / 2
    cell = (window[:, 2:] - window[:, :2]) / CELLS
    columns, rows = (half / cell).ceil().int()[0].tolist()
    x = torch.arange(-columns, columns + 1, device=mask.device) * cell[0, 0]
    y = torch.arange(-rows, rows + 1, device=mask.device) * cell[0, 1]
    grid = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), -1)[None]
    drawn = geometry.sample_box(mask, torch.cat((-half, half), 1), grid)
    both = F.conv2d(share, drawn, padding=(rows, columns))
    places = geometry.centres(window, CELLS)
    distance = (places - (boxes[:, :2] + boxes[:, 2:]) / 2).norm(dim=-1)
    value = _alike(both[0], drawn.sum(), share) * torch.exp(-0.5 * (distance / reach) ** 2)
    best = int(value.argmax())
    centre = places.view(-1, 2)[best]
    return float(value.flatten()[best]), torch.cat((centre - half, centre + half), 1)
