"""What is minimised: L = L_reid + lambda (L_mask + L_remp), the RPN's losses, MSK's loss.

An objective holds the networks that it trains by their name in the weights file and turns
a batch of clips into named losses, each the mean over the clips of the clip's own. Everything
random in it follows from the clips' numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import geometry, propagation
from models.backbone import STRIDE, Trunk
from models.config import Architecture
from models.mask_network import MaskNetwork
from models.msk import MSK
from models.networks import Networks
from models.oim import OIM
from models.reid_network import ReIDNetwork
from models.remp import ReMP
from models.rpn import RPN
from stages.boxmask import VOID
from training.batch import Batch
from training.boxes import unknown
from training.settings import TrainSettings

SAMPLES = 4
"""points a side at which the cells of a target are counted"""
FRAMES = {"cpu": 1, "cuda": 8}
"""frames that a frozen trunk takes together"""
ROWS = {"cpu": 1, "cuda": 8}
"""RoIs run in multiples of so many, for few shapes; those that are added have no loss"""
COARSE = (4, 12)
"""cells a side of a degraded starting mask"""

Losses = dict[str, Tensor]


class Objective(nn.Module):
    """Networks under training; forward() gives the losses of a batch, to be summed."""

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

    def forward(self, batch: Batch) -> Losses:
        raise TypeError(f"{type(self).__name__} has no losses")

    def parts(self) -> Sequence[Objective]:
        """What learns apart: each has a gradient of its own length."""
        return [self]

    def touch(self) -> Tensor:
        """Zero, with a gradient of zero for every weight: no clip leaves one without."""
        return sum((p.sum() * 0 for p in self.parameters() if p.requires_grad), torch.zeros(()))

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
        """f and f4 in float32 of frames (T, 3, H, W) uint8."""
        device = frames.device.type
        if self._trunk is None:
            made = Networks(self.architecture, {"trunk": self.source}, device, self.precision)
            self._trunk = made.need("trunk", Trunk)
        assert self._trunk is not None
        with torch.no_grad(), torch.autocast(device, enabled=False):
            rows = [self._trunk(part) for part in frames.split(FRAMES[device])]
        coarse = torch.cat([row[0] for row in rows]).float()
        fine = [row[1] for row in rows if row[1] is not None]
        return coarse, torch.cat(fine).float() if fine else None


class DyeNetObjective(Objective):
    """The joint loss of section 3.3; both kinds of Re-MP learn alike."""

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

    def forward(self, batch: Batch) -> Losses:
        """The losses of the networks that are there: `reid`, `mask`, `remp`, `remp_plain`."""
        coarse, fine = self._features(batch.pixels)
        losses: Losses = {}
        if "reid" in self.modules_by_name:
            losses["reid"] = self._reid(coarse, batch)
        if "mask" in self.modules_by_name:
            losses["mask"] = self.settings.mask_weight * self._mask(coarse, batch)
        for name in ("remp", "remp_plain"):
            if name in self.modules_by_name:
                losses[name] = self.settings.mask_weight * self._remp(name, coarse, fine, batch)
        some = next(iter(losses))
        losses[some] = losses[some] + self.touch().to(coarse.device)
        return losses

    def _features(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """f and f4 in float32."""
        if self.frozen is not None:
            return self.frozen(frames)
        coarse, fine = self.trunk(frames)
        return coarse.float(), None if fine is None else fine.float()

    def _reid(self, coarse: Tensor, batch: Batch) -> Tensor:
        """L_reid over jittered boxes of every object in every frame, and of the background."""
        if not len(batch.boxes):
            return coarse.new_zeros(())
        network: ReIDNetwork = self.modules_by_name["reid"]  # type: ignore[assignment]
        scene = network.scene(coarse)
        small = geometry.roi_align(scene, batch.boxes, self.a.reid_size, STRIDE, batch.box_frames)
        embeddings = network(small.to(network.project.weight))
        clips, labels = batch.box_frames // batch.masks.shape[1], batch.box_labels
        self._seen.append((embeddings.detach(), labels))
        return clip_mean(self.oim(embeddings, labels), (labels >= 0).float(), clips, len(batch))

    def _mask(self, coarse: Tensor, batch: Batch) -> Tensor:
        """L_mask over the jittered boxes of every object in every frame."""
        if not len(batch.inside):
            return coarse.new_zeros(())
        added, real = padding(len(batch.inside), 8 * ROWS[coarse.device.type], coarse)
        inside = torch.cat((batch.inside, batch.inside[-1:].expand(added)))
        network: MaskNetwork = self.modules_by_name["mask"]  # type: ignore[assignment]
        boxes, index = batch.boxes[inside], batch.box_frames[inside]
        x = geometry.roi_align(coarse, boxes, self.a.roi_size, STRIDE, index)
        logits = network(x.to(network.predict.weight))
        clips = index // batch.masks.shape[1]
        frames, own = batch.masks.flatten(0, 1)[index], batch.box_objects[inside]
        target, weight = targets(frames, batch.sizes[clips], own, boxes, self.a.roi_size)
        return pixel_loss(logits, target, weight * real, clips, len(batch))

    def _remp(self, name: str, coarse: Tensor, fine: Tensor | None, batch: Batch) -> Tensor:
        """L_remp: the recurrence unrolled over the clips, its own masks fed back."""
        remp: ReMP = self.modules_by_name[name]  # type: ignore[assignment]
        pairs = [(b, n) for b, numbers in enumerate(batch.followed) for n in numbers]
        if not pairs:
            return coarse.new_zeros(())
        by_clip = (len(batch), -1)
        coarse = coarse.unflatten(0, by_clip)
        fine = None if fine is None else fine.unflatten(0, by_clip)
        added, real = padding(len(pairs), ROWS[coarse.device.type], coarse)
        # what is added is in no other object's frame
        frames_of = [b for b, _ in pairs] + [-1 - n for n in range(added)]
        pairs += pairs[-1:] * added
        own = torch.tensor([n for _, n in pairs], device=coarse.device)
        index = torch.tensor([b for b, _ in pairs], device=coarse.device)
        tight = torch.tensor([batch.tight[b][0][n] for b, n in pairs]).to(coarse)

        def wanted(t: int, boxes: Tensor) -> tuple[Tensor, Tensor]:
            frames = batch.masks[:, t][index]
            return targets(frames, batch.sizes[index], own, boxes, self.a.mask_size)

        def thin(t: int) -> Tensor | None:
            return None if fine is None else fine[:, t]

        roi = geometry.roi_box(tight, self.a.margin)
        given, _ = wanted(0, roi)
        memory = propagation.memorise(remp, self.a, coarse[:, 0], roi, given, index)
        if memory is not None:
            memory = memory.with_others(self.a.roi_size**2, frames_of)
        start = degrade(given, self.settings.degrade, [batch.numbers[b] for b, _ in pairs])
        state = propagation.start(remp, self.a, coarse[:, 0], thin(0), roi, start, index, memory)
        total, steps = coarse.new_zeros(()), batch.masks.shape[1] - 1
        for t in range(1, steps + 1):
            flow = batch.to_previous[:, t - 1]
            state = propagation.step(remp, self.a, state, coarse[:, t], thin(t), flow, index)
            assert state.logits is not None
            target, weight = wanted(t, state.boxes)
            weight = weight * real * state.alive[:, None, None, None]
            loss = pixel_loss(state.logits, target, weight, index, len(batch))
            total = total + loss / steps
        return total

    def seen(self) -> list[Any]:
        seen, self._seen = self._seen, []
        return [(e.cpu(), r.cpu()) for e, r in seen]

    def after_step(self, seen: Sequence[Any]) -> None:
        """Move OIM's table and queue."""
        device = self.oim.table.device
        for embeddings, rows in seen:
            self.oim.update(embeddings.to(device), rows.to(device))


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

    def forward(self, batch: Batch) -> Losses:
        """The losses `objectness` and `boxes`; anchors on void count for neither."""
        frames, masks = batch.pixels, batch.masks.flatten(0, 1)
        coarse, _ = self.frozen(frames)
        anchors, logits, deltas = self.rpn.outputs(coarse, (frames.shape[2], frames.shape[3]))
        known = [boxes for clip in batch.tight for boxes in clip]
        truth = [
            {"boxes": torch.tensor([*boxes.values()]).view(-1, 4).to(coarse)} for boxes in known
        ]
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, truth)
        labels = [
            torch.where((label == 0) & unknown(mask, anchor), -torch.ones_like(label), label)
            for label, mask, anchor in zip(labels, masks, anchors, strict=True)
        ]
        wanted = self.rpn.box_coder.encode(matched, anchors)
        # the sampler draws from torch's own generator
        device = coarse.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(batch.numbers[0])
            objectness, boxes = self.rpn.compute_loss(
                logits.reshape(-1, 1), deltas.reshape(-1, 4), labels, list(wanted)
            )
        return {"objectness": objectness + self.touch().to(device), "boxes": boxes}


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

    def forward(self, batch: Batch) -> Losses:
        """The loss `msk`, the mean over the clips' later frames for one object of each."""
        device = batch.masks.device
        chosen = [(b, numbers[0]) for b, numbers in enumerate(batch.followed) if numbers]
        if not chosen:
            return {"msk": self.touch().to(device)}
        steps = batch.masks.shape[1] - 1
        index = torch.tensor([b for b, _ in chosen], device=device)
        own = torch.tensor([n for _, n in chosen], device=device)[:, None, None, None]
        masks, flow = batch.masks[index], batch.to_previous[index].flatten(0, 1)
        inside = (masks == own).float()
        extent = torch.tensor([batch.tight[b][0][n] for b, n in chosen], device=device)
        scale, shift = deformation([batch.numbers[b] for b, _ in chosen], steps)
        extent = extent.repeat_interleave(steps, 0)
        moved = deformed(flow, extent, scale.to(device), shift.to(device))
        height, width = masks.shape[-2:]
        box = flow.new_tensor([[0, 0, width, height]]).expand(len(flow), 4)
        warped = geometry.sample_box(inside[:, :-1].flatten(0, 1)[:, None], box, moved)
        frames = batch.frames[index, 1:].flatten(0, 1).permute(0, 3, 1, 2)
        logits = self.msk(frames, warped)
        weight = (masks[:, 1:] != VOID).float().flatten(0, 1)[:, None]
        target = inside[:, 1:].flatten(0, 1)[:, None]
        clips = index.repeat_interleave(steps)
        loss = pixel_loss(logits, target, weight, clips, len(batch))
        return {"msk": loss + self.touch().to(device)}


class Beside(Objective):
    """Objectives without a weight in common, in one run; each learns as it would alone."""

    def __init__(self, *objectives: Objective) -> None:
        super().__init__()
        self.objectives = nn.ModuleList(objectives)
        self.modules_by_name = {
            name: module for part in objectives for name, module in part.modules_by_name.items()
        }

    def parts(self) -> Sequence[Objective]:
        return list(self.objectives)  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> Losses:
        """The losses of all."""
        return {name: loss for part in self.objectives for name, loss in part(batch).items()}

    def seen(self) -> list[Any]:
        """What each part has seen, with the part's number."""
        return [(n, item) for n, part in enumerate(self.parts()) for item in part.seen()]

    def after_step(self, seen: Sequence[Any]) -> None:
        for n, part in enumerate(self.parts()):
            part.after_step([item for number, item in seen if number == n])


def deformation(numbers: Sequence[int], steps: int) -> tuple[Tensor, Tensor]:
    """A scale (N, 1) and a shift (N, 2) for every step of every clip, by its number.

    A little smaller, larger and shifted, as a predicted mask is.
    """
    scales, shifts = [], []
    for number in numbers:
        random = torch.Generator().manual_seed(number)
        scales.append(1 + 0.05 * torch.randn(steps, 1, generator=random))
        shifts.append(0.05 * torch.randn(steps, 2, generator=random))
    return torch.cat(scales), torch.cat(shifts)


def deformed(flow: Tensor, extent: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Where each pixel of a frame is read in the last mask: (N, H, W, 2) px.

    flow (N, 2, H, W) leads to that frame, extent (N, 4) is the object's box, of which `shift`
    is in sides.
    """
    side, middle = extent[:, 2:] - extent[:, :2], (extent[:, :2] + extent[:, 2:]) / 2
    moved = frame_points(flow.shape[2], flow.shape[3], flow.device) + flow.permute(0, 2, 3, 1)
    middle = middle[:, None, None]
    return (moved - middle) * scale[..., None, None] + middle + (shift * side)[:, None, None]


def frame_points(height: int, width: int, device: torch.device) -> Tensor:
    """Pixel centres (H, W, 2) x, y."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5,
        torch.arange(width, device=device) + 0.5,
        indexing="ij",
    )
    return torch.stack((x, y), -1)


def padding(count: int, multiple: int, like: Tensor) -> tuple[int, Tensor]:
    """How many rows lead from `count` to a multiple, and which of all are real: (N, 1, 1, 1)."""
    added = -count % multiple
    return added, torch.cat((like.new_ones(count), like.new_zeros(added)))[:, None, None, None]


def clip_mean(values: Tensor, weight: Tensor, clips: Tensor, count: int) -> Tensor:
    """The mean over `count` clips of each clip's weighted mean, 0 where nothing counts.

    values and weight (N, ...), clips (N,): the clip of each row.
    """
    sums = [values.new_zeros(count) for _ in range(2)]
    for total, part in zip(sums, (values * weight, weight), strict=True):
        total.index_add_(0, clips, part.flatten(1).sum(1) if part.ndim > 1 else part)
    return (sums[0] / sums[1].clamp(min=1.0)).mean()


def pixel_loss(logits: Tensor, target: Tensor, weight: Tensor, clips: Tensor, count: int) -> Tensor:
    """Mean binary cross-entropy over the cells that count, as clip_mean()."""
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return clip_mean(each, weight, clips, count)


def targets(
    frames: Tensor, sizes: Tensor, own: Tensor, boxes: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """What box masks should be, and where that is known.

    frames (N, H, W) index masks, each of which fills sizes (N, 2) px at the top left, own (N,)
    object numbers, boxes (N, 4) px. Returns two (N, 1, size, size): the share of each cell that
    the object covers, and the share that is not void. Beyond the frame lies its mirror image: an
    object that the frame cuts has no edge there.
    """
    extent = sizes.flip(1)[:, None, None]
    points = geometry.mirrored(geometry.centres(boxes, SAMPLES * size), extent.to(boxes))
    x, y = points.floor().long().minimum(extent - 1).unbind(-1)
    rows = torch.arange(len(frames), device=frames.device)[:, None, None]
    values = frames[rows, y, x][:, None]
    inside = F.avg_pool2d((values == own[:, None, None, None]).float(), SAMPLES)
    return inside, F.avg_pool2d((values != VOID).float(), SAMPLES)


def degrade(masks: Tensor, share: float, numbers: Sequence[int]) -> Tensor:
    """Starting masks (N, 1, s, s), some of them coarse and ragged, as retrieved ones are.

    numbers: of the clip that each is from, in order; they seed what is drawn.
    """
    rows: list[Tensor] = []
    for n, mask in enumerate(masks.split(1)):
        if n == 0 or numbers[n] != numbers[n - 1]:
            random = np.random.default_rng(numbers[n])
        if random.random() < share:
            coarse = F.adaptive_avg_pool2d(mask, int(random.integers(*COARSE)))
            noise = torch.from_numpy(random.normal(0, 0.15, coarse.shape)).to(mask)
            ragged = F.interpolate(coarse + noise, mask.shape[-1], mode="bilinear")
            mask = torch.sigmoid((ragged - 0.5) * 12)
        rows.append(mask)
    return torch.cat(rows)
