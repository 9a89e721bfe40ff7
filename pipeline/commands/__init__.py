"""What `luigi --module pipeline` finds: the tasks that a person starts."""

from __future__ import annotations

from pipeline.commands import engine

engine.install()

from pipeline.commands.ablation import Ablation  # noqa: E402 - needs Luigi set up
from pipeline.commands.dataset import ComputeFlow, RunDataset  # noqa: E402
from pipeline.commands.figures import DrawAttention, DrawComparison, DrawExamples  # noqa: E402
from pipeline.commands.sweep import SweepThreshold  # noqa: E402
from pipeline.commands.training import (  # noqa: E402
    FinetuneOnFirstFrames,
    TrainDyeNet,
    TrainMSK,
    TrainRPN,
)

__all__ = [
    "Ablation",
    "ComputeFlow",
    "DrawAttention",
    "DrawComparison",
    "DrawExamples",
    "FinetuneOnFirstFrames",
    "RunDataset",
    "SweepThreshold",
    "TrainDyeNet",
    "TrainMSK",
    "TrainRPN",
]
