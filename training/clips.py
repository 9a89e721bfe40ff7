"""Training clips: short runs of frames with masks and the flow between them (section 3.3).

A clip comes from a video, or from a still image set in motion; objects of another source
may be pasted in, so that objects cross and hide one another. Everything about the clip of
a number follows from the seed and that number, so a resumed run draws the same clips.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from stages.boxmask import VOID, object_ids
from stages.errors import BadInput
from stages.frames import resize_image, resize_mask
from stages.types import Image, IndexMask
from training.motion import Points, Step, grid, look_up, look_up_mask
from training.settings import TrainSettings

Estimator = Callable[[Image, Image], npt.NDArray[np.float32]]
"""(2, H, W) px: the point p of the first image lies at p + flow in the second"""
SMALLEST_OBJECT = 64
"""px that an object must have in the first frame to be followed"""
TRIES = 20
PASTED = 2
"""objects pasted into a clip, at most: each as likely as the one before, once that is there"""


class Source(Protocol):
    """A video or a still image (one frame) with index masks."""

    @property
    def name(self) -> str: ...

    @property
    def objects(self) -> Sequence[int]:
        """IDs that its masks use."""

    def __len__(self) -> int: ...

    def frame(self, j: int) -> Image: ...

    def mask(self, j: int) -> IndexMask: ...


@dataclass(frozen=True)
class Clip:
    """Frames with their masks; the flow leads back from each frame to the one before."""

    frames: npt.NDArray[np.uint8]
    """(T, H, W, 3) RGB"""
    masks: npt.NDArray[np.uint8]
    """(T, H, W) 0 background, 255 void, else a number that `labels` knows"""
    to_previous: npt.NDArray[np.float32]
    """(T - 1, 2, H, W) px: row t leads from frame t + 1 to frame t"""
    labels: Mapping[int, int]
    """identity (a row of OIM's table) by the number in the masks"""
    number: int = 0
    """of the clip; seeds what is drawn from it"""


def identities(sources: Sequence[Source]) -> dict[tuple[str, int], int]:
    """A row of OIM's table for every object of every source."""
    return {
        key: row
        for row, key in enumerate((source.name, i) for source in sources for i in source.objects)
    }


class Clips:
    """Clips by number: `clips[n]` is the same clip in every run."""

    def __init__(
        self, sources: Sequence[Source], settings: TrainSettings, estimate: Estimator
    ) -> None:
        """sources: at least one. estimate: optical flow of what did not move by our hand."""
        if not sources:
            raise BadInput("training needs at least one video or image whose masks hold an object")
        self.videos = [source for source in sources if len(source) > 1]
        self.stills = [source for source in sources if len(source) == 1]
        self.rows = identities(sources)
        self.settings, self.estimate = settings, estimate

    def __getitem__(self, number: int) -> Clip:
        """The clip of a number. BadInput if no source has an object large enough."""
        rng = np.random.default_rng((self.settings.seed, number))
        for _ in range(TRIES):
            clip = self._draw(rng)
            if any((clip.masks[0] == i).sum() >= SMALLEST_OBJECT for i in clip.labels):
                return replace(clip, number=number)
        raise BadInput(
            f"{TRIES} clips in a row hold no object of {SMALLEST_OBJECT} px; train on frames with "
            "larger objects, or set a greater height"
        )

    def _draw(self, rng: np.random.Generator) -> Clip:
        source = self._pick(rng)
        layer = self._layer(source, rng)
        layers, exact, used = [layer], len(source) == 1, {source.name}
        for _ in range(PASTED):
            if rng.random() >= self.settings.composites:
                break
            donor = self._pick(rng)
            if donor.name not in used:
                layers.append(place(self._layer(donor, rng), layer.size, self.settings.drift, rng))
                exact = exact and len(donor) == 1
                used.add(donor.name)
        clip = colour(flip(stack(layers, self.settings.motion, exact, rng), rng), rng)
        if exact:
            return clip
        frames = clip.frames
        flow = [self.estimate(later, earlier) for earlier, later in itertools.pairwise(frames)]
        return replace(clip, to_previous=np.stack(flow))

    def _pick(self, rng: np.random.Generator) -> Source:
        still = self.stills and (not self.videos or rng.random() < self.settings.stills)
        group = self.stills if still else self.videos
        return group[rng.integers(len(group))]

    def _layer(self, source: Source, rng: np.random.Generator) -> Layer:
        """T frames of a source in random order of time, at a random scale."""
        count, total = self.settings.frames, len(source)
        if total == 1:
            chosen = [0] * count
        else:
            gap = int(rng.integers(1, max(1, min(self.settings.gap, (total - 1) // count)) + 1))
            first = int(rng.integers(max(1, total - gap * (count - 1))))
            chosen = [min(first + gap * n, total - 1) for n in range(count)]
            if rng.random() < 0.5:
                chosen.reverse()
        read = {j: (source.frame(j), source.mask(j)) for j in set(chosen)}
        height, width = read[chosen[0]][0].shape[:2]
        factor = rng.uniform(self.settings.scale, 1.0)
        factor = min(1.0, factor * self.settings.height / min(height, width))
        size = max(32, round(height * factor)), max(32, round(width * factor))
        frames = {j: resize_image(image, size) for j, (image, _) in read.items()}
        masks = {j: resize_mask(mask, size) for j, (_, mask) in read.items()}
        labels = {i: self.rows[source.name, i] for i in source.objects}
        still = total == 1
        return Layer([frames[j] for j in chosen], [masks[j] for j in chosen], labels, still)


@dataclass(frozen=True)
class Layer:
    """What a clip is stacked from: T frames with masks, moving by themselves or not."""

    frames: Sequence[Image]
    masks: Sequence[IndexMask]
    labels: Mapping[int, int]
    still: bool
    """one image, which stack() sets in motion"""

    @property
    def size(self) -> tuple[int, int]:
        return self.masks[0].shape[0], self.masks[0].shape[1]


def place(layer: Layer, size: tuple[int, int], drift: float, rng: np.random.Generator) -> Layer:
    """A layer that is to be pasted: one of its objects, somewhere in a frame of `size`.

    One scale holds for all of its frames, and a video's object moves on in a straight line
    besides its own motion, at most `drift` of the shorter side a frame.
    """
    present = object_ids(layer.masks[0])
    if not present:
        return replace(layer, labels={}, frames=[], masks=[])
    chosen = int(rng.choice(present))
    ys, xs = np.nonzero(layer.masks[0] == chosen)
    extent = max(np.ptp(ys), np.ptp(xs)) + 1
    scale = rng.uniform(0.2, 0.5) * min(size) / extent
    middle = rng.uniform(0.2, 0.8, 2) * size[::-1]
    speed = 0.0 if layer.still else rng.uniform(-drift, drift, 2) * min(size)
    centre = np.array([xs.mean(), ys.mean()]) + 0.5
    # in the middle of the clip it is at `middle`
    begin = middle - speed * (len(layer.frames) - 1) / 2
    frames, masks = [], []
    for t, (image, mask) in enumerate(zip(layer.frames, layer.masks, strict=True)):
        points = ((grid(size) - begin - speed * t) / scale + centre).astype(np.float32)
        frames.append(look_up(image, points).astype(np.uint8))
        masks.append(look_up_mask(np.where(mask == chosen, chosen, 0).astype(np.uint8), points))
    return Layer(frames, masks, {chosen: layer.labels[chosen]}, layer.still)


def stack(layers: Sequence[Layer], strength: float, exact: bool, rng: np.random.Generator) -> Clip:
    """Lay pasted objects over the first layer; set stills in motion.

    exact: whether all layers are stills, so that the flow is known; otherwise it is zero
    here. Objects are renumbered from 1, void stays.
    """
    base = layers[0]
    frames, masks, flow = animate(base, strength, rng)
    labels: dict[int, int] = {}
    numbers = np.zeros(256, np.uint8)
    numbers[VOID] = VOID
    for i, row in base.labels.items():
        labels[len(labels) + 1] = row
        numbers[i] = len(labels)
    masks = [numbers[mask] for mask in masks]
    for layer in layers[1:]:
        if not layer.labels:
            continue
        over, shapes, moved = animate(layer, strength, rng)
        labels[len(labels) + 1] = next(iter(layer.labels.values()))
        for t, shape in enumerate(shapes):
            inside = shape > 0
            soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.0)[..., None]
            frames[t] = (frames[t] * (1 - soft) + over[t] * soft).astype(np.uint8)
            masks[t] = np.where(inside, np.uint8(len(labels)), masks[t])
            if t:
                flow[t - 1] = np.where(inside, moved[t - 1], flow[t - 1])
    if not exact:
        flow = [np.zeros_like(field) for field in flow]
    return Clip(np.stack(frames), np.stack(masks), np.stack(flow), labels)


def animate(
    layer: Layer, strength: float, rng: np.random.Generator
) -> tuple[list[Image], list[IndexMask], list[npt.NDArray[np.float32]]]:
    """Frames, masks and the flow back to the frame before; a still moves at random.

    The maps are composed: frame t + 1 is where its map leads in frame t, and so on back to
    the image. A layer that moves by itself is returned as it is, with a flow of zero.
    """
    count, size = len(layer.frames), layer.size
    if not layer.still:
        zero = np.zeros((2, *size), np.float32)
        return list(layer.frames), list(layer.masks), [zero] * (count - 1)
    frames, masks, flow = [layer.frames[0]], [layer.masks[0]], []
    places: Points = grid(size)
    known = np.ones(size, np.float32)
    for _ in range(count - 1):
        step = Step.random(rng, size, strength)
        back = step.places(size)
        # where a pixel comes from: first into the frame before, from there into the image
        places = look_up(places, back)
        # what has left the frame does not come back
        known = look_up_mask(known, back)
        mask = look_up_mask(layer.masks[0], places) * (known > 0.5)
        frames.append(look_up(layer.frames[0], places).astype(np.uint8))
        masks.append(mask.astype(np.uint8))
        flow.append(np.ascontiguousarray((back - grid(size)).transpose(2, 0, 1)))
    return frames, masks, flow


def flip(clip: Clip, rng: np.random.Generator) -> Clip:
    """Mirror a clip from left to right, or leave it."""
    return mirror(clip) if rng.random() < 0.5 else clip


def mirror(clip: Clip) -> Clip:
    """A clip seen in a mirror; x of the flow changes its sign."""
    flow = clip.to_previous[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
    return replace(
        clip,
        frames=np.ascontiguousarray(clip.frames[:, :, ::-1]),
        masks=np.ascontiguousarray(clip.masks[:, :, ::-1]),
        to_previous=np.ascontiguousarray(flow),
    )


def colour(clip: Clip, rng: np.random.Generator) -> Clip:
    """One change of brightness, contrast and colour balance for all frames of a clip."""
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.9, 1.1, 3)
    shift = rng.uniform(-20, 20)
    levels = np.arange(256, dtype=np.float32)[:, None]
    table = np.clip((levels - 128) * gain + 128 + shift, 0, 255).astype(np.uint8)
    frames = np.stack([table[..., c][clip.frames[..., c]] for c in range(3)], -1)
    return replace(clip, frames=frames)
