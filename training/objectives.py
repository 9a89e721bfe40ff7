"""What is minimised: L = L_reid + lambda (L_mask + L_remp), the RPN's losses, MSK's loss.

An objective holds the networks that it trains by their name in the weights file and turns
one clip into named losses. What is random follows from the clip's number and is drawn on the
host, as is what depends on where the objects are; the device gets tensors of fixed shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou

from models import geometry, propagation
from models.backbone import STRIDE, Trunk, output_size
from models.config import Architecture
from models.mask_network import MaskNetwork
from models.msk import MSK
from models.networks import Networks
from models.oim import OIM, UNLABELLED
from models.propagation import Recurrence
from models.reid_network import ReIDNetwork
from models.remp import ReMP
from models.rpn import RPN
from stages.boxmask import VOID
from training.clips import LEAST, Clip
from training.settings import TrainSettings

POSITIVE = 0.5
"""IoU with an object from which a jittered box belongs to it (section 3.1, Mask R-CNN)"""
NEGATIVE = 0.3
"""IoU with every object below which a random box is background"""
COARSE = (4, 12)
"""cells a side of a degraded starting mask"""

Losses = dict[str, Tensor]


class Objective(nn.Module):
    """Networks under training; forward() gives the losses of one clip, to be summed."""

    modules_by_name: Mapping[str, nn.Module]
    """a plain mapping: attributes that are modules would enter a checkpoint twice"""

    def hold(self, networks: Mapping[str, nn.Module]) -> None:
        """Register the networks, each once."""
        self.networks = nn.ModuleDict(networks)
        self.modules_by_name = dict(networks)

    def trained(self) -> dict[str, nn.Module]:
        """Networks whose weights move, by name."""
        return {
            name: module
            for name, module in self.modules_by_name.items()
            if any(p.requires_grad for p in module.parameters())
        }

    def forward(self, clip: Clip) -> Losses:
        """The losses of one clip."""
        device = next(self.parameters()).device
        return self.losses(send(self.sample(clip), device))

    def sample(self, clip: Clip) -> Any:
        """What the losses need of a clip: a NamedTuple of tensors on the host."""
        raise TypeError(f"{type(self).__name__} has no losses")

    def losses(self, sample: Any) -> Losses:
        """The losses of a sample() that was sent to the device of the weights."""
        raise TypeError(f"{type(self).__name__} has no losses")

    def touch(self) -> Tensor:
        """Zero, with a gradient of zero for every weight: no clip leaves one without."""
        return torch.stack([p.sum() * 0 for p in self.parameters() if p.requires_grad]).sum()

    def seen(self) -> list[Any]:
        """What the iteration leaves for after_step(), in the order of its clips."""
        return []

    def after_step(self, seen: Sequence[Any]) -> None:
        """Called once an iteration with what all processes have seen."""


class FrozenTrunk:
    """A trunk that does not learn, run as it runs in inference; it holds a copy."""

    def __init__(self, architecture: Architecture, trunk: Trunk, precision: str) -> None:
        trunk.requires_grad_(False)
        self.architecture, self.source, self.precision = architecture, trunk, precision
        self._trunk: Trunk | None = None

    def __call__(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """f and f4 in float32 of frames (T, 3, H, W) uint8, one at a time."""
        if self._trunk is None:
            device = frames.device.type
            made = Networks(self.architecture, {"trunk": self.source}, device, self.precision)
            self._trunk = made.trunk
        assert self._trunk is not None
        with torch.no_grad():
            rows = [self._trunk(frame[None]) for frame in frames]
        coarse = torch.cat([row[0] for row in rows]).float()
        fine = [row[1] for row in rows if row[1] is not None]
        return coarse, torch.cat(fine).float() if fine else None


class JointSample(NamedTuple):
    """What the joint loss needs of a clip of T frames."""

    frames: Tensor
    """(T, 3, H, W) uint8"""
    masks: Tensor
    """(T, H, W) uint8"""
    flow: Tensor
    """(T - 1, 2, H, W) px, each frame to the one before"""
    boxes: Tensor
    """(N, 4) jittered boxes px"""
    frame_of: Tensor
    """(N,) the frame of each"""
    rows: Tensor
    """(N,) identity, UNLABELLED for background"""
    positive: Tensor
    """(P,) the boxes that hold an object"""
    own: Tensor
    """(P,) its number"""
    followed: Tensor
    """(K,) numbers of the objects that Re-MP follows"""
    tight: Tensor
    """(K, 4) their tight boxes in the first frame"""
    ragged: tuple[Tensor | None, ...]
    """K: noise that degrades a starting mask (1, 1, cells, cells), None where it stays"""


class DyeNetObjective(Objective):
    """The joint loss of section 3.3 on one clip; both kinds of Re-MP learn alike."""

    def __init__(
        self,
        architecture: Architecture,
        networks: Mapping[str, nn.Module],
        identities: int,
        settings: TrainSettings,
    ) -> None:
        """networks: trunk and, as they are to be trained, mask, reid, remp, remp_plain."""
        super().__init__()
        self.a, self.settings = architecture, settings
        self.hold(networks)
        self.oim = OIM(identities, architecture.embedding, settings.queue)
        self._seen: list[tuple[Tensor, Tensor]] = []
        self.frozen: FrozenTrunk | None = None
        if settings.trunk == "frozen":
            self.frozen = FrozenTrunk(architecture, self.trunk, settings.precision)

    @property
    def trunk(self) -> Trunk:
        return self.modules_by_name["trunk"]  # type: ignore[return-value]

    def sample(self, clip: Clip) -> JointSample:
        random = torch.Generator().manual_seed(clip.number)
        masks = torch.from_numpy(clip.masks)
        boxes, frame_of, numbers = jittered_boxes(masks, clip.labels, self.settings, random)
        positive = [k for k, n in enumerate(numbers) if n >= 0]
        chosen = followed(clip, self.settings.objects, random)
        tight = [tight_box(masks[0] == n) for n in chosen]
        return JointSample(
            frames=torch.from_numpy(clip.frames).permute(0, 3, 1, 2),
            masks=masks,
            flow=torch.from_numpy(clip.to_previous),
            boxes=boxes,
            frame_of=frame_of,
            rows=torch.tensor([clip.labels[n] if n >= 0 else UNLABELLED for n in numbers]),
            positive=torch.tensor(positive, dtype=torch.long),
            own=torch.tensor([numbers[k] for k in positive]),
            followed=torch.tensor(chosen),
            tight=torch.stack(tight) if tight else torch.zeros((0, 4)),
            ragged=tuple(raggedness(self.settings.degrade, random) for _ in chosen),
        )

    def losses(self, sample: JointSample) -> Losses:
        """The losses of the networks that are there: `reid`, `mask`, `remp`, `remp_plain`."""
        coarse, fine = self._features(sample.frames)
        weight, losses = self.settings.mask_weight, {}
        if "reid" in self.modules_by_name:
            losses["reid"] = self._reid(coarse, sample)
        if "mask" in self.modules_by_name:
            losses["mask"] = weight * self._mask(coarse, sample)
        for name in ("remp", "remp_plain"):
            if name in self.modules_by_name:
                losses[name] = weight * self._remp(name, coarse, fine, sample)
        some = next(iter(losses))
        losses[some] = losses[some] + self.touch()
        return losses

    def _features(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """f and f4 in float32."""
        if self.frozen is not None:
            return self.frozen(frames)
        coarse, fine = self.trunk(frames)
        return coarse.float(), None if fine is None else fine.float()

    def _reid(self, coarse: Tensor, sample: JointSample) -> Tensor:
        """L_reid over jittered boxes of every object in every frame, and of the background."""
        if not len(sample.rows):
            return coarse.new_zeros(())
        network: ReIDNetwork = self.modules_by_name["reid"]  # type: ignore[assignment]
        scene = network.scene(coarse)
        small = geometry.roi_align(scene, sample.boxes, self.a.reid_size, STRIDE, sample.frame_of)
        embeddings = network(small.to(network.project.weight))
        self._seen.append((embeddings.detach(), sample.rows))
        return self.oim(embeddings, sample.rows)

    def _mask(self, coarse: Tensor, sample: JointSample) -> Tensor:
        """L_mask over the boxes that hold an object."""
        if not len(sample.own):
            return coarse.new_zeros(())
        network: MaskNetwork = self.modules_by_name["mask"]  # type: ignore[assignment]
        boxes, index = sample.boxes[sample.positive], sample.frame_of[sample.positive]
        x = geometry.roi_align(coarse, boxes, self.a.roi_size, STRIDE, index)
        logits = network(x.to(network.predict.weight))
        target, weight = targets(sample.masks, sample.own, boxes, index, self.a.roi_size)
        return pixel_loss(logits, target, weight)

    def _remp(self, name: str, coarse: Tensor, fine: Tensor | None, sample: JointSample) -> Tensor:
        """L_remp: the recurrence unrolled over the clip, its own masks fed back."""
        remp: ReMP = self.modules_by_name[name]  # type: ignore[assignment]
        own, masks = sample.followed, sample.masks
        if not len(own):
            return coarse.new_zeros(())
        index = torch.zeros_like(own)
        roi = geometry.roi_box(sample.tight, self.a.margin)
        given, _ = targets(masks[:1], own, roi, index, self.a.mask_size)
        memory = propagation.memorise(remp, self.a, coarse[:1], roi, given, index)
        if memory is not None:
            memory = memory.apart(self.a.roi_size**2)
        start = degrade(given, sample.ragged)
        thin = None if fine is None else fine[:1]
        state = propagation.start(remp, self.a, coarse[:1], thin, roi, start, index, memory)
        total, steps = coarse.new_zeros(()), len(masks) - 1
        for t in range(1, len(masks)):
            thin = None if fine is None else fine[t : t + 1]
            flow = sample.flow[t - 1 : t]
            state = propagation.step(remp, self.a, state, coarse[t : t + 1], thin, flow, index)
            total = total + self._step_loss(state, masks[t : t + 1], own, index) / steps
        return total

    def _step_loss(self, state: Recurrence, masks: Tensor, own: Tensor, index: Tensor) -> Tensor:
        assert state.logits is not None
        target, weight = targets(masks, own, state.boxes, index, self.a.mask_size)
        return pixel_loss(state.logits, target, weight * state.alive[:, None, None, None])

    def seen(self) -> list[Any]:
        seen, self._seen = self._seen, []
        return [(e.cpu(), r.cpu()) for e, r in seen]

    def after_step(self, seen: Sequence[Any]) -> None:
        """Move OIM's table and queue."""
        for embeddings, rows in seen:
            self.oim.update(embeddings.to(self.oim.table.device), rows)


class RPNSample(NamedTuple):
    """What the losses of the proposal network need of a clip; anchors of all frames in a row."""

    frames: Tensor
    """(T, 3, H, W) uint8"""
    chosen: Tensor
    """(S,) sampled anchors"""
    labels: Tensor
    """(S,) 1 where they hold an object, else 0"""
    positive: Tensor
    """(P,) anchors that hold an object"""
    wanted: Tensor
    """(P, 4) how they should move"""


class RPNObjective(Objective):
    """torchvision's losses for the proposal network on the final, frozen trunk."""

    def __init__(
        self,
        architecture: Architecture,
        networks: Mapping[str, nn.Module],
        settings: TrainSettings,
    ) -> None:
        """networks: trunk and rpn."""
        super().__init__()
        self.hold(networks)
        self.frozen = FrozenTrunk(architecture, self.trunk, settings.precision)

    @property
    def trunk(self) -> Trunk:
        return self.modules_by_name["trunk"]  # type: ignore[return-value]

    @property
    def rpn(self) -> RPN:
        return self.modules_by_name["rpn"]  # type: ignore[return-value]

    def sample(self, clip: Clip) -> RPNSample:
        """Anchors on void count for neither loss."""
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
        masks, none = torch.from_numpy(clip.masks), torch.zeros((0, 4))
        size = (frames.shape[2], frames.shape[3])
        cells = torch.empty((len(frames), 1, *output_size(size, STRIDE)))
        anchors = self.rpn.anchors(cells, size)
        truth = [
            {"boxes": torch.cat([none, *boxes_of(mask, clip.labels).values()])} for mask in masks
        ]
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, truth)
        labels = [
            torch.where((label == 0) & unknown(mask, anchor), -torch.ones_like(label), label)
            for label, mask, anchor in zip(labels, masks, anchors, strict=True)
        ]
        # the sampler draws from torch's own generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(clip.number)
            positive, negative = (
                torch.cat(marks).nonzero()[:, 0] for marks in self.rpn.fg_bg_sampler(labels)
            )
        chosen = torch.cat((positive, negative))
        wanted = torch.cat(self.rpn.box_coder.encode(matched, anchors))
        return RPNSample(frames, chosen, torch.cat(labels)[chosen], positive, wanted[positive])

    def losses(self, sample: RPNSample) -> Losses:
        """The losses `objectness` and `boxes`."""
        frames, size = sample.frames, (sample.frames.shape[2], sample.frames.shape[3])
        coarse, _ = self.frozen(frames)
        _, logits, deltas = self.rpn.outputs(coarse, size)
        objectness = F.binary_cross_entropy_with_logits(
            logits.flatten()[sample.chosen], sample.labels
        )
        moves = deltas.reshape(-1, 4)[sample.positive]
        boxes = F.smooth_l1_loss(moves, sample.wanted, beta=1 / 9, reduction="sum")
        return {"objectness": objectness + self.touch(), "boxes": boxes / len(sample.chosen)}


class MSKSample(NamedTuple):
    """What MSK's loss needs of a clip of T frames; none of it without an object to follow."""

    frames: Tensor
    """(T, 3, H, W) uint8"""
    masks: Tensor
    """(T, H, W) uint8"""
    flow: Tensor
    """(T - 1, 2, H, W) px, each frame to the one before"""
    followed: Tensor
    """(1,) number of the object, or (0,)"""
    middle: Tensor
    """(2,) of its tight box in the first frame, px"""
    scale: Tensor
    """(T - 1, 1) by which its mask grows"""
    shift: Tensor
    """(T - 1, 2) px by which it moves"""


class MSKObjective(Objective):
    """The baseline: a frame and the last mask, warped and deformed, to this frame's mask."""

    def __init__(self, networks: Mapping[str, nn.Module], settings: TrainSettings) -> None:
        """networks: msk."""
        super().__init__()
        self.hold(networks)
        self.settings = settings

    @property
    def msk(self) -> MSK:
        return self.modules_by_name["msk"]  # type: ignore[return-value]

    def sample(self, clip: Clip) -> MSKSample:
        random = torch.Generator().manual_seed(clip.number)
        numbers = followed(clip, 1, random)
        masks, steps = torch.from_numpy(clip.masks), len(clip.to_previous)
        # a little smaller, larger and shifted, as a predicted mask is
        scale = 1 + 0.05 * torch.randn(steps, 1, generator=random)
        shift = 0.05 * torch.randn(steps, 2, generator=random)
        extent = tight_box(masks[0] == numbers[0]) if numbers else torch.zeros(4)
        return MSKSample(
            frames=torch.from_numpy(clip.frames).permute(0, 3, 1, 2),
            masks=masks,
            flow=torch.from_numpy(clip.to_previous),
            followed=torch.tensor(numbers),
            middle=(extent[:2] + extent[2:]) / 2,
            scale=scale,
            shift=shift * (extent[2:] - extent[:2]),
        )

    def losses(self, sample: MSKSample) -> Losses:
        """The loss `msk`, the mean over the clip's later frames for one of its objects."""
        if not len(sample.followed):
            return {"msk": self.touch()}
        masks, flow = sample.masks, sample.flow
        inside = (masks == sample.followed).float()[:, None]
        height, width = masks.shape[-2:]
        box = flow.new_tensor([[0, 0, width, height]]).expand(len(flow), 4)
        points = frame_points(height, width, flow.device)[None].expand(len(flow), -1, -1, -1)
        moved = points + flow.permute(0, 2, 3, 1)
        moved = (moved - sample.middle) * sample.scale[..., None, None] + sample.middle
        moved = moved + sample.shift[:, None, None]
        warped = geometry.sample_box(inside[:-1], box, moved)
        logits = self.msk(sample.frames[1:], warped)
        weight = (masks[1:] != VOID).float()[:, None]
        return {"msk": pixel_loss(logits, inside[1:], weight) + self.touch()}


def send(sample: Any, device: torch.device) -> Any:
    """A sample with all of its tensors on a device."""
    if isinstance(sample, Tensor):
        return sample.to(device)
    if sample is None:
        return None
    parts = [send(part, device) for part in sample]
    return type(sample)(*parts) if hasattr(sample, "_fields") else tuple(parts)


def frame_points(height: int, width: int, device: torch.device) -> Tensor:
    """Pixel centres (H, W, 2) x, y."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5,
        torch.arange(width, device=device) + 0.5,
        indexing="ij",
    )
    return torch.stack((x, y), -1)


def pixel_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean binary cross-entropy over the cells that count; 0 where none does."""
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return (each * weight).sum() / weight.sum().clamp(min=1.0)


def targets(
    masks: Tensor, own: Tensor, boxes: Tensor, index: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """What box masks should be, and where that is known.

    masks (B, H, W) index masks, own (N,) object numbers, boxes (N, 4) px, index (N,) frame
    of each. Returns two (N, 1, size, size): the share of each cell that the object covers,
    and the share that is not void.
    """
    frames = masks[index]
    alone = torch.arange(len(boxes), device=boxes.device)
    inside = (frames == own[:, None, None]).float()[:, None]
    void = (frames == VOID).float()[:, None]
    both = geometry.roi_align(torch.cat((inside, void), 1), boxes, size, 1, alone)
    return both[:, :1].clamp(0, 1), (1 - both[:, 1:]).clamp(0, 1)


def tight_box(inside: Tensor) -> Tensor:
    """Tight box (4,) px of a mask (H, W) that is not empty."""
    ys, xs = torch.nonzero(inside.any(1)).flatten(), torch.nonzero(inside.any(0)).flatten()
    return torch.stack((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1)).float()


def boxes_of(mask: Tensor, labels: Mapping[int, int]) -> dict[int, Tensor]:
    """Tight boxes (1, 4) by number of the objects in a frame that are large enough."""
    counts = torch.bincount(mask.flatten().long(), minlength=256).tolist()
    return {n: tight_box(mask == n)[None] for n in labels if counts[n] >= LEAST}


def followed(clip: Clip, most: int, random: torch.Generator) -> list[int]:
    """Numbers of objects that are large enough in the first frame, at random `most`."""
    counts = np.bincount(clip.masks[0].ravel(), minlength=256)
    numbers = [n for n in sorted(clip.labels) if counts[n] >= LEAST]
    order = torch.randperm(len(numbers), generator=random).tolist()
    return sorted(numbers[i] for i in order[:most])


def jittered_boxes(
    masks: Tensor, labels: Mapping[int, int], settings: TrainSettings, random: torch.Generator
) -> tuple[Tensor, Tensor, list[int]]:
    """Boxes as the proposal network gives them: near each object, and on the background.

    masks (T, H, W). Returns boxes (N, 4) px, the frame of each (N,), and the object's
    number, -1 for background.
    """
    height, width = masks.shape[-2:]
    limit = torch.tensor([width, height, width, height], device=masks.device).float()
    boxes, index, numbers = [], [], []
    for t, mask in enumerate(masks):
        known = boxes_of(mask, labels)
        for n, tight in known.items():
            side = (tight[:, 2:] - tight[:, :2]).repeat(1, 2)
            noise = torch.randn(settings.boxes - 1, 4, generator=random).to(tight) * 0.08
            near = torch.cat((tight, (tight + noise * side).clamp(min=0).minimum(limit)))
            near = near[box_iou(near, tight)[:, 0] >= POSITIVE]
            boxes.append(near)
            numbers += [n] * len(near)
            index += [t] * len(near)
        far = background(mask, list(known.values()), settings.negatives, limit, random)
        boxes.append(far)
        numbers += [-1] * len(far)
        index += [t] * len(far)
    joined = torch.cat(boxes) if boxes else limit.new_zeros((0, 4))
    return joined, torch.tensor(index, dtype=torch.long, device=masks.device), numbers


def background(
    mask: Tensor, known: Sequence[Tensor], count: int, limit: Tensor, random: torch.Generator
) -> Tensor:
    """Random boxes (N, 4) that hold neither an object nor void."""
    if not count:
        return limit.new_zeros((0, 4))
    draws = torch.rand(count, 4, generator=random).to(limit)
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


def raggedness(share: float, random: torch.Generator) -> Tensor | None:
    """Noise (1, 1, cells, cells) that makes a mask coarse and ragged; for a `share` of masks."""
    if float(torch.rand((), generator=random)) >= share:
        return None
    cells = int(torch.randint(*COARSE, (), generator=random))
    return torch.randn((1, 1, cells, cells), generator=random) * 0.15


def degrade(masks: Tensor, ragged: Sequence[Tensor | None]) -> Tensor:
    """Starting masks (N, 1, s, s), some of them coarse and ragged, as retrieved ones are."""
    rows = []
    for mask, noise in zip(masks.split(1), ragged, strict=True):
        if noise is not None:
            coarse = F.adaptive_avg_pool2d(mask, noise.shape[-1]) + noise
            large = F.interpolate(coarse, mask.shape[-1], mode="bilinear")
            mask = torch.sigmoid((large - 0.5) * 12)
        rows.append(mask)
    return torch.cat(rows)
