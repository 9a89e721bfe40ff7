"""Networks of random weights."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

import torch

from models.config import Architecture
from models.networks import MODULES, Networks
from models.weights import build


def without(networks: Networks, name: str) -> Networks:
    """Networks that lack a module."""
    fewer = copy(networks)
    fewer.modules = {key: module for key, module in networks.modules.items() if key != name}
    return fewer


def random_networks(
    architecture: Architecture,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    modules: Iterable[str] = MODULES,
) -> Networks:
    """Freshly initialised networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = {name: build(name, architecture) for name in modules}
    return Networks(architecture, built, device, precision)
