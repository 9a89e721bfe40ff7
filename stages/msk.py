"""MSK, the baseline of Table 1: full-frame mask propagation without recurrence.

Its network reads a frame and the previous mask warped by flow. Objects are independent.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import geometry
from models.msk import MSK
from models.networks import Networks, to_bytes
from stages.boxmask import merge, object_ids
from stages.frames import resize_masks
from stages.types import FlowReader, Frames, Image, IndexMask

VERSION = 1

Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def msk(
    frames: Frames, flow: FlowReader, first_masks: Mapping[int, IndexMask], networks: Networks
) -> Iterator[tuple[IndexMask, Array]]:
    """Masks of every frame, in order, in the form of stages.tubes.render().

    They are of the given masks' size, which the frames need not be of.
    Each object goes both ways from its first given mask; a later given mask of it replaces
    what was propagated there. Confidences follow the object IDs, ascending. BadWeights if
    the weights hold no msk.
    """
    networks.need("msk", MSK)
    height, width = next(iter(first_masks.values())).shape
    working = frames[0].shape[:2]
    first_seen = resize_masks(first_masks, working)
    given = {j: object_ids(mask) for j, mask in sorted(first_masks.items())}
    first = {i: j for j, ids in reversed(given.items()) for i in ids}
    beginnings = {j: [i for i in ids if first[i] == j] for j, ids in given.items()}
    objects = sorted(first)

    # read last to first but yielded first to last, so kept until then, compressed
    backward = range(max(first.values()), -1, -1)
    past: dict[int, dict[int, bytes]] = {}
    if backward.start > 0:
        for j, masks in _walk(backward, frames, flow.to_next, beginnings, first_seen, networks):
            past[j] = {i: zlib.compress(mask, 1) for i, mask in masks.items()}

    forward = range(len(frames))
    for j, masks in _walk(forward, frames, flow.to_previous, given, first_seen, networks):
        for i, packed in past.pop(j, {}).items():
            masks[i] = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(working)
        windows = {i: (0, 0, _enlarged(mask, (height, width))) for i, mask in masks.items()}
        yield merge(windows, objects, (height, width), first_masks.get(j))


def _enlarged(mask: Bytes, size: tuple[int, int]) -> Array:
    """Probability * 255 as float32 probabilities of another size (H, W)."""
    probability = mask * np.float32(1 / 255)
    if mask.shape == size:
        return probability
    return np.asarray(cv2.resize(probability, size[::-1], interpolation=cv2.INTER_LINEAR))


def _walk(
    order: range,
    frames: Frames,
    flow_of: Callable[[int], Array],
    seeds: Mapping[int, Sequence[int]],
    first_masks: Mapping[int, IndexMask],
    networks: Networks,
) -> Iterator[tuple[int, dict[int, Bytes]]]:
    """Propagated masks by object, (H, W) probability * 255, frame by frame in `order`.

    flow_of(j): from frame j to the frame before it in `order`. seeds: the objects that
    start from their given mask, by frame.
    """
    states: dict[int, Tensor] = {}
    for j in order:
        if states:
            states = step(states, frames[j], flow_of(j), networks)
        yield j, {i: to_bytes(mask[0, 0]) for i, mask in states.items()}
        for i in seeds.get(j, ()):
            states[i] = networks.tensor(first_masks[j] == i)[None, None]


def step(
    states: Mapping[int, Tensor], image: Image, field: Array, networks: Networks
) -> dict[int, Tensor]:
    """Probabilities (1, 1, H, W) of every object in the next frame, `image`."""
    network = networks.need("msk", MSK)
    height, width = image.shape[:2]
    with networks.inference():
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).to(networks.device)
        batch = pixels.permute(2, 0, 1)[None]
        y, x = (torch.arange(n, device=networks.device) + 0.5 for n in (height, width))
        grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)))
        points = (grid + networks.tensor(field)).permute(1, 2, 0)[None]
        frame = points.new_tensor([[0, 0, width, height]])
        # one object at a time: its mask never depends on how many there are
        logits = {
            i: network(batch, geometry.sample_box(mask, frame, points))
            for i, mask in states.items()
        }
        # torch.sigmoid() rounds the end of each thread's share of a large tensor differently
        return {i: 1 / (1 + torch.exp(-values)) for i, values in logits.items()}
