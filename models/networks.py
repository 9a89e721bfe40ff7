"""The networks of one weights file, ready for inference: what the stages call.

Stages hand in arrays and get arrays; between the two, what runs on the device takes and
returns tensors. RoIs run in chunks of one fixed shape, padded, so that a result never depends
on what else happened to be in its batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import geometry, propagation
from models.backbone import STRIDE, fold_batch_norms, leave_cudnn, pin_kernels
from models.config import Architecture
from models.errors import BadWeights
from models.mask_network import MaskNetwork
from models.memory import Given, Memory, stack
from models.propagation import Recurrence
from models.reid_network import ReIDNetwork
from models.remp import ReMP

MODULES = ("trunk", "rpn", "mask", "reid", "remp", "remp_plain", "msk")
EMBED_CHUNK = {"cpu": 4, "cuda": 20}
"""RoIs that embed() runs together"""
SHORTCUT_CHUNK = 25
"""boxes that embed() sums up together where Re-ID is its shortcut alone"""
MASK_CHUNK = {"cpu": 1, "cuda": 20}
"""RoIs that masks() runs together: retrieval asks for one or two a frame"""
STEP_CHUNK = {"cpu": 1, "cuda": 8}
"""objects that step() runs together: one alone fills a CPU"""

Array = npt.NDArray[np.float32]
Half = npt.NDArray[np.float16] | Tensor
"""features of a frame, as they lie in an artifact, or on the device already"""
Module = TypeVar("Module", bound=nn.Module)


@dataclass
class State:
    """N objects in one frame of a video, each with its own tensors."""

    parts: list[Recurrence]
    areas: Array
    """(N,) px with probability over 0.5"""

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, chosen: Sequence[int] | slice) -> State:
        rows = range(len(self))[chosen] if isinstance(chosen, slice) else chosen
        return State([self.parts[i] for i in rows], self.areas[list(rows)])

    @staticmethod
    def cat(states: Sequence[State]) -> State:
        """Join states of objects that have reached the same frame."""
        return State(
            [part for state in states for part in state.parts],
            np.concatenate([state.areas for state in states]),
        )

    def ended(self) -> State:
        """The objects as if none had been located."""
        gone = [replace(part, alive=torch.zeros_like(part.alive)) for part in self.parts]
        return State(gone, self.areas)

    @property
    def boxes(self) -> Array:
        """RoI boxes (N, 4) float32 px."""
        return torch.cat([p.boxes for p in self.parts]).float().cpu().numpy()

    @property
    def masks(self) -> npt.NDArray[np.uint8]:
        """(N, s, s) probability * 255."""
        return to_bytes(torch.cat([p.mask[:, 0] for p in self.parts]))

    @property
    def alive(self) -> npt.NDArray[np.bool_]:
        """(N,) False where the warped mask was empty."""
        return torch.cat([p.alive for p in self.parts]).cpu().numpy()

    @property
    def attention(self) -> Array | None:
        """a_j (N, m, m) of the last step, None before it or without attention."""
        maps = [p.attention for p in self.parts]
        if any(a is None for a in maps):
            return None
        return np.concatenate([a[:, 0].float().cpu().numpy() for a in maps if a is not None])


def as_bytes(probability: Tensor) -> Tensor:
    """Probabilities as uint8, 255 being 1."""
    return (probability.float() * 255).round().to(torch.uint8)


def to_bytes(probability: Tensor) -> npt.NDArray[np.uint8]:
    """Probabilities as an array of uint8, 255 being 1."""
    return as_bytes(probability).cpu().numpy()


class Networks:
    """Modules of one architecture on one device in one precision, asked for by need()."""

    def __init__(
        self,
        architecture: Architecture,
        modules: Mapping[str, nn.Module],
        device: str = "cpu",
        precision: str = "bf16",
    ) -> None:
        self.architecture = architecture
        self.device = torch.device(device)
        self.precision = precision
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.modules = {name: self._prepare(module) for name, module in modules.items()}

    def _prepare(self, module: nn.Module) -> nn.Module:
        module = copy.deepcopy(module).eval().requires_grad_(False)
        fold_batch_norms(module)
        if self.device.type == "cuda":
            leave_cudnn(module)
        if self.device.type == "cpu" and self.dtype == torch.float32:
            pin_kernels(module)
        placed = module.to(device=self.device, dtype=self.dtype)
        return placed.to(memory_format=torch.channels_last)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """No gradients, no version counters."""
        with torch.inference_mode():
            yield

    def need(self, name: str, kind: type[Module]) -> Module:
        """A module of MODULES by name and class; BadWeights names what the weights file lacks."""
        module = self.modules.get(name)
        if not isinstance(module, kind):
            raise BadWeights(f"the weights hold no module {name!r}, which this stage needs")
        return module

    def tensor(self, values: npt.NDArray[np.generic] | Tensor) -> Tensor:
        """Values on this device as float32."""
        if not isinstance(values, Tensor):
            values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
        return values.to(self.device).float()

    def frame(self, values: npt.NDArray[np.generic] | Tensor) -> Tensor:
        """(C, h, w) to (1, C, h, w) float32 on this device."""
        return self.tensor(values)[None]

    # --- Re-ID -------------------------------------------------------------------

    def embed(self, f: Half, boxes: Array) -> Array:
        """Embeddings of boxes (N, 4) px in features (C, h, w): (N, 256), unit length."""
        network, count = self.need("reid", ReIDNetwork), EMBED_CHUNK[self.device.type]
        if not len(boxes):
            return np.zeros((0, self.architecture.embedding), np.float32)
        with self.inference():
            scene = network.scene(self.frame(f))
            look = partial(self.embedded, network, scene)
            if not network.learnt:
                # once for all boxes: a pass over the features
                look, count = partial(network.shortcut, scene[0].double()), SHORTCUT_CHUNK
            return self._by_chunks(look, boxes, count)

    def masks(self, f: Half, boxes: Array) -> npt.NDArray[np.uint8]:
        """Masks of the main instance in boxes (N, 4) px: (N, s, s) probability * 255."""
        network, side = self.need("mask", MaskNetwork), self.architecture.mask_size
        if not len(boxes):
            return np.zeros((0, side, side), np.uint8)
        with self.inference():
            look = partial(self.drawn, network, self.frame(f))
            return self._by_chunks(look, boxes, MASK_CHUNK[self.device.type])

    def _by_chunks(
        self, look: Callable[[Tensor], Tensor], boxes: Array, count: int
    ) -> npt.NDArray[Any]:
        """What look(boxes) gives for `count` boxes at a time, the last chunk padded."""
        blank = -len(boxes) % count
        padded = self.tensor(np.concatenate([boxes, np.repeat(boxes[-1:], blank, 0)]))
        rows = [look(chunk) for chunk in padded.split(count)]
        return torch.cat(rows)[: len(boxes)].cpu().numpy()

    def embedded(self, network: ReIDNetwork, scene: Tensor, boxes: Tensor) -> Tensor:
        """Re-ID vectors (N, 256) of boxes (N, 4) px in scene(f) (1, C, h, w)."""
        vectors: Tensor = network(self._cut(scene, boxes, self.architecture.reid_size))
        return vectors

    def drawn(self, network: MaskNetwork, f: Tensor, boxes: Tensor) -> Tensor:
        """Masks (N, s, s) uint8, probability * 255, of boxes (N, 4) px in features (1, C, h, w)."""
        a = self.architecture
        probability = torch.sigmoid(network(self._cut(f, boxes, a.roi_size)))
        large = F.interpolate(probability, (a.mask_size, a.mask_size), mode="bilinear")
        return as_bytes(large[:, 0])

    def _cut(self, f: Tensor, boxes: Tensor, size: int) -> Tensor:
        """RoI features (N, C, size, size) of one frame (1, C, h, w)."""
        index = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
        x = geometry.roi_align(f, boxes, size, STRIDE, index)
        return x.to(self.dtype).contiguous(memory_format=torch.channels_last)

    # --- Re-MP -------------------------------------------------------------------

    def _remp(self, plain: bool) -> ReMP:
        return self.need("remp_plain" if plain else "remp", ReMP)

    def start(
        self,
        f: Half,
        fine: Half | None,
        boxes: Array,
        masks: npt.NDArray[np.uint8],
        *,
        plain: bool = False,
        given: Given = (),
    ) -> State:
        """State of N objects in one frame.

        f (C, h, w), fine (C4, h4, w4) or None, boxes (N, 4) px that the masks
        (N, t, t) probability * 255 fill (any side t). The RoI box of each object is that
        of its mask's tight box. given: what given masks show in their RoIs.
        """
        remp = self._remp(plain)
        with self.inference():
            coarse, thin = self.frame(f), None if fine is None else self.frame(fine)
            outer, shown = self.tensor(boxes), self.tensor(masks)
            parts = [
                self.enter(remp, coarse, thin, outer[i : i + 1], shown[i : i + 1], given)
                for i in range(len(boxes))
            ]
            return State(parts, areas(parts))

    def enter(
        self,
        remp: ReMP,
        f: Tensor,
        fine: Tensor | None,
        box: Tensor,
        mask: Tensor,
        given: Given,
    ) -> Recurrence:
        """One object: f (1, C, h, w), box (1, 4) px, mask (1, t, t) in it, 0..255."""
        a = self.architecture
        index = torch.zeros(1, dtype=torch.long, device=f.device)
        roi, own = self._roi(f, box, mask)
        memory = propagation.memorise(remp, a, f, roi, own, index)
        known = None if memory is None else memory.with_given(given)
        entered = propagation.start(remp, a, f, fine, roi, own, index, known)
        return replace(entered, memory=memory, given=given)

    def remember(
        self, f: Half, box: Array, mask: npt.NDArray[np.uint8], *, plain: bool
    ) -> Memory | None:
        """What a given mask (t, t) in a box (4,) px shows; None without the extension."""
        index = torch.zeros(1, dtype=torch.long, device=self.device)
        with self.inference():
            coarse = self.frame(f)
            roi, shown = self._roi(coarse, self.tensor(box)[None], self.tensor(mask)[None])
            return propagation.memorise(
                self._remp(plain), self.architecture, coarse, roi, shown, index
            )

    def recognise(self, f: Half, memories: Sequence[Memory], *, plain: bool) -> Tensor:
        """How surely each cell of a frame, FRAME_CELL px a side, shows each of K objects.

        memories: of remember(), so without later frames. (K, h, w), 0..1. ValueError if Re-MP has
        no memory.
        """
        with self.inference():
            return self.shown(self._remp(plain), self.frame(f), memories)

    def shown(self, remp: ReMP, f: Tensor, memories: Sequence[Memory]) -> Tensor:
        """As recognise(), in features (1, C, h, w)."""
        if remp.memory is None:
            raise ValueError("this Re-MP has no appearance memory")
        x = propagation.whole_frame(f.to(remp.memory.project.weight))
        keys = remp.memory.keys(x)
        labels = [remp.memory.compare(keys, memory.origin())[0, -1] for memory in memories]
        return torch.stack(labels).unflatten(1, x.shape[-2:])

    def recognised(
        self, part: Recurrence, f: Tensor, box: Tensor, size: int, *, plain: bool
    ) -> Tensor:
        """How surely each cell of a box (1, 4) px shows an object, by all that it remembers.

        f (1, C, h, w). (1, 1, size, size), 0..1. ValueError without a memory.
        """
        remp = self._remp(plain)
        if remp.memory is None or part.memory is None:
            raise ValueError("this Re-MP has no appearance memory")
        index = torch.zeros(1, dtype=torch.long, device=f.device)
        x = geometry.roi_align(f, box, size, STRIDE, index).to(remp.memory.project.weight)
        return remp.memory(x, part.memory.with_given(part.given))[:, -1:]

    def _roi(self, f: Tensor, box: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """RoI box (1, 4) of a mask (1, t, t), 0..255, that fills a box (1, 4), and it in there.

        f (1, C, h, w): of its frame, beyond which the mask is mirrored.
        """
        given = mask[:, None] / 255
        height, width = (STRIDE * side for side in f.shape[-2:])
        extent = box.new_tensor([width, height])
        tight, _ = geometry.tight_boxes(given[:, 0] > 0.5, box)
        tight = tight.clamp(min=0).minimum(extent.repeat(2))
        roi = geometry.roi_box(tight, self.architecture.margin)
        places = geometry.mirrored(geometry.centres(roi, self.architecture.mask_size), extent)
        return roi, geometry.sample_box(given, box, places)

    def step(
        self,
        state: State,
        f: Half,
        fine: Half | None,
        flow: Array,
        *,
        plain: bool = False,
    ) -> State:
        """Carry every object of `state` into the next frame.

        f, fine: that frame's features; flow (2, H, W) px on that frame's grid, leading to
        the frame that `state` is in.
        """
        remp, size = self._remp(plain), STEP_CHUNK[self.device.type]
        with self.inference():
            coarse, field = self.frame(f), self.frame(flow)
            thin = None if fine is None else self.frame(fine)
            parts: list[Recurrence] = []
            for first in range(0, len(state), size):
                chunk = state.parts[first : first + size]
                parts += self.advance(remp, chunk, coarse, thin, field, size)
            return State(parts, areas(parts))

    def advance(
        self,
        remp: ReMP,
        parts: Sequence[Recurrence],
        f: Tensor,
        fine: Tensor | None,
        flow: Tensor,
        size: int,
    ) -> list[Recurrence]:
        """The next state of at most `size` objects, padded to that many; f (1, C, h, w)."""
        index = torch.zeros(size, dtype=torch.long, device=f.device)
        joined = join([*parts, *[parts[-1]] * (size - len(parts))])
        moved = propagation.step(remp, self.architecture, joined, f, fine, flow, index)
        rows = split(moved)[: len(parts)]
        return [_kept(now, before) for now, before in zip(rows, parts, strict=True)]


def areas(parts: Sequence[Recurrence]) -> Array:
    """(N,) mask areas in px."""
    rows = [geometry.box_areas(p.mask, p.boxes) for p in parts]
    return torch.cat(rows).cpu().numpy() if rows else np.zeros(0, np.float32)


def join(parts: Sequence[Recurrence]) -> Recurrence:
    """One recurrence over all objects of several."""
    memories = [p.memory.with_given(p.given) for p in parts if p.memory is not None]
    memory = stack(memories) if memories else None
    return Recurrence(
        torch.cat([p.boxes for p in parts]),
        torch.cat([p.hidden for p in parts]),
        torch.cat([p.mask for p in parts]),
        memory,
        torch.cat([p.alive for p in parts]),
    )


def split(joined: Recurrence) -> list[Recurrence]:
    """One recurrence for each object of one; their memories hold what joined them."""

    def row(tensor: Tensor | None, i: int) -> Tensor | None:
        return None if tensor is None else tensor[i : i + 1]

    return [
        Recurrence(
            joined.boxes[i : i + 1],
            joined.hidden[i : i + 1],
            joined.mask[i : i + 1],
            None if joined.memory is None else Memory(*(row[i : i + 1] for row in joined.memory)),
            joined.alive[i : i + 1],
            row(joined.logits, i),
            row(joined.attention, i),
        )
        for i in range(len(joined.boxes))
    ]


def _kept(now: Recurrence, before: Recurrence) -> Recurrence:
    """One object after a step; of the starting frame and the given masks it holds no copy."""
    if now.memory is None or before.memory is None:
        return now
    memory = now.memory._replace(keys=before.memory.keys, sides=before.memory.sides)
    return replace(now, memory=memory, given=before.given)
