"""Frames a second of the networks' stages on one device, for several numbers of objects.

    python -m benchmarks.device [--device cuda] [--networks compact,resnet50,resnet101]

The clip is drawn, in memory, and no artifact is written, so that this is what the device can
do; what a whole run costs is told by benchmarks.pipeline. compact: the shipped weights. The
others: the paper's network on that backbone, untrained, which has neither template search nor
evidence. Every object takes one step a frame, whatever becomes of its mask.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.config import Architecture
from models.networks import Networks, State
from models.weights import load, pretrained, random_networks
from stages.boxmask import cut
from stages.embeddings import embeddings
from stages.evidence import evidence
from stages.features import BATCH, features
from stages.proposals import proposals
from stages.search import search
from stages.settings import ProposalsSettings, SearchSettings
from stages.types import Box

SIZE = (480, 854)
MODULES = ("trunk", "rpn", "mask", "reid", "remp")
PROFILED = 3
"""frames on which the device is watched, which takes long"""
STAGES = ("trunk", "features", "proposals", "embeddings", "search", "evidence", "steps")
"""the bare trunk first: it is no stage, and no part of the whole"""


@dataclass(frozen=True)
class Clip:
    """Discs that move over noise: T frames, and the first frame's index mask."""

    images: list[npt.NDArray[np.uint8]]
    mask: npt.NDArray[np.uint8]
    flow: npt.NDArray[np.float32]
    """(2, H, W) px: from every frame to the one before"""


class Read:
    """Readers of features and boxes in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[npt.NDArray[np.float16], npt.NDArray[np.float16] | None]] = []
        self.boxed: list[npt.NDArray[np.float32]] = []
        self.vectors: list[npt.NDArray[np.float32]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def coarse(self, j: int) -> npt.NDArray[np.float16]:
        return self.rows[j][0]

    def fine(self, j: int) -> npt.NDArray[np.float16] | None:
        return self.rows[j][1]

    def boxes(self, j: int) -> npt.NDArray[np.float32]:
        return self.boxed[j]

    def embeddings(self, j: int) -> npt.NDArray[np.float32]:
        return self.vectors[j]


class Forgetful:
    """A BoxMemo that knows nothing."""

    def get(self, frame: int, box: Box) -> None:
        return None

    def put(self, frame: int, box: Box, seen: npt.NDArray[np.generic]) -> None:
        return None


@dataclass(frozen=True)
class Cost:
    """What one network took for one number of objects."""

    seconds: dict[str, float]
    """a frame, by stage"""
    memory: int
    """peak bytes on the device, 0 on a CPU"""
    busy: float
    """share of the time in which the device computed, 0 on a CPU"""

    @property
    def whole(self) -> float:
        """Seconds a frame of all stages."""
        return sum(seconds for stage, seconds in self.seconds.items() if stage != "trunk")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: cuda)")
    parser.add_argument("--precision", default="bf16", help="bf16 or fp32 (default: bf16)")
    parser.add_argument("--networks", default="compact,resnet50,resnet101")
    parser.add_argument("--objects", default="1,3,10")
    parser.add_argument("--frames", type=int, default=24, help="of the clip (default: 24)")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: this machine has no CUDA device", file=sys.stderr)
        return 1
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {given.precision}, {SIZE[1]}x{SIZE[0]} px")
    print("Milliseconds a frame.\n")
    print(heading(), flush=True)
    for network in given.networks.split(","):
        networks = open_networks(network, given.device, given.precision)
        for objects in map(int, given.objects.split(",")):
            cost = measure(networks, draw(given.frames, objects))
            print(line(network, objects, cost), flush=True)
    return 0


def open_networks(name: str, device: str, precision: str) -> Networks:
    """The shipped networks, or the paper's on a backbone as they are before training."""
    if name == "compact":
        return load(pretrained(name), device, precision, MODULES)
    return random_networks(Architecture(backbone=name), 0, device, precision, MODULES)


def draw(frames: int, objects: int) -> Clip:
    """A clip of objects that move to the right by two px a frame."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32) + 0.5
    places = rng.uniform((60, 80), (SIZE[0] - 60, SIZE[1] - 80), (objects, 2))
    colours = rng.integers(0, 256, (objects, 3))
    images, masks = [], []
    for t in range(frames):
        image, mask = ground.copy(), np.zeros(SIZE, np.uint8)
        for n, (y, x) in enumerate(places):
            inside = (rows - y) ** 2 + (columns - x - 2 * t) ** 2 < 40**2
            image[inside] = (ground[inside] // 2 + colours[n] // 2).astype(np.uint8)
            mask[inside] = n + 1
        images.append(image)
        masks.append(mask)
    flow = np.zeros((2, *SIZE), np.float32)
    flow[0] = -2
    return Clip(images, masks[0], flow)


def measure(networks: Networks, clip: Clip) -> Cost:
    """Time every stage on a clip, after a few frames that warm it up."""
    short = Clip(clip.images[: BATCH[networks.device.type]], clip.mask, clip.flow)
    timed(networks, short)
    on_gpu = networks.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(networks, clip)
    memory = torch.cuda.max_memory_allocated() if on_gpu else 0
    busy = (
        busy_share(networks, Clip(clip.images[:PROFILED], clip.mask, clip.flow)) if on_gpu else 0.0
    )
    return Cost(seconds, memory, busy)


def timed(networks: Networks, clip: Clip) -> dict[str, float]:
    """Seconds a frame of every stage."""
    stages = work(networks, clip)
    found = {}
    for stage, run in stages:
        began = time.perf_counter()
        run()
        if networks.device.type == "cuda":
            torch.cuda.synchronize()
        found[stage] = (time.perf_counter() - began) / len(clip.images)
    return found


def work(networks: Networks, clip: Clip) -> Iterator[tuple[str, Callable[[], object]]]:
    """The stages in order; each reads what those before it have left."""
    read, given, memory = Read(), {0: clip.mask}, networks.architecture.memory
    wanted = ProposalsSettings()
    pixels = on_device(networks, clip.images)
    yield "trunk", lambda: bare(networks, pixels)
    yield "features", lambda: read.rows.extend(features(clip.images, networks))

    def propose() -> None:
        read.boxed.extend(boxes for boxes, _ in proposals(read, SIZE, networks, wanted))

    yield "proposals", propose
    yield (
        "embeddings",
        lambda: read.vectors.extend(embeddings(read, read.boxes, networks)),
    )
    if memory:
        yield "search", lambda: spend(search(read, SIZE, given, networks, SearchSettings()))
        yield "evidence", lambda: spend(evidence(read, read, given, networks, Forgetful()))
    yield "steps", lambda: propagate(networks, read, clip)


def on_device(networks: Networks, images: Sequence[npt.NDArray[np.uint8]]) -> torch.Tensor:
    """(T, 3, H, W) uint8."""
    return torch.from_numpy(np.stack(images)).to(networks.device).permute(0, 3, 1, 2)


def bare(networks: Networks, pixels: torch.Tensor) -> None:
    """The trunk alone, on frames that are on the device."""
    assert networks.trunk is not None
    with networks.inference():
        for batch in pixels.split(BATCH[networks.device.type]):
            networks.trunk(batch)


def spend(rows: Iterable[object]) -> None:
    """Run a generator to its end."""
    for _ in rows:
        pass


def propagate(networks: Networks, read: Read, clip: Clip) -> None:
    """One step a frame of every object."""
    a = networks.architecture
    cuts = [cut(clip.mask, n, a.margin, a.mask_size) for n in np.unique(clip.mask)[1:].tolist()]
    boxes, masks = (np.stack(column) for column in zip(*cuts, strict=True))
    state: State = networks.start(read.coarse(0), read.fine(0), boxes, masks)
    for j in range(1, len(read)):
        state = networks.step(state, read.coarse(j), read.fine(j), clip.flow)
        # what a tracklet keeps of a frame
        _ = state.boxes, state.masks, state.alive


def busy_share(networks: Networks, clip: Clip) -> float:
    """Time in kernels and copies over wall time, all stages together."""
    from torch.profiler import ProfilerActivity, profile

    began = time.perf_counter()
    timed(networks, clip)
    whole = time.perf_counter() - began
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        timed(networks, clip)
    return float(sum(e.self_device_time_total for e in seen.key_averages())) / 1e6 / whole


def heading() -> str:
    """The table's head, in Markdown."""
    names = ("network", "objects", *STAGES, "whole", "frames/s", "whole/trunk", "MiB", "busy")
    return "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|"


def line(network: str, objects: int, cost: Cost) -> str:
    """A row of the table."""
    spent = [f"{1000 * cost.seconds[s]:.1f}" if s in cost.seconds else "-" for s in STAGES]
    rest = [
        f"{1000 * cost.whole:.1f}",
        f"{1 / cost.whole:.1f}",
        f"{cost.whole / cost.seconds['trunk']:.1f}",
        f"{cost.memory / 2**20:.0f}" if cost.memory else "-",
        f"{cost.busy:.0%}" if cost.memory else "-",
    ]
    return "| " + " | ".join((network, str(objects), *spent, *rest)) + " |"


if __name__ == "__main__":
    sys.exit(main())
