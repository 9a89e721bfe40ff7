"""What a run costs a frame, stage by stage: `dyenet bench`.

One clip, drawn or given, is run for each network, number of objects and length, with the
default settings, and the same frames are sent through the bare trunk. Runs of one network and
length share a process and a cache, so that what does not depend on the objects is made once. On a
CUDA device a short run of the same frames comes before, so that opening the device and loading
its kernels is not counted.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.bench.runs import alone, device_name, method_seconds, read_run, run
from pipeline.plan.inputs import find_weights

if TYPE_CHECKING:
    from pipeline.bench.meter import Taken

UNTRAINED = ("resnet50", "resnet101")
"""networks that are the paper's on this backbone, untrained"""
DRAWN_OBJECTS = 10
DRAWN_FRAMES = 24
"""frames that are drawn; a longer clip goes through them forwards and backwards"""
WARM_FRAMES = 9
"""one more than a batch of features: kernels of every shape are loaded"""
FLAT = 1.1
"""most that the peak memory may grow by from the shortest clip to the longest"""
MIB = 2**20


@dataclass(frozen=True)
class Asked:
    """What `dyenet bench` was asked for."""

    networks: Sequence[str]
    """compact, one of UNTRAINED, or a weights file"""
    objects: Sequence[int]
    lengths: Sequence[int]
    """frames"""
    device: str = "auto"
    precision: str = "auto"
    root: Path | None = None
    """folder of images, in place of a drawn clip"""
    masks: Path | None = None
    """its first mask"""


DEFAULTS = {
    "cuda": Asked(("compact", *UNTRAINED), (1, 3, DRAWN_OBJECTS), (DRAWN_FRAMES,)),
    "cpu": Asked(("compact",), (1, 3), (10,)),
}
"""what is measured unless asked otherwise: minutes on either"""


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    objects: int
    frames: int
    size: tuple[int, int]
    """(H, W) px of the clip"""
    precision: str
    stages: Mapping[str, float]
    """seconds by stage, over all iterations"""
    bare: float
    """seconds of the trunk's forward passes over the same frames"""
    steps: float
    """steps of Re-MP a frame and object"""
    memory: int
    """peak resident bytes of the process so far"""
    stored: Mapping[str, int]
    """bytes of the artifacts by stage"""
    busy: Mapping[str, float] = field(default_factory=dict)
    """seconds by stage in which a CUDA device worked; empty without one"""
    device_memory: int = 0
    """peak bytes of tensors on a CUDA device"""

    @property
    def whole(self) -> float:
        """Seconds of all stages."""
        return sum(self.stages.values())


def bench(asked: Asked) -> int:
    """Measure and print; 1 if the longest clip took more memory than FLAT allows."""
    for network in set(asked.networks) - set(UNTRAINED):
        find_weights(network, "")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root, masks = asked.root, asked.masks
        if root is None or masks is None:
            root, masks = folder / "drawn", folder / "first.png"
            alone(_draw, root, masks)
        steady = [
            _measure_network(asked, network, folder, root, masks) for network in asked.networks
        ]
    return 0 if all(steady) else 1


def _measure_network(asked: Asked, network: str, folder: Path, root: Path, masks: Path) -> bool:
    """Print a table for each length; whether memory does not grow with the length."""
    weights = network
    if network in UNTRAINED:
        weights = str(folder / f"{network}.safetensors")
        alone(_write_untrained, Path(weights), network)
    options = {"weights": weights, "precision": asked.precision, "device": asked.device}
    peaks = []
    for length in sorted(asked.lengths):
        place = folder / f"{Path(network).stem}-{length}"
        costs, device = alone(measure, root, masks, length, sorted(asked.objects), place, options)
        height, width = costs[0].size
        told = f"{length} frames of {width}x{height} px, {costs[0].precision}, {device}"
        print(f"{network}{' (untrained)' * (network in UNTRAINED)}: {told}")
        print(table(costs), end="\n\n", flush=True)
        peaks.append(costs[-1].memory)
    return peaks[-1] <= FLAT * peaks[0]


def _draw(root: Path, masks: Path) -> None:
    from pipeline.bench.clip import write_clip

    write_clip(root, masks, DRAWN_OBJECTS, DRAWN_FRAMES)


def _write_untrained(path: Path, backbone: str) -> None:
    from pipeline.bench.clip import write_untrained

    write_untrained(path, backbone)


def measure(
    root: Path,
    masks: Path,
    length: int,
    objects: Sequence[int],
    place: Path,
    options: Mapping[str, Any],
) -> tuple[list[Cost], str]:
    """Run a clip of `length` frames with each number of objects; the device's name besides.

    In a process of its own. root: folder of images. masks: the first mask. place: where caches
    and results go. options: of RunDataset.
    """
    from pipeline.bench.clip import fewer_objects, stretch
    from pipeline.plan.machine import device

    place.mkdir()
    clip, chosen = place / "clip", device(options["device"])
    stretch(root, clip, length)
    given = {count: place / f"{count}.png" for count in objects}
    for count, mask in given.items():
        fewer_objects(masks, mask, count)
    if chosen == "cuda":
        stretch(root, place / "warm", WARM_FRAMES)
        _run(place / "warm", given[objects[-1]], place / "warm-cache", place / "warm-out", options)
    taken = _meter(chosen)
    costs = [_cost(clip, mask, count, place, options, taken) for count, mask in given.items()]
    return costs, device_name(options["device"])


def _meter(device: str) -> Mapping[str, Taken]:
    """What stages that run from now on take of a CUDA device, by key."""
    if device != "cuda":
        return {}
    from pipeline.bench.meter import Meter

    return Meter().taken


def _run(clip: Path, mask: Path, cache: Path, out: Path, options: Mapping[str, Any]) -> None:
    given = {"dataset": "clip", "split": "clip", "root": str(clip), "masks": str(mask)}
    run("RunDataset", {**given, **options}, cache, out)


def _cost(
    clip: Path,
    mask: Path,
    objects: int,
    place: Path,
    options: Mapping[str, Any],
    taken: Mapping[str, Taken],
) -> Cost:
    """Run a clip with some objects, then its frames through the bare trunk."""
    cache, out = place / "cache", place / f"out{objects}"
    _run(clip, mask, cache, out, options)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    made = read_run(out)
    video = made["videos"][clip.name]
    precision = made["settings"]["run"]["precision"]
    found = {label: taken[key[:16]] for label, key in video["keys"].items() if key[:16] in taken}
    busy: dict[str, float] = {}
    for label, part in found.items():
        stage = label.partition("(")[0]
        busy[stage] = busy.get(stage, 0.0) + part.busy
    return Cost(
        objects=objects,
        frames=video["frames"],
        size=tuple(video["size"]),
        precision=precision,
        stages=method_seconds(made),
        bare=bare_seconds(clip, Path(made["weights"]), options["device"], precision),
        steps=steps(cache, clip.name, video["keys"]) / (video["frames"] * objects),
        memory=memory,
        stored=stored_bytes(cache, clip.name, video["keys"]),
        busy=busy,
        device_memory=max((part.memory for part in found.values()), default=0),
    )


def bare_seconds(clip: Path, weights: Path, asked: str, precision: str) -> float:
    """Seconds that the trunk alone takes for the frames of a clip, in full batches."""
    import torch

    from models.backbone import Trunk
    from models.weights import load
    from pipeline.datasets.layout import images
    from pipeline.plan.machine import device
    from stages.features import BATCH
    from stages.frames import open_frames, working_frames
    from stages.settings import FramesSettings

    chosen = device(asked)
    trunk = load(weights, chosen, precision, ["trunk"]).need("trunk", Trunk)
    frames = working_frames(open_frames(images(clip), video=clip.name), FramesSettings())
    seconds, size = 0.0, BATCH[chosen]
    with torch.inference_mode():
        for first in range(0, len(frames), size):
            numbers = [min(j, len(frames) - 1) for j in range(first, first + size)]
            batch = torch.stack([torch.from_numpy(frames[j]) for j in numbers])
            pixels = batch.to(chosen).permute(0, 3, 1, 2)
            if first == 0:
                trunk(pixels)[0].sum().item()
            began = time.perf_counter()
            trunk(pixels)[0][0, 0, 0, 0].item()
            seconds += time.perf_counter() - began
    return seconds


def steps(cache: Path, video: str, keys: Mapping[str, str]) -> int:
    """Steps of Re-MP that the tracklets of a run hold."""
    from cache.store import Store

    last = [label for label in keys if label.startswith("tracklets(")][-1]
    with Store(cache).read("tracklets", "clip", video, keys[last]) as reader:
        return int(reader["offsets"][-1]) - len(reader["first"])


def stored_bytes(cache: Path, video: str, keys: Mapping[str, str]) -> dict[str, int]:
    """Bytes of a run's artifacts by stage."""
    from cache.store import Store

    found: dict[str, int] = {}
    for label, key in keys.items():
        stage = label.partition("(")[0]
        path = Store(cache).path(stage, "clip", video, key)
        found[stage] = found.get(stage, 0) + path.stat().st_size
    return found


def table(costs: Sequence[Cost]) -> str:
    """Every figure, a column for each number of objects."""

    def row(name: str, values: Sequence[float], digits: int) -> str:
        return f"{name:36}" + "".join(f"{value:12,.{digits}f}" for value in values)

    stages = list(dict.fromkeys(stage for c in costs for stage in c.stages))
    lines = [
        row("objects", [c.objects for c in costs], 0),
        *(row(f"frames a second, {s}", [c.frames / c.stages[s] for c in costs], 2) for s in stages),
        row("frames a second, all stages", [c.frames / c.whole for c in costs], 2),
        row("frames a second, bare trunk", [c.frames / c.bare for c in costs], 2),
        row("time of all stages / bare trunk", [c.whole / c.bare for c in costs], 2),
        row("time of all stages / features", [c.whole / c.stages["features"] for c in costs], 2),
        row("steps of Re-MP a frame and object", [c.steps for c in costs], 2),
    ]
    if any(c.busy for c in costs):
        lines += [
            *(
                row(f"% device busy, {s}", [100 * c.busy[s] / c.stages[s] for c in costs], 1)
                for s in stages
            ),
            row(
                "% device busy, all stages",
                [100 * sum(c.busy[s] for s in stages) / c.whole for c in costs],
                1,
            ),
            row("peak device memory, MiB", [c.device_memory / MIB for c in costs], 0),
        ]
    lines += [
        row("peak memory so far, MiB", [c.memory / MIB for c in costs], 0),
        *(row(f"bytes a frame, {s}", [c.stored[s] / c.frames for c in costs], 0) for s in stages),
    ]
    return "\n".join(lines)
