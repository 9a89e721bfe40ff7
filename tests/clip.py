"""A small clip with two moving blobs, real tiny networks, and readers over arrays."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.config import Architecture
from models.networks import Networks
from stages.boxmask import cut
from stages.embeddings import embeddings
from stages.evidence import evidence
from stages.features import features
from stages.flow import decode, flow
from stages.proposals import proposals
from stages.seen import SeenBoxes
from stages.settings import FlowSettings, ProposalsSettings
from stages.types import StartingPoint, Tracklet
from tests.networks import random_networks

SIZE = (56, 72)
FRAMES = 7


def blob(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def draw(j: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame j and its exact index mask."""
    noise = np.random.default_rng(5).integers(0, 120, (*SIZE, 3), dtype=np.uint8)
    index = np.zeros(SIZE, np.uint8)
    index[blob(18 + 3 * j, 26, 11)] = 1
    index[blob(54 - 2 * j, 32 + j, 9)] = 3
    image = noise.copy()
    image[index == 1] = noise[index == 1] // 2 + np.array([130, 60, 20], np.uint8)
    image[index == 3] = noise[index == 3] // 2 + np.array([20, 90, 140], np.uint8)
    return image, index


@dataclass
class Features:
    """A FeatureReader that counts what is read."""

    rows: list[Any]
    reads: Counter[int] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.rows)

    def coarse(self, j: int) -> np.ndarray:
        self.reads[j] += 1
        return self.rows[j][0]

    def fine(self, j: int) -> np.ndarray | None:
        return self.rows[j][1]


@dataclass
class Flow:
    """A FlowReader that counts what is read."""

    rows: list[Any]
    reads: Counter[tuple[str, int]] = field(default_factory=Counter)

    def to_previous(self, j: int) -> np.ndarray:
        self.reads["previous", j] += 1
        return decode(self.rows[j - 1][0])

    def to_next(self, j: int) -> np.ndarray:
        self.reads["next", j] += 1
        return decode(self.rows[j][1])


@dataclass
class Proposals:
    """A ProposalReader over lists."""

    boxed: list[np.ndarray]
    vectors: list[np.ndarray]
    values: list[np.ndarray]

    def boxes(self, j: int) -> np.ndarray:
        return self.boxed[j]

    def embeddings(self, j: int) -> np.ndarray:
        return self.vectors[j]

    def evidence(self, j: int) -> np.ndarray:
        return self.values[j]


@dataclass
class Clip:
    """Everything the stages read, made by the stages before them."""

    networks: Networks
    images: list[np.ndarray]
    annotations: list[np.ndarray]
    features: Features
    flow: Flow
    proposals: Proposals

    def start(
        self, j: int, object_id: int, similarity: float = 0.9, given: bool = False
    ) -> StartingPoint:
        a = self.networks.architecture
        box, mask = cut(self.annotations[j], object_id, a.margin, a.mask_size)
        return StartingPoint(j, object_id, similarity, box, mask, given)


def make_clip() -> Clip:
    networks = random_networks(Architecture.tiny(), 0)
    drawn = [draw(j) for j in range(FRAMES)]
    images = [image for image, _ in drawn]
    reader = Features(list(features(images, networks)))
    found = proposals(reader, SIZE, networks, ProposalsSettings(per_frame=12))
    boxes = [b for b, _ in found]
    vectors = list(embeddings(reader, lambda j: boxes[j], networks))
    fields = Flow(list(flow(images, FlowSettings())))
    annotations = [m for _, m in drawn]
    offered = Proposals(boxes, vectors, [])
    offered.values = list(evidence(reader, offered, {0: annotations[0]}, networks, SeenBoxes()))
    return Clip(networks, images, annotations, reader, fields, offered)


def same(a: Tracklet, b: Tracklet) -> bool:
    """Whether two tracklets are equal to the byte."""
    return (
        (a.iteration, a.first, a.start.frame, a.start.object_id, a.start.similarity)
        == (b.iteration, b.first, b.start.frame, b.start.object_id, b.start.similarity)
        and a.boxes.dtype == b.boxes.dtype
        and a.masks.dtype == b.masks.dtype
        and a.boxes.tobytes() == b.boxes.tobytes()
        and a.masks.tobytes() == b.masks.tobytes()
    )
