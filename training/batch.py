"""Several clips as one batch of tensors, made ahead of the networks by other processes.

What a batch holds follows from the clips and their numbers alone, so a resumed run sees the
same ones, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.oim import UNLABELLED
from stages.boxmask import VOID
from stages.errors import BadInput
from training.boxes import boxes_of, followed, jittered_boxes
from training.clips import Clip
from training.settings import TrainSettings

AHEAD = 3
"""batches that each loading process makes ahead"""
CANVAS = {"cpu": 1, "cuda": 128}
"""px to whose multiples frames are padded: cuDNN plans every convolution anew for a new size"""


@dataclass(frozen=True)
class Batch:
    """B clips of T frames, at the top left of frames of one size; what is added is void."""

    frames: Tensor
    """(B, T, H, W, 3) uint8 RGB"""
    masks: Tensor
    """(B, T, H, W) uint8: 0 background, 255 void, else a number that `labels` knows"""
    to_previous: Tensor
    """(B, T - 1, 2, H, W) float32 px: row t leads from frame t + 1 to frame t"""
    sizes: Tensor
    """(B, 2) height and width of each clip in px"""
    labels: Sequence[Mapping[int, int]]
    """of each clip: identity (a row of OIM's table) by the number in the masks"""
    numbers: Sequence[int]
    """of the clips; they seed what is drawn from them"""
    tight: Sequence[Sequence[Mapping[int, list[float]]]]
    """by clip and frame: tight box px by number of the object"""
    followed: Sequence[Sequence[int]]
    """of each clip: the objects that Re-MP follows from its first frame"""
    boxes: Tensor
    """(N, 4) px: jittered boxes of all frames, as the proposal network gives them"""
    box_frames: Tensor
    """(N,) which of the B T frames each lies in"""
    box_objects: Tensor
    """(N,) number of its object, -1 on the background"""
    box_labels: Tensor
    """(N,) identity of its object, UNLABELLED on the background"""
    inside: Tensor
    """rows of those boxes that belong to an object"""

    def __len__(self) -> int:
        return len(self.numbers)

    def to(self, device: torch.device) -> Batch:
        """The same, its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        held: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {n: change(v) for n, v in held.items() if isinstance(v, Tensor)}
        return replace(self, **changed)

    def pin_memory(self) -> Batch:
        """The same in memory from which a GPU copies while it computes."""
        return self._each(Tensor.pin_memory)

    @property
    def pixels(self) -> Tensor:
        """(B T, 3, H, W) uint8."""
        return self.frames.flatten(0, 1).permute(0, 3, 1, 2)


def collate(clips: Sequence[Clip], settings: TrainSettings, canvas: int = 1) -> Batch:
    """Clips, of equal length, as a batch, with what is drawn from each one's number.

    Its frames are as large as the largest, in multiples of `canvas` px.
    """
    rows = [_drawn(clip, settings) for clip in clips]
    height, width = (
        -(-max(clip.masks.shape[side] for clip in clips) // canvas) * canvas for side in (1, 2)
    )
    length = len(clips[0].masks)

    def padded(arrays: Sequence[np.ndarray], axis: int, value: int) -> Tensor:
        """(B, ...), enlarged along `axis` and the axis after it."""
        grown = []
        for array in arrays:
            pad = [(0, 0)] * array.ndim
            pad[axis] = (0, height - array.shape[axis])
            pad[axis + 1] = (0, width - array.shape[axis + 1])
            grown.append(np.pad(array, pad, constant_values=value))
        return torch.from_numpy(np.stack(grown))

    objects = torch.cat([row["objects"] for row in rows])
    return Batch(
        frames=padded([clip.frames for clip in clips], 1, 0),
        masks=padded([clip.masks for clip in clips], 1, VOID),
        to_previous=padded([clip.to_previous for clip in clips], 2, 0),
        sizes=torch.tensor([clip.masks.shape[1:] for clip in clips]),
        labels=[clip.labels for clip in clips],
        numbers=[clip.number for clip in clips],
        tight=[row["tight"] for row in rows],
        followed=[row["followed"] for row in rows],
        boxes=torch.cat([row["boxes"] for row in rows]),
        box_frames=torch.cat([row["frames"] + b * length for b, row in enumerate(rows)]),
        box_objects=objects,
        box_labels=torch.cat([row["labels"] for row in rows]),
        inside=torch.nonzero(objects >= 0).flatten(),
    )


def _drawn(clip: Clip, settings: TrainSettings) -> dict[str, Any]:
    random = torch.Generator().manual_seed(clip.number)
    masks = torch.from_numpy(clip.masks)
    tight = [boxes_of(mask, clip.labels) for mask in masks]
    boxes, frames, objects = jittered_boxes(masks, tight, settings, random)
    chosen = followed(tight[0], settings.objects, random)
    return {
        "tight": [{n: box[0].tolist() for n, box in known.items()} for known in tight],
        "followed": chosen,
        "boxes": boxes,
        "frames": frames,
        "objects": objects,
        "labels": torch.tensor([clip.labels.get(n, UNLABELLED) for n in objects.tolist()]).long(),
    }


class Batches(Dataset[Batch]):
    """Batches of a run by number, those of one process among several."""

    def __init__(
        self,
        clips: Callable[[int], Clip],
        settings: TrainSettings,
        rank: int = 0,
        count: int = 1,
        canvas: int = 1,
    ) -> None:
        """clips: by number; iteration i has the numbers i * settings.clips and on.

        BadInput if the clips of an iteration do not divide among the processes.
        """
        if settings.clips % count:
            raise BadInput(
                f"clips = {settings.clips}: do not divide among {count} processes; set a multiple"
            )
        self.clips, self.settings, self.canvas = clips, settings, canvas
        mine = range(rank, settings.clips, count)
        self.groups = [mine[n : n + settings.batch] for n in range(0, len(mine), settings.batch)]

    def __getitem__(self, number: int) -> Batch:
        iteration, group = divmod(number, len(self.groups))
        first = iteration * self.settings.clips
        clips = [self.clips(first + n) for n in self.groups[group]]
        return collate(clips, self.settings, self.canvas)

    def __len__(self) -> int:
        return self.settings.iterations * len(self.groups)

    def load(self, done: int, workers: int) -> Iterator[Batch]:
        """Batches from iteration `done` on, in order; `workers` processes make them ahead."""
        loader = DataLoader(
            _Reported(self),
            batch_size=None,
            sampler=range(done * len(self.groups), len(self)),
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            worker_init_fn=_alone,
            pin_memory=torch.cuda.is_available(),
        )
        for found in loader:
            if isinstance(found, BadInput):
                raise found
            yield found


class _Reported(Dataset["Batch | BadInput"]):
    """Batches in which BadInput is an item: raised, a loading process adds its traceback to it."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Batch | BadInput:
        try:
            return self.batches[number]
        except BadInput as error:
            return error

    def __len__(self) -> int:
        return len(self.batches)


def _alone(worker: int) -> None:
    """One thread for each loading process; OpenCV's pool does not survive a fork."""
    cv2.setNumThreads(0)
