"""What a run costs a frame: seconds, memory and bytes, for several lengths of one clip.

    python -m benchmarks.pipeline [--lengths 25,50,100] [--weights compact | --backbone resnet101]
    python -m benchmarks.pipeline --root FRAMES --masks FIRST.png

The clip is drawn, or is a folder of images with its first mask; it is played forwards and backwards
until it is long enough. Each length runs in a process of its own with an empty cache, and
then sends the same frames through the bare backbone. Ends with status 1 if the peak memory
of the longest is more than a tenth above that of the shortest.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from benchmarks.speed import device_name
from benchmarks.sweep import stage_seconds

T = TypeVar("T")

SIZE = (480, 854)
DRAWN = 25
"""frames that are drawn; a longer clip repeats them"""
FLAT = 1.1
"""most that the peak memory may grow by from the shortest clip to the longest"""


@dataclass(frozen=True)
class Cost:
    """What one length took."""

    frames: int
    size: tuple[int, int]
    precision: str
    device: str
    stages: Mapping[str, float]
    """seconds by stage, over all iterations"""
    whole: float
    """seconds of the whole run, planning and output included, imports left out"""
    bare: float
    """seconds of the backbone's forward passes over the same frames"""
    memory: int
    """peak resident bytes of the run"""
    stored: Mapping[str, int]
    """bytes of the artifacts by stage"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", default="25,50,100", help="frames (default: 25,50,100)")
    parser.add_argument("--root", type=Path, help="folder of images, in place of a drawn clip")
    parser.add_argument("--masks", type=Path, help="with --root: the first mask")
    networks = parser.add_mutually_exclusive_group()
    networks.add_argument("--weights", default="compact", help="as RunDataset's (default: compact)")
    networks.add_argument("--backbone", help="the paper's network on this backbone, untrained")
    parser.add_argument("--precision", default="auto", help="auto, bf16 or fp32 (default: auto)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    given = parser.parse_args(arguments)
    if (given.root is None) != (given.masks is None):
        parser.error("--root and --masks belong together")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if given.root is None:
            given.root, given.masks = folder / "drawn", folder / "first.png"
            alone(draw, given.root, given.masks)
        if given.backbone:
            given.weights = folder / "untrained.safetensors"
            alone(untrained, given.weights, given.backbone)
        options = {
            "masks": str(given.masks.absolute()),
            "weights": str(given.weights),
            "precision": given.precision,
            "device": given.device,
        }
        costs = []
        for length in map(int, given.lengths.split(",")):
            clip = stretch(given.root, folder / f"clip{length}", length)
            costs.append(alone(measure, clip, folder / f"run{length}", options))
    height, width = costs[0].size
    print(
        f"{width}x{height} px, weights {given.backbone or given.weights}, "
        f"{costs[0].precision}, {costs[0].device}"
    )
    print(table(costs))
    return 0 if costs[-1].memory <= FLAT * costs[0].memory else 1


def alone(work: Callable[..., T], *arguments: object) -> T:
    """Call a function in a fresh process, so that this one stays small."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def draw(frames: Path, mask: Path) -> None:
    """Draw a clip of three objects: a folder of images, and the first mask."""
    from PIL import Image

    from pipeline.datasets.demo import SCRIPTS, render_clip
    from pipeline.datasets.palette import davis_palette

    clip = render_clip(0, DRAWN, SIZE, motions=SCRIPTS["orbit"], flow=False)
    frames.mkdir()
    for j, image in enumerate(clip.frames):
        Image.fromarray(image).save(frames / f"{j:05d}.jpg", quality=95)
    indexed = Image.fromarray(clip.masks[0])
    indexed.putpalette(davis_palette())
    indexed.save(mask)


def untrained(path: Path, backbone: str) -> None:
    """Weights of the paper's network as it is before training."""
    from models.config import Architecture
    from models.weights import build, save
    from pipeline.plan.variants import FULL, VARIANTS

    architecture = Architecture(backbone=backbone)
    save(path, architecture, {n: build(n, architecture) for n in VARIANTS[FULL].modules}, {})


def stretch(frames: Path, folder: Path, length: int) -> Path:
    """A clip of `length` frames: those of a folder, forwards, then backwards."""
    from pipeline.datasets.layout import images

    found = images(frames)
    both_ways = [*found, *found[-2:0:-1]]
    folder.mkdir()
    for j in range(length):
        source = both_ways[j % len(both_ways)]
        shutil.copy(source, folder / f"{j:05d}{source.suffix}")
    return folder


def measure(clip: Path, place: Path, options: Mapping[str, str]) -> Cost:
    """Run a clip, then its frames through the bare backbone; in a process of its own."""
    os.environ["DYENET_CACHE"] = str(place / "cache")
    import stages.tracklets  # noqa: F401 - so that no import is timed
    from pipeline.commands import RunDataset, engine
    from pipeline.plan import machine

    out = place / "out"
    began = time.perf_counter()
    with redirect_stdout(sys.stderr):
        task = RunDataset(dataset="clip", root=str(clip), output=str(out), **options)
        if not engine.build(task):
            raise SystemExit("the run failed")
    whole = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    video = next(iter(run["videos"].values()))
    precision = run["settings"]["run"]["precision"]
    device = machine.device(options["device"])
    return Cost(
        frames=video["frames"],
        size=tuple(video["size"]),
        precision=precision,
        device=device_name(options["device"]),
        stages=stage_seconds([out]),
        whole=whole,
        bare=bare_seconds(clip, Path(run["weights"]), device, precision),
        memory=memory,
        stored=stored_bytes(place / "cache"),
    )


def bare_seconds(clip: Path, weights: Path, device: str, precision: str) -> float:
    """Seconds that the backbone alone takes for the frames of a clip."""
    import torch

    from models.backbone import Trunk
    from models.weights import load
    from pipeline.datasets.layout import images
    from stages.features import BATCH
    from stages.frames import open_frames

    trunk = load(weights, device, precision).need("trunk", Trunk)
    frames = open_frames(images(clip), video=clip.name)
    seconds = 0.0
    with torch.inference_mode():
        for first in range(0, len(frames), BATCH[device]):
            chosen = range(first, min(first + BATCH[device], len(frames)))
            batch = torch.stack([torch.from_numpy(frames[j]) for j in chosen])
            pixels = batch.to(device).permute(0, 3, 1, 2)
            if first == 0:
                trunk.backbone(pixels)
            began = time.perf_counter()
            coarse, _ = trunk.backbone(pixels)
            coarse[0, 0, 0, 0].item()
            seconds += time.perf_counter() - began
    return seconds


def stored_bytes(cache: Path) -> dict[str, int]:
    """Bytes of all artifacts by stage."""
    found: dict[str, int] = {}
    for path in sorted(cache.rglob("*.h5")):
        stage = path.relative_to(cache).parts[0]
        found[stage] = found.get(stage, 0) + path.stat().st_size
    return found


def table(costs: Sequence[Cost]) -> str:
    """Every figure, a column for each length."""

    def row(name: str, values: Sequence[float], digits: int) -> str:
        return f"{name:32}" + "".join(f"{value:12,.{digits}f}" for value in values)

    stages = list(dict.fromkeys(stage for c in costs for stage in (*c.stages, *c.stored)))
    lines = [
        row("frames", [c.frames for c in costs], 0),
        *(
            row(f"s a frame, {stage}", [c.stages.get(stage, 0.0) / c.frames for c in costs], 4)
            for stage in stages
            if any(stage in c.stages for c in costs)
        ),
        row("s a frame, whole run", [c.whole / c.frames for c in costs], 4),
        row("s a frame, bare backbone", [c.bare / c.frames for c in costs], 4),
        row("whole run / bare backbone", [c.whole / c.bare for c in costs], 2),
        row("peak memory, MiB", [c.memory / 2**20 for c in costs], 0),
        *(
            row(f"bytes a frame, {stage}", [c.stored.get(stage, 0) / c.frames for c in costs], 0)
            for stage in stages
            if any(stage in c.stored for c in costs)
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
