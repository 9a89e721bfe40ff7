"""What stages take of a CUDA device while they run: kernel time, and memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import luigi
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from pipeline.run.stages import Stage


@dataclass(frozen=True)
class Taken:
    """What the making of one artifact took of the device."""

    busy: float
    """seconds in which a kernel or a copy ran"""
    memory: int
    """peak bytes of tensors"""


class Meter:
    """Measures every stage that runs in this process, by the first digits of its key.

    The profiler starts before a stage's own clock and stops after it.
    """

    def __init__(self) -> None:
        self.taken: dict[str, Taken] = {}
        self._profiler: profile | None = None
        Stage.event_handler(luigi.Event.START)(self._start)
        Stage.event_handler(luigi.Event.SUCCESS)(self._stop)

    def _start(self, task: Stage) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._profiler = profile(activities=[ProfilerActivity.CUDA])
        self._profiler.start()

    def _stop(self, task: Stage) -> None:
        if self._profiler is None:
            return
        torch.cuda.synchronize()
        self._profiler.stop()
        busy = covered(spans(self._profiler, DeviceType.CUDA))
        self.taken[task.key] = Taken(busy, torch.cuda.max_memory_allocated())
        self._profiler = None


def spans(profiler: profile, device: DeviceType) -> list[tuple[float, float]]:
    """Start and end in seconds of all that a stopped profiler saw run on a device.

    From the raw events: the public list takes 30 times as long to build, minutes for a run.
    """
    events: Any = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    return [
        (event.start_ns() / 1e9, (event.start_ns() + event.duration_ns()) / 1e9)
        for event in events
        if event.device_type() == device
    ]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in at least one of some spans of time."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
