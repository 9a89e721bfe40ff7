"""Frames a second, by stage and in all, as the paper's Speed Analysis (section 4.2).

python -m benchmarks.speed --dataset davis16 --root DAVIS --split val
python -m benchmarks.speed --weights tuned.safetensors --training-seconds 5400 ...

Runs RunDataset, whose options it takes, in an empty cache and prints a table. With online
training counted in, its seconds (the option, or `training_seconds` in the weights' card) are
added to those of the inference.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.paper.published import SPEED

LEFT_OUT = ("scores",)
"""stages that are no part of the method"""
NOT_COUNTED = "scoring, masks and overlays as files, reports, starting the program"
COUNTED = "decoding and checking the frames, loading the networks, writing the cache"


@dataclass(frozen=True)
class Speed:
    """What a run took."""

    frames: int
    seconds: Mapping[str, float]
    """wall time by stage, over all videos and iterations"""
    training: float | None
    """seconds of online training; None where there was none, or it is not known"""

    @property
    def offline(self) -> float:
        """Frames a second of all stages."""
        return self.frames / sum(self.seconds.values())

    @property
    def online(self) -> float | None:
        """Frames a second with the online training counted in."""
        if self.training is None:
            return None
        return self.frames / (sum(self.seconds.values()) + self.training)


def speed(run: Mapping[str, Any], training: float | None) -> Speed:
    """Speed of a run from its run.json."""
    spent: dict[str, float] = {}
    for video in run["videos"].values():
        for label, seconds in video["seconds"].items():
            stage = label.split("(")[0]
            if stage not in LEFT_OUT:
                spent[stage] = spent.get(stage, 0.0) + seconds
    return Speed(sum(video["frames"] for video in run["videos"].values()), spent, training)


def table(found: Speed) -> str:
    """Markdown: a row a stage, the whole, and the paper's."""
    total = sum(found.seconds.values())
    rows = [
        (
            stage,
            f"{seconds:.2f}",
            f"{found.frames / max(seconds, 1e-9):.2f}",
            f"{seconds / total:.0%}",
        )
        for stage, seconds in found.seconds.items()
    ]
    rows.append(("all, offline", f"{total:.2f}", f"{found.offline:.2f}", "100%"))
    if found.online is not None and found.training is not None:
        rows.append(("all, online", f"{total + found.training:.2f}", f"{found.online:.2f}", ""))
    rows += [(f"paper, {kind}, Titan Xp", "", f"{fps:g}", "") for kind, fps in SPEED.items()]
    lines = [
        ("Stage", "Seconds", "Frames a second", "Share"),
        ("---", "---:", "---:", "---:"),
        *rows,
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def conditions(run: Mapping[str, Any], device: str) -> str:
    """What the figures hold for."""
    sizes = sorted({"x".join(map(str, video["size"][::-1])) for video in run["videos"].values()})
    frames = sum(video["frames"] for video in run["videos"].values())
    return "\n".join(
        (
            f"Device: {device}; precision {run['settings']['run']['precision']}.",
            f"Data: {run['dataset']} {run['split']}, {len(run['videos'])} videos, {frames} frames "
            f"of {', '.join(sizes)} px.",
            f"Variant {run['variant']}, weights {Path(run['weights']).name}.",
            f"Counted: {COUNTED}.",
            f"Not counted: {NOT_COUNTED}.",
        )
    )


def device_name(asked: str) -> str:
    """The device that the networks run on, as its maker calls it."""
    import torch

    from pipeline.plan.machine import device

    if device(asked) == "cuda":
        return torch.cuda.get_device_name()
    try:
        models = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("model name\t: ")
    except OSError:
        models = []
    name = models[1].split("\n")[0] if len(models) > 1 else platform.processor()
    return f"{name}, {torch.get_num_threads()} threads"


def training_seconds(weights: Path) -> float | None:
    """What the cards of a weights file, or of a folder of them, say; None if one is silent."""
    from models.weights import read_header

    files = sorted(weights.glob("*.safetensors")) if weights.is_dir() else [weights]
    told = [read_header(file).get("training_seconds") for file in files]
    known = [float(seconds) for seconds in told if seconds is not None]
    return sum(known) if len(known) == len(told) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--training-seconds", type=float, help="what the online training took")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    given, rest = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        head = [sys.executable, "-m", "luigi", "--module", "pipeline", "RunDataset"]
        options = ["--local-scheduler", "--device", given.device, "--output", str(out), *rest]
        done = subprocess.run(
            [*head, *options],
            env={**os.environ, "DYENET_CACHE": str(Path(folder) / "cache")},
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:
            return done.returncode
        run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    training = given.training_seconds
    if training is None:
        training = training_seconds(Path(run["weights"]))
    print(conditions(run, device_name(given.device)), end="\n\n")
    print(table(speed(run, training)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
