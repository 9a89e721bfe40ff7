"""torch.compile finds nothing in the networks that it would have to leave to Python."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models import propagation
from models.backbone import Trunk
from models.config import Architecture
from models.networks import join
from models.propagation import Recurrence
from models.remp import ReMP
from tests.clip import SIZE
from tests.networks import random_networks

TINY = Architecture.tiny()


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_trunk_has_no_graph_break(backbone: str) -> None:
    networks = random_networks(
        replace(TINY, backbone=backbone), precision="bf16", modules=["trunk"]
    )
    images = torch.randint(0, 255, (2, 3, *SIZE), dtype=torch.uint8)
    compiled = torch.compile(networks.need("trunk", Trunk), fullgraph=True, backend="eager")
    with networks.inference():
        for one, other in zip(compiled(images), networks.need("trunk", Trunk)(images), strict=True):
            assert torch.equal(one, other)


def test_step_has_no_graph_break() -> None:
    networks = random_networks(TINY, precision="bf16", modules=["remp"])
    remp, f, fine = networks.need("remp", ReMP), torch.rand(1, 256, 7, 9), torch.rand(1, 8, 14, 18)
    flow, index = torch.rand(1, 2, *SIZE) * 3, torch.zeros(2, dtype=torch.long)
    box, mask = torch.tensor([[3.0, 4.0, 30.0, 40.0]]), torch.full((1, 16, 16), 255.0)

    def step(state: Recurrence, f: Tensor, fine: Tensor, flow: Tensor) -> Recurrence:
        return propagation.step(remp, TINY, state, f, fine, flow, index)

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    with networks.inference():
        start = networks.enter(remp, f, fine, box, mask, [])
        one = other = join([start, start])
        for _ in range(2):
            one, other = compiled(one, f, fine, flow), step(other, f, fine, flow)
        assert torch.equal(one.mask, other.mask) and torch.equal(one.boxes, other.boxes)
