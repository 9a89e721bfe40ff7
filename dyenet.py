"""The method from Python, a notebook for example: arrays in, arrays out.

from dyenet import load, segment, settings
masks = segment(frames, {0: first_mask}, load("compact"), settings())
"""

from __future__ import annotations

from collections.abc import Mapping

from models import weights
from models.networks import Networks
from pipeline.plan import machine
from pipeline.plan.inputs import find_weights
from pipeline.plan.settings import RunSettings, override
from stages.segment import segment

__all__ = ["load", "segment", "settings"]


def load(name: str = "compact", device: str = "auto", precision: str = "auto") -> Networks:
    """The networks of a shipped model by its name, or of a .safetensors file by its path.

    device: auto, cpu or cuda. precision: bf16, fp32, or auto for the one that suits the device.
    UserError, or BadWeights, in one line for what is not to be had.
    """
    chosen = machine.with_precision(settings({"run.precision": precision}), device)
    path = find_weights(name, "")
    return weights.load(path, machine.device(device), chosen.run.precision)


def settings(changed: Mapping[str, object] | None = None) -> RunSettings:
    """The default settings with some changed, by the names of docs/settings.md.

    `settings({"run.variant": "remp", "frames.height": 240})`. run.precision is load()'s to choose.
    UserError for an unknown name, with the nearest one, or a value out of range.
    """
    return override(RunSettings(), {name: str(value) for name, value in (changed or {}).items()})
