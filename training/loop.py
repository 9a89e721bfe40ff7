"""The loop: batches in, gradients added up, one step an iteration, exact resume.

Under torchrun each process takes its share of an iteration's clips and
DistributedDataParallel averages the gradients; the result is that of one process.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.errors import BadWeights
from stages.errors import BadInput
from training.batch import CANVAS, Batch, Batches
from training.checkpoint import read_state, write_state
from training.clips import Clip
from training.log import read_log, write_log
from training.objectives import Objective
from training.settings import TrainSettings

Report = Callable[[int, Mapping[str, float]], None]
"""Called with the iterations done and the mean losses of the last one."""


@dataclass(frozen=True)
class Place:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gather(self, mine: list[Any]) -> list[Any]:
        """What all processes have, in the order of their clips."""
        if self.count == 1:
            return mine
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, mine)
        rows = max(len(part) for part in parts)
        return [part[n] for n in range(rows) for part in parts if n < len(part)]


@contextmanager
def together(device: str) -> Iterator[Place]:
    """The processes that torchrun started, or this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Place()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Place(dist.get_rank(), count)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def rate(settings: TrainSettings, iteration: int) -> float:
    """Learning rate of an iteration, counted from 0."""
    rising = min(1.0, (iteration + 1) / settings.warmup) if settings.warmup else 1.0
    return settings.rate * rising * 0.1 ** (iteration // settings.drop)


def optimiser_of(objective: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser over all weights that learn."""
    weights = moving(objective)
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(weights, settings.rate, weight_decay=settings.decay)
    return torch.optim.SGD(
        weights, settings.rate, momentum=settings.momentum, weight_decay=settings.decay
    )


def moving(objective: nn.Module) -> list[nn.Parameter]:
    """The weights that learn."""
    return [p for p in objective.parameters() if p.requires_grad]


class Training:
    """One run of training, at some iteration."""

    def __init__(
        self, objective: Objective, settings: TrainSettings, device: str, place: Place
    ) -> None:
        self.objective = objective.to(device)
        self.settings, self.device, self.place = settings, device, place
        self.optimiser = optimiser_of(self.objective, settings)
        self.done = 0
        self.seconds = 0.0
        """wall time of the iterations done"""
        self.mean: dict[str, Tensor] = {}
        if settings.average:
            self.mean = {name: p.detach().clone() for name, p in self._moving()}
        self.parallel: nn.Module = self.objective
        if place.count > 1:
            # OIM's buffers follow from what all processes have seen; they need no broadcast
            self.parallel = DistributedDataParallel(self.objective, broadcast_buffers=False)

    def _moving(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.objective.named_parameters() if p.requires_grad)

    def step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """One iteration over this process's batches; the mean of each loss over their clips.

        BadInput if a loss or a gradient is not finite.
        """
        began = time.perf_counter()
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.settings, self.done)
        self.optimiser.zero_grad(set_to_none=True)
        total = sum(len(batch) for batch in batches)
        sums: dict[str, Tensor] = {}
        for n, batch in enumerate(batches):
            losses = self._backward(batch, last=n == len(batches) - 1, share=len(batch) / total)
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
        found = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
        if not math.isfinite(sum(found.values())):
            raise BadInput(
                f"iteration {self.done}: the loss is not finite ({found}); lower the rate, or "
                "train with precision=fp32"
            )
        self._limit_gradient()
        self.optimiser.step()
        self.objective.after_step(self.place.gather(self.objective.seen()))
        self._follow()
        self.done += 1
        self.seconds += time.perf_counter() - began
        return found

    def _backward(self, batch: Batch, *, last: bool, share: float) -> dict[str, Tensor]:
        """Add a batch's gradients; only the last one of an iteration is sent to the others."""
        waiting: AbstractContextManager[Any] = nullcontext()
        if isinstance(self.parallel, DistributedDataParallel) and not last:
            waiting = self.parallel.no_sync()
        half = self.settings.precision == "bf16"
        with waiting:
            with torch.autocast(self.device, torch.bfloat16, enabled=half):
                losses = self.parallel(batch.to(torch.device(self.device)))
            shared = {name: loss * share for name, loss in losses.items()}
            torch.stack(list(shared.values())).sum().backward()
        return {name: loss.detach() for name, loss in shared.items()}

    def _limit_gradient(self) -> None:
        longest = self.settings.clip_norm or math.inf
        norms = [nn.utils.clip_grad_norm_(moving(part), longest) for part in self.objective.parts()]
        if not torch.stack(norms).isfinite().all():
            wrong = next(
                n for n, p in self._moving() if p.grad is not None and not p.grad.isfinite().all()
            )
            raise BadInput(
                f"iteration {self.done}: the gradient of {wrong} is not finite; lower the rate, "
                "or train with precision=fp32"
            )

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the running mean of the weights; early on it forgets faster."""
        if not self.mean:
            return
        kept = min(self.settings.average, (1 + self.done) / (10 + self.done))
        for name, p in self._moving():
            self.mean[name].lerp_(p, 1 - kept)

    # --- state -------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """All that the next iteration depends on."""
        tensors = {f"weights.{n}": v for n, v in self.objective.state_dict().items()}
        tensors |= {f"mean.{n}": v for n, v in self.mean.items()}
        for i, slots in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{n}": v for n, v in slots.items() if v is not None}
        return tensors

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        write_state(path, self.state(), {"done": self.done, "seconds": self.seconds})

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint. BadWeights if it is damaged or of another run."""
        tensors, about = read_state(path)
        own = {n.removeprefix("weights."): v for n, v in tensors.items() if n[0] == "w"}
        try:
            self.objective.load_state_dict(own)
        except RuntimeError as error:
            raise BadWeights(
                f"checkpoint {path}: of another network; delete it to start anew"
            ) from error
        self.mean = {
            n.removeprefix("mean."): v.to(self.device) for n, v in tensors.items() if n[0] == "m"
        }
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, i, slot = name.split(".")
                slots.setdefault(int(i), {})[slot] = value
        state = self.optimiser.state_dict()
        self.optimiser.load_state_dict({**state, "state": slots})
        self.done, self.seconds = int(about["done"]), float(about["seconds"])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The block in which the networks hold the running mean of their weights."""
        now = {name: p.detach().clone() for name, p in self._moving()}
        with torch.no_grad():
            for name, p in self._moving():
                p.copy_(self.mean.get(name, p))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self._moving():
                    p.copy_(now[name])


def train(
    training: Training,
    clips: Callable[[int], Clip],
    folder: Path,
    report: Report,
    workers: int = 0,
) -> None:
    """Run to the last iteration, from the folder's checkpoint if there is one.

    folder: holds checkpoint.safetensors and log.csv, a row an iteration with the mean of
    each loss over the first process's clips. Stopped at any moment, the same call goes on
    with the same losses. workers: processes that draw clips ahead, 0: none.
    """
    checkpoint, log = folder / "checkpoint.safetensors", folder / "log.csv"
    settings, place = training.settings, training.place
    if checkpoint.exists():
        training.resume(checkpoint)
    rows = read_log(log)[: training.done] if place.first else []
    data = Batches(clips, settings, place.rank, place.count, CANVAS[training.device])
    batches = data.load(training.done, workers)
    while training.done < settings.iterations:
        began = training.done
        losses = training.step([next(batches) for _ in data.groups])
        if not place.first:
            continue
        rows.append({"iteration": began, "rate": rate(settings, began), **losses})
        report(training.done, losses)
        if training.done % settings.checkpoint == 0 or training.done == settings.iterations:
            # the log first: what it holds beyond the checkpoint is dropped on resuming
            write_log(log, rows)
            training.save(checkpoint)
