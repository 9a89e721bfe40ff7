"""What `luigi --module pipeline` finds: the tasks that a person starts."""

from __future__ import annotations

from pipeline import engine

engine.install()

from pipeline.figures import DrawAttention, DrawComparison  # noqa: E402 - needs Luigi set up
from pipeline.roots import RunDataset, SweepThreshold  # noqa: E402
from pipeline.training import (  # noqa: E402
    FinetuneOnFirstFrames,
    TrainDyeNet,
    TrainMSK,
    TrainRPN,
)
from pipeline.variants import Ablation  # noqa: E402

__all__ = [
    "Ablation",
    "DrawAttention",
    "DrawComparison",
    "FinetuneOnFirstFrames",
    "RunDataset",
    "SweepThreshold",
    "TrainDyeNet",
    "TrainMSK",
    "TrainRPN",
]
