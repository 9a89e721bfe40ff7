"""Checkpoints: safetensors with a JSON header; reading one runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cache.files import write_file
from models.errors import BadWeights

HEADER = "training"


def write_state(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and JSON values; the file appears whole or not at all."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_file(path, save(plain, {HEADER: json.dumps(about)}))


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of write_state(). BadWeights if the file is damaged or another's."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[HEADER])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError, KeyError) as error:
        raise BadWeights(f"checkpoint {path}: damaged; delete it to start anew") from error
