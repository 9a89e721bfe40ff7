"""Geometry between frames and boxes: RoIAlign, sampling, warping, locating.

Pixel centres lie at integer + 0.5. A box is (x0, y0, x1, y1) in px; a box map of side
s has its cell (r, c) centred at x0 + (c + 0.5) (x1 - x0) / s, y0 + (r + 0.5) (y1 - y0) / s.
N objects share B frames; `index` (N,) says which frame each object reads. The RoIs of Re-MP
reach beyond the frame, next to which its mirror image lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

SEARCH_CELLS = 128
SEARCH_REACH = 48.0
MIRRORED = 48.0
"""px that the mirror image reaches beyond the frame"""


def roi_box(tight: Tensor, margin: float) -> Tensor:
    """Enlarge tight boxes (N, 4) by `margin` of their side on each side."""
    pad = (tight[:, 2:] - tight[:, :2]) * margin
    return torch.cat((tight[:, :2] - pad, tight[:, 2:] + pad), 1)


def roi_align(features: Tensor, boxes: Tensor, size: int, stride: int, index: Tensor) -> Tensor:
    """RoIAlign (He et al.): features (B, C, h, w) in boxes (N, 4) px to (N, C, size, size).

    Zero beyond the frame.
    """
    rois = torch.cat((index[:, None].to(boxes), boxes), 1)
    return torchvision_roi_align(
        features, rois.to(features), size, 1.0 / stride, sampling_ratio=2, aligned=True
    )


def mirrored_roi_align(
    features: Tensor, boxes: Tensor, size: int, stride: int, index: Tensor
) -> Tensor:
    """roi_align(), but next to the frame lies its mirror image, and zeros further out.

    Zeros at once would look like an edge, at which the mask of an object that the frame cuts
    would end. None at all would hide from the network where the frame ends.
    """
    height, width = features.shape[-2:]
    last = boxes.new_tensor([width - 1, height - 1]).clamp(min=1)
    # two samples a side of a cell; the mirror stands on the middle of the outermost features
    points = centres(boxes / stride - 0.5, 2 * size) / last * 2 - 1
    samples = F.grid_sample(
        _of(features, index), points.to(features), padding_mode="reflection", align_corners=True
    )
    frame, places = boxes.new_tensor([width, height]) * stride, centres(boxes, size)
    near = ((places > -MIRRORED) & (places < frame + MIRRORED)).all(-1)
    return F.avg_pool2d(samples, 2) * near[:, None]


def roi_weights(
    boxes: Tensor, size: int, stride: int, cells: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What roi_align() reads: weights of the rows (N, size, h) and of the columns (N, size, w).

    Cell (r, c) of a RoI is the sum over features (h, w) of rows[r] times columns[c].
    """
    return _axis(boxes[:, 1::2], size, stride, cells[0]), _axis(
        boxes[:, ::2], size, stride, cells[1]
    )


def _axis(edges: Tensor, size: int, stride: int, cells: int) -> Tensor:
    """Weights (N, size, cells) along one side; edges (N, 2) px. Two samples a cell, as above."""
    low, high = (edges / stride - 0.5).unbind(1)
    steps = (torch.arange(2 * size, device=edges.device, dtype=edges.dtype) + 0.5) / (2 * size)
    places = low[:, None] + steps * (high - low)[:, None]
    read = ((places >= -1) & (places <= cells)).to(edges)
    places = places.clamp(0, cells - 1)
    below = places.floor().clamp(max=max(cells - 2, 0))
    share = places - below
    at = torch.arange(cells, device=edges.device, dtype=edges.dtype)
    here = (at == below[..., None]) * (1 - share)[..., None]
    here = here + (at == below[..., None] + 1) * share[..., None]
    weights = here * read[..., None]
    return weights.unflatten(1, (size, 2)).mean(2)


def centres(boxes: Tensor, size: int) -> Tensor:
    """Frame positions of the cell centres of boxes (N, 4): (N, size, size, 2) x, y in px."""
    steps = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    x = boxes[:, 0:1] + steps * (boxes[:, 2:3] - boxes[:, 0:1])
    y = boxes[:, 1:2] + steps * (boxes[:, 3:4] - boxes[:, 1:2])
    n = len(boxes)
    return torch.stack(
        (x[:, None, :].expand(n, size, size), y[:, :, None].expand(n, size, size)), -1
    )


def cells(size: Sequence[int], stride: int, device: torch.device) -> Tensor:
    """Frame positions of the cell centres of a feature map (h, w): (1, h, w, 2) x, y in px."""
    y, x = ((torch.arange(n, device=device, dtype=torch.float32) + 0.5) * stride for n in size)
    return torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), -1)[None]


def mirrored(points: Tensor, extent: Tensor) -> Tensor:
    """Points (..., 2) x, y px, of which those beyond a frame are mirrored into it.

    extent (..., 2): width and height px.
    """
    folded = points % (2 * extent)
    return torch.minimum(folded, 2 * extent - folded)


def sample_frame(field: Tensor, points: Tensor, index: Tensor) -> Tensor:
    """Bilinear samples of a frame-sized field (B, K, H, W) at points (N, s, s, 2) px.

    Outside the frame the nearest border value holds. Returns (N, K, s, s).
    """
    height, width = field.shape[-2:]
    scale = points.new_tensor((2.0 / width, 2.0 / height))
    return F.grid_sample(
        _of(field, index), points * scale - 1, padding_mode="border", align_corners=False
    )


def _of(frames: Tensor, index: Tensor) -> Tensor:
    """The frame (N, ...) that each object reads of B frames (B, ...)."""
    return frames.expand(len(index), -1, -1, -1) if len(frames) == 1 else frames[index]


def sample_box(maps: Tensor, boxes: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of box maps (N, K, t, t) at frame points (N, s, s, 2); zero outside."""
    origin = boxes[:, None, None, :2]
    extent = (boxes[:, None, None, 2:] - origin).clamp(min=1e-3)
    grid = (points - origin) / extent * 2 - 1
    return F.grid_sample(maps, grid.to(maps), padding_mode="zeros", align_corners=False)


def warp(
    maps: Tensor, old_boxes: Tensor, new_boxes: Tensor, size: int, flow: Tensor, index: Tensor
) -> Tensor:
    """Flow-guided bilinear warp of box maps from the old frame to the new (section 3.2).

    Each cell of the new box sits at P in the new frame; `flow` (B, 2, H, W), defined on
    the new frame, leads from P to its place in the old frame, which is read in the old box; a
    place beyond the frame is read at the frame's border, since nobody saw what lay there.
    maps (N, K, t, t), boxes (N, 4) px. Returns (N, K, size, size).
    """
    points = centres(new_boxes, size)
    moved = points + sample_frame(flow, points, index).permute(0, 2, 3, 1)
    height, width = flow.shape[-2:]
    border = points.new_tensor([width, height]) - 0.5
    return sample_box(maps, old_boxes, moved.clamp(min=0.5).minimum(border))


def tight_boxes(inside: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Tight boxes of the true cells of (N, s, s) maps that fill `boxes`: (N, 4), any (N,)."""
    n, s = len(inside), inside.shape[-1]
    cells = torch.arange(s, device=inside.device)
    bounds = []
    for occupied in (inside.any(1), inside.any(2)):
        low = torch.where(occupied, cells, s).amin(1)
        high = torch.where(occupied, cells + 1, 0).amax(1)
        bounds.append((low, high))
    unit = (boxes[:, 2:] - boxes[:, :2]) / s
    (x0, x1), (y0, y1) = bounds
    tight = torch.stack(
        (
            boxes[:, 0] + x0 * unit[:, 0],
            boxes[:, 1] + y0 * unit[:, 1],
            boxes[:, 0] + x1 * unit[:, 0],
            boxes[:, 1] + y1 * unit[:, 1],
        ),
        1,
    )
    return tight, inside.reshape(n, -1).any(1)


def locate(mask: Tensor, boxes: Tensor, flow: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Tight box in the new frame of masks warped from the old (section 3.2).

    mask (N, 1, s, s) probabilities in `boxes` (N, 4) of the old frame, flow (B, 2, H, W)
    on the new frame. The mask is cut at 0.5 and warped at frame geometry in a window
    around the old box. Returns tight boxes (N, 4) px and (N,) False where nothing is left.
    """
    height, width = flow.shape[-2:]
    reach = ((boxes[:, 2:] - boxes[:, :2]) * 0.5).clamp(min=SEARCH_REACH)
    low = (boxes[:, :2] - reach).clamp(min=0)
    high = torch.minimum(boxes[:, 2:] + reach, boxes.new_tensor((width, height)))
    window = torch.cat((low, torch.maximum(high, low + 1)), 1)
    binary = (mask > 0.5).float()
    warped = warp(binary, boxes, window, SEARCH_CELLS, flow, index)
    return tight_boxes(warped[:, 0] > 0.5, window)


def box_areas(mask: Tensor, boxes: Tensor) -> Tensor:
    """Area in px of the cells over 0.5 of (N, 1, s, s) masks in boxes (N, 4): (N,)."""
    share = (mask > 0.5).float().mean(dim=(1, 2, 3))
    return share * (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
