"""A use of every task, which its help ends with."""

from __future__ import annotations

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
"""options, by the name of the task"""
