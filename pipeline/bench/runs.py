"""Runs to be measured: each in a process and a cache of its own."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UserError

T = TypeVar("T")

LEFT_OUT = ("scores",)
"""stages that are no part of the method"""


def alone(work: Callable[..., T], *arguments: object) -> T:
    """Call a function in a fresh process, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def run(task: str, options: Mapping[str, Any], cache: Path, out: Path) -> None:
    """Run a task of pipeline.commands by its name; UserError if it fails.

    In the calling process, whose artifact root becomes `cache`; what the task prints goes to
    the error stream.
    """
    os.environ["DYENET_CACHE"] = str(cache)
    import stages.tracklets  # noqa: F401 - so that no import is timed
    from pipeline import commands

    with redirect_stdout(sys.stderr):
        done = commands.engine.build(getattr(commands, task)(**options, output=str(out)))
    if not done:
        raise UserError(f"{task} failed, for the reason above")


def read_run(out: Path) -> dict[str, Any]:
    """The run.json of an output folder."""
    found: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return found


def stage_seconds(runs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds by stage, over iterations and videos, of what some run.json name, each once."""
    seconds: dict[tuple[str, str, str], float] = {}
    for run in runs:
        for video, about in run["videos"].items():
            for label, spent in about["seconds"].items():
                seconds[label.partition("(")[0], video, about["keys"][label]] = spent
    totals: dict[str, float] = {}
    for (stage, _, _), spent in seconds.items():
        totals[stage] = totals.get(stage, 0.0) + spent
    return totals


def method_seconds(run: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by stage of a run.json, scoring left out."""
    found = stage_seconds([run])
    return {stage: spent for stage, spent in found.items() if stage not in LEFT_OUT}


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
