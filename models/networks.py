"""The networks of one weights file, ready for inference: what the stages call.

Arrays in, arrays out. RoIs run in chunks of one fixed shape, padded, so that a result
never depends on what else happened to be in its batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import geometry, propagation
from models.backbone import STRIDE, fold_batch_norms, leave_cudnn, pin_kernels
from models.config import Architecture
from models.mask_network import MaskNetwork
from models.memory import Memory
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

    @property
    def boxes(self) -> Array:
        """RoI boxes (N, 4) float32 px."""
        return np.concatenate([p.boxes.float().cpu().numpy() for p in self.parts])

    @property
    def masks(self) -> npt.NDArray[np.uint8]:
        """(N, s, s) probability * 255."""
        return np.concatenate([to_bytes(p.mask[:, 0]) for p in self.parts])

    @property
    def alive(self) -> npt.NDArray[np.bool_]:
        """(N,) False where the warped mask was empty."""
        return np.concatenate([p.alive.cpu().numpy() for p in self.parts])

    @property
    def attention(self) -> Array | None:
        """a_j (N, m, m) of the last step, None before it or without attention."""
        maps = [p.attention for p in self.parts]
        if any(a is None for a in maps):
            return None
        return np.concatenate([a[:, 0].float().cpu().numpy() for a in maps if a is not None])


def to_bytes(probability: Tensor) -> npt.NDArray[np.uint8]:
    """Probabilities to uint8, 255 being 1."""
    return (probability.float() * 255).round().to(torch.uint8).cpu().numpy()


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
        """A module of MODULES by name and class; ValueError names what the weights file lacks."""
        module = self.modules.get(name)
        if not isinstance(module, kind):
            raise ValueError(f"the weights hold no module {name!r}, which this stage needs")
        return module

    def tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        """An array on this device as float32."""
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self.device).float()

    def frame(self, array: npt.NDArray[np.generic]) -> Tensor:
        """(C, h, w) to (1, C, h, w) float32 on this device."""
        return self.tensor(array)[None]

    # --- Re-ID -------------------------------------------------------------------

    def _chunks(
        self, f: Tensor, boxes: Array, size: int, count: int
    ) -> Iterator[tuple[Tensor, int]]:
        """RoI features of `count` boxes at a time, the last chunk padded; real count."""
        index = torch.zeros(count, dtype=torch.long, device=self.device)
        for padded, n in _padded(boxes, count):
            x = geometry.roi_align(f, self.tensor(padded), size, STRIDE, index)
            yield x.to(self.dtype).contiguous(memory_format=torch.channels_last), n

    def embed(self, f: npt.NDArray[np.float16], boxes: Array) -> Array:
        """Embeddings of boxes (N, 4) px in features (C, h, w): (N, 256), unit length."""
        network, a = self.need("reid", ReIDNetwork), self.architecture
        with self.inference():
            feature = network.scene(self.frame(f))
            if network.learnt:
                chunks = self._chunks(feature, boxes, a.reid_size, EMBED_CHUNK[self.device.type])
                rows = [network(x)[:n].cpu().numpy() for x, n in chunks]
            else:
                scene = feature[0].double()
                rows = [
                    network.shortcut(scene, self.tensor(padded))[:n].cpu().numpy()
                    for padded, n in _padded(boxes, SHORTCUT_CHUNK)
                ]
        return np.concatenate(rows) if rows else np.zeros((0, a.embedding), np.float32)

    def masks(self, f: npt.NDArray[np.float16], boxes: Array) -> npt.NDArray[np.uint8]:
        """Masks of the main instance in boxes (N, 4) px: (N, s, s) probability * 255."""
        network, a = self.need("mask", MaskNetwork), self.architecture
        rows = []
        with self.inference():
            feature = self.frame(f)
            together = MASK_CHUNK[self.device.type]
            for x, n in self._chunks(feature, boxes, a.roi_size, together):
                probability = torch.sigmoid(network(x)[:n])
                size = (a.mask_size, a.mask_size)
                rows.append(to_bytes(F.interpolate(probability, size, mode="bilinear")[:, 0]))
        return np.concatenate(rows) if rows else np.zeros((0, *(a.mask_size,) * 2), np.uint8)

    # --- Re-MP -------------------------------------------------------------------

    def _remp(self, plain: bool) -> ReMP:
        return self.need("remp_plain" if plain else "remp", ReMP)

    def start(
        self,
        f: npt.NDArray[np.float16],
        fine: npt.NDArray[np.float16] | None,
        boxes: Array,
        masks: npt.NDArray[np.uint8],
        *,
        plain: bool = False,
        given: Sequence[tuple[Memory, bool]] = (),
    ) -> State:
        """State of N objects in one frame.

        f (C, h, w), fine (C4, h4, w4) or None, boxes (N, 4) px that the masks
        (N, t, t) probability * 255 fill (any side t). The RoI box of each object is that
        of its mask's tight box. given: what given masks show (remember()), each with whether
        it is of the same object.
        """
        remp = self._remp(plain)
        a = self.architecture
        index = torch.zeros(1, dtype=torch.long, device=self.device)
        parts: list[Recurrence] = []
        with self.inference():
            coarse, thin = self.frame(f), None if fine is None else self.frame(fine)
            for i in range(len(boxes)):
                roi, mask = self._roi(boxes[i : i + 1], masks[i : i + 1])
                memory = propagation.memorise(remp, a, coarse, roi, mask, index)
                if memory is not None and given:
                    memory = memory.beside(given, a.roi_size**2)
                parts.append(propagation.start(remp, a, coarse, thin, roi, mask, index, memory))
        return State(parts, areas(parts))

    def remember(
        self, f: npt.NDArray[np.float16], box: Array, mask: npt.NDArray[np.uint8], *, plain: bool
    ) -> Memory | None:
        """What a given mask (t, t) in a box (4,) px shows; None without the extension."""
        index = torch.zeros(1, dtype=torch.long, device=self.device)
        with self.inference():
            roi, shown = self._roi(box[None], mask[None])
            return propagation.memorise(
                self._remp(plain), self.architecture, self.frame(f), roi, shown, index
            )

    def recognise(self, f: npt.NDArray[np.float16], memory: Memory, *, plain: bool) -> Tensor:
        """How surely each cell of a frame, FRAME_CELL px a side, shows the object: (h, w), 0..1.

        memory: of remember(), so without later frames. ValueError if Re-MP has no memory.
        """
        remp = self._remp(plain)
        if remp.memory is None:
            raise ValueError("this Re-MP has no appearance memory")
        with self.inference():
            x = propagation.whole_frame(self.frame(f).to(remp.memory.project.weight))
            return remp.memory(x, memory.origin())[0, -1]

    def _roi(self, box: Array, mask: npt.NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """RoI box (1, 4) of a mask (1, t, t) that fills a box (1, 4), and the mask in it."""
        given, outer = self.tensor(mask)[:, None] / 255, self.tensor(box)
        tight, _ = geometry.tight_boxes(given[:, 0] > 0.5, outer)
        roi = geometry.roi_box(tight, self.architecture.margin)
        places = geometry.centres(roi, self.architecture.mask_size)
        return roi, geometry.sample_box(given, outer, places)

    def step(
        self,
        state: State,
        f: npt.NDArray[np.float16],
        fine: npt.NDArray[np.float16] | None,
        flow: Array,
        *,
        plain: bool = False,
    ) -> State:
        """Carry every object of `state` into the next frame.

        f, fine: that frame's features; flow (2, H, W) px on that frame's grid, leading to
        the frame that `state` is in.
        """
        remp = self._remp(plain)
        a = self.architecture
        size = STEP_CHUNK[self.device.type]
        parts: list[Recurrence] = []
        with self.inference():
            coarse, field = self.frame(f), self.frame(flow)
            thin = None if fine is None else self.frame(fine)
            index = torch.zeros(size, dtype=torch.long, device=self.device)
            for first in range(0, len(state), size):
                chunk = state.parts[first : first + size]
                joined = join(chunk + [chunk[-1]] * (size - len(chunk)))
                moved = propagation.step(remp, a, joined, coarse, thin, field, index)
                parts += split(moved)[: len(chunk)]
        return State(parts, areas(parts))


def _padded(boxes: Array, count: int) -> Iterator[tuple[Array, int]]:
    """Boxes (N, 4), `count` at a time, the last chunk padded; the real count."""
    for first in range(0, len(boxes), count):
        chunk = boxes[first : first + count]
        yield np.concatenate([chunk, np.repeat(chunk[-1:], count - len(chunk), 0)]), len(chunk)


def areas(parts: Sequence[Recurrence]) -> Array:
    """(N,) mask areas in px."""
    rows = [geometry.box_areas(p.mask, p.boxes).cpu().numpy() for p in parts]
    return np.concatenate(rows) if rows else np.zeros(0, np.float32)


def join(parts: Sequence[Recurrence]) -> Recurrence:
    """One recurrence over all objects of several."""
    memories = [p.memory for p in parts if p.memory is not None]
    memory = Memory(*map(torch.cat, zip(*memories, strict=True))) if memories else None
    return Recurrence(
        torch.cat([p.boxes for p in parts]),
        torch.cat([p.hidden for p in parts]),
        torch.cat([p.mask for p in parts]),
        memory,
        torch.cat([p.alive for p in parts]),
    )


def split(joined: Recurrence) -> list[Recurrence]:
    """The inverse of join()."""

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
