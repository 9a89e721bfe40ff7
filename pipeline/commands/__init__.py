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

_DAVIS = "--dataset davis17 --root DAVIS --split val"
EXAMPLES = {
    "Ablation": f"{_DAVIS} --weights dyenet.safetensors --online-weights tuned.safetensors",
    "ComputeFlow": f"{_DAVIS} --workers 8",
    "DrawAttention": f"{_DAVIS} --videos dogs-jump --object 2",
    "DrawComparison": f"{_DAVIS} --videos dogs-jump",
    "DrawExamples": f"{_DAVIS} --videos dogs-jump,bear,camel --columns 5",
    "FinetuneOnFirstFrames": f"{_DAVIS} --scope dataset --output tuned.safetensors",
    "RunDataset": f"{_DAVIS} --videos bear,camel",
    "SweepThreshold": f"{_DAVIS} --rho-reid-values 0.9,0.8,0.7",
    "TrainDyeNet": "--data davis17:DAVIS:train --output dyenet.safetensors",
    "TrainMSK": "--data davis17:DAVIS:train --weights dyenet.safetensors --output msk.safetensors",
    "TrainRPN": "--data davis17:DAVIS:train --weights dyenet.safetensors --output rpn.safetensors",
}
"""options of a use of every task, which its help ends with"""
