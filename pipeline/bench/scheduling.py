"""What many videos cost besides their stages: `dyenet bench-scheduling`.

Every video is a link to one clip of three frames, and its artifacts are links to those of the
first, which alone is computed. What is left is what grows with the number of videos: planning,
scheduling, handing out, and the files of the output folder.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import luigi

from pipeline.bench.runs import alone, run

FIRST = "v00000"
"""the video that is computed"""
SIZE = (48, 64)
"""of its frames, (H, W) px"""
PARTS = ("planning", "scheduling", "handing out", "export", "report")
"""of a run"""


@dataclass(frozen=True)
class Cost:
    """Of a run over many videos."""

    videos: int
    seconds: dict[str, float]
    """processor time by part of the run"""
    rerun: float
    """wall time of a run that finds nothing to do, without the imports"""
    memory: int
    """peak bytes of the run's process"""


class Clock:
    """Processor time by part of a run, by the tasks that begin and end in this process."""

    def __init__(self) -> None:
        from pipeline.commands.dataset import Export, Report, SegmentVideos

        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._last = time.process_time()
        start, success = luigi.Event.START, luigi.Event.SUCCESS
        for task, event, part in (
            (SegmentVideos, start, "scheduling"),
            (Export, start, "handing out"),
            (Export, success, "export"),
            (Report, start, "handing out"),
            (Report, success, "report"),
        ):
            task.event_handler(event)(self._handler(part))

    def spent(self, part: str) -> None:
        """What was spent since the last call belongs to a part."""
        now = time.process_time()
        self.seconds[part] += now - self._last
        self._last = now

    def _handler(self, part: str) -> Any:
        def spent(task: luigi.Task) -> None:
            # Only until the first task runs is it scheduling.
            first = part == "scheduling" and not self.seconds["scheduling"]
            self.spent(part if first or part != "scheduling" else "handing out")

        return spent


def measure(counts: Sequence[int]) -> str:
    """Run once and again for every number of videos; the table, as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        costs = [_measure(Path(folder) / f"{count}", count) for count in counts]
    return table(costs)


def _measure(place: Path, count: int) -> Cost:
    alone(_write, place)
    alone(run, "RunDataset", _options(place), place / "cache", place / "first")
    _link(place, count)
    seconds, memory = alone(_run, place)
    return Cost(count, seconds, alone(_rerun, place), memory)


def _write(place: Path) -> None:
    """One clip, its first mask and a video of that name."""
    from PIL import Image

    from pipeline.bench.clip import draw

    clip = draw(1, 3, SIZE)
    (place / "clip").mkdir(parents=True)
    (place / "data" / "masks").mkdir(parents=True)
    for j, image in enumerate(clip.frames):
        Image.fromarray(image).save(place / "clip" / f"{j:05d}.png")
    Image.fromarray(clip.masks[0]).save(place / "mask.png")
    _link_video(place, FIRST)


def _link_video(place: Path, name: str) -> None:
    (place / "data" / name).symlink_to(place / "clip")
    (place / "data" / "masks" / f"{name}.png").symlink_to(place / "mask.png")


def _link(place: Path, count: int) -> None:
    """All videos but the first, and their artifacts."""
    made = [path for path in (place / "cache").rglob("*.h5") if path.parent.name == FIRST]
    for i in range(1, count):
        name = f"v{i:05d}"
        _link_video(place, name)
        for path in made:
            folder = path.parent.with_name(name)
            folder.mkdir(exist_ok=True)
            (folder / path.name).hardlink_to(path)


def _options(place: Path) -> dict[str, Any]:
    return {
        "dataset": "folder",
        "root": str(place / "data"),
        "variant": "remp",
        "precision": "fp32",
        "device": "cpu",
        "set": ("frames.height=0",),
    }


def _run(place: Path) -> tuple[dict[str, float], int]:
    """Seconds by part, and peak bytes, of a run in this process."""
    task = _task(place)
    from pipeline.commands import engine

    clock = Clock()
    with redirect_stdout(sys.stderr):
        task.complete()
    clock.spent("planning")
    with redirect_stdout(sys.stderr):
        done = engine.build(task)
    if not done:
        raise RuntimeError(f"the run below {place} failed, for the reason above")
    clock.spent("report")
    return clock.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _rerun(place: Path) -> float:
    """Seconds of a run that finds nothing to do."""
    task = _task(place)
    began = time.perf_counter()
    if not task.complete():
        raise RuntimeError(f"the run below {place} is not complete")
    return time.perf_counter() - began


def _task(place: Path) -> Any:
    os.environ["DYENET_CACHE"] = str(place / "cache")
    # So that no import is timed.
    import stages.tracklets  # noqa: F401
    from pipeline.commands import RunDataset

    return RunDataset(**_options(place), output=str(place / "out"))


def table(costs: Sequence[Cost]) -> str:
    """Seconds for 1,000 videos by part, and what all come to compared with the first row's."""
    head = ["videos", *PARTS, "all", "ratio", "no-change rerun, s", "peak MB"]
    rows = []
    for cost in costs:
        thousand = {part: 1000 * spent / cost.videos for part, spent in cost.seconds.items()}
        whole = sum(thousand.values())
        first = 1000 * sum(costs[0].seconds.values()) / costs[0].videos
        parts = [f"{thousand[part]:.1f}" for part in PARTS]
        last = [f"{whole:.1f}", f"{whole / first:.2f}", f"{cost.rerun:.1f}"]
        rows.append([f"{cost.videos}", *parts, *last, f"{cost.memory / 1e6:.0f}"])
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
