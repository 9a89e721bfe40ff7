"""Frames a second, by stage and in all, as the paper's Speed Analysis: `dyenet speed`.

Runs RunDataset in an empty cache. With online training counted in, its seconds (given, or
`training_seconds` in the weights' card) are added to those of the inference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bench.runs import alone, device_name, method_seconds, read_run, run
from pipeline.paper.published import SPEED
from pipeline.plan.settings import described

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


def measure(options: Mapping[str, Any], training: float | None = None) -> str:
    """Run a dataset with options of RunDataset; the conditions and the table, as Markdown.

    training: seconds of online training. UserError if the run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        alone(run, "RunDataset", options, place / "cache", place / "out")
        found = read_run(place / "out")
    if training is None:
        training = training_seconds(Path(found["weights"]))
    name = alone(device_name, options["device"])
    return f"{conditions(found, name)}\n\n{table(speed(found, training))}"


def speed(run: Mapping[str, Any], training: float | None) -> Speed:
    """Speed of a run from its run.json."""
    frames = sum(video["frames"] for video in run["videos"].values())
    return Speed(frames, method_seconds(run), training)


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
            f"Variant {run['variant']}, weights {Path(run['weights']).name}, "
            f"profile {described(run['settings'])}.",
            f"Counted: {COUNTED}.",
            f"Not counted: {NOT_COUNTED}.",
        )
    )


def training_seconds(weights: Path) -> float | None:
    """What the cards of a weights file, or of a folder of them, say; None if one is silent."""
    from models.weights import read_header

    files = sorted(weights.glob("*.safetensors")) if weights.is_dir() else [weights]
    told = [read_header(file).get("training_seconds") for file in files]
    known = [float(seconds) for seconds in told if seconds is not None]
    return sum(known) if len(known) == len(told) else None
