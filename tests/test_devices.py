"""Network work on a GPU that is not there: under FakeTensorMode a mixed-up device fails.

Tensors have a shape, a type and the device `cuda`, but no values; what depends on values
(which boxes are kept, where an object is) runs on the host and is left out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torchvision.models.detection import rpn as torchvision_rpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.optical_flow import raft_large

from models.config import Architecture
from models.mask_network import MaskNetwork
from models.networks import Networks, as_bytes
from models.reid_network import ReIDNetwork
from models.remp import ReMP
from models.rpn import RPN
from models.weights import build
from stages.evidence import Shown
from stages.flow_methods import raft_field
from stages.msk import step as msk_step
from stages.search import Grid, similar
from tests.clip import SIZE
from tests.networks import random_networks
from tests.training_clips import SETTINGS, make_clips
from training.batch import collate
from training.loop import optimiser_of
from training.objectives import DyeNetObjective, MSKObjective, Objective
from training.settings import TrainSettings

TINY = Architecture.tiny()
CELLS = 7, 9
"""of the features of a frame of SIZE"""
BOXES = ((3.0, 4.0, 30.0, 40.0), (20.0, 10.0, 60.0, 50.0))


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A mode in which tensors made on `cuda` are there; shapes may depend on values."""
    # the mode would keep the value of a single number, on the device
    monkeypatch.setattr(fake_tensor, "CONSTANT_NUMEL_LIMIT", 0)
    shapes = ShapeEnv(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True)
    # cuDNN's kernels have no rule for the shape of their result
    with (
        torch.backends.cudnn.flags(enabled=False),
        FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes),
    ):
        yield


def placed(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, strides and type on `cuda`."""
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda"
    ).requires_grad_(tensor.requires_grad)


def move(module: nn.Module) -> None:
    """As module.to("cuda"), which does not know tensors without values."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(placed(p), p.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = placed(buffer)
        if isinstance(part, AnchorGenerator):
            part.cell_anchors = [placed(cells) for cells in part.cell_anchors]


@pytest.fixture(params=["fp32", "bf16"])
def networks(request: pytest.FixtureRequest) -> Networks:
    with unset_fake_temporarily():
        made = random_networks(TINY, 0, "cpu", request.param)
    made.device = torch.device("cuda")
    for module in made.modules.values():
        move(module)
    return made


def features(a: Architecture = TINY) -> tuple[Tensor, Tensor]:
    coarse = torch.empty((1, 256, *CELLS), device="cuda")
    fine = torch.empty((1, a.fine_channels, 2 * CELLS[0], 2 * CELLS[1]), device="cuda")
    return coarse, fine


def boxes() -> Tensor:
    return torch.tensor(BOXES, device="cuda")


def on_cuda(*tensors: Tensor | None) -> bool:
    return all(t is not None and t.device.type == "cuda" for t in tensors)


def test_a_mixed_up_device_fails() -> None:
    with pytest.raises(Exception, match="device"):
        torch.empty(2, device="cuda") + torch.empty(2)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "mobilenet_v2"])
def test_trunk(backbone: str) -> None:
    trunk = build("trunk", replace(TINY, backbone=backbone)).eval()
    move(trunk)
    images = torch.empty((2, *SIZE, 3), dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
    coarse, fine = trunk(images)
    assert on_cuda(coarse, fine) and coarse.shape[2:] == CELLS


def test_rpn(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    rpn, (f, _) = networks.need("rpn", RPN), features()
    # torchvision's own asks how many boxes there are
    monkeypatch.setattr(
        torchvision_rpn.box_ops,
        "batched_nms",
        lambda b, s, _, iou: torch.ops.torchvision.nms(b, s, iou),
    )
    with networks.inference():
        anchors, logits, deltas = rpn.outputs(f.to(networks.dtype), SIZE)
        [(kept, objectness)] = rpn.propose(f.to(networks.dtype), SIZE, per_frame=12, nms=0.7)
    assert on_cuda(*anchors, logits, deltas, kept, objectness)


def test_reid_and_mask(networks: Networks) -> None:
    f, _ = features()
    with networks.inference():
        reid, mask = networks.need("reid", ReIDNetwork), networks.need("mask", MaskNetwork)
        scene = reid.scene(f)
        found = [
            networks.embedded(reid, scene, boxes()),
            reid.shortcut(scene[0].double(), boxes()),
        ]
        masks = networks.drawn(mask, f, boxes())
    assert on_cuda(*found, masks)
    assert all(vectors.shape == (2, TINY.embedding) for vectors in found)
    assert masks.shape == (2, TINY.mask_size, TINY.mask_size)


@pytest.mark.parametrize("plain", [False, True])
def test_start_and_step(networks: Networks, plain: bool) -> None:
    remp = networks.need("remp_plain" if plain else "remp", ReMP)
    (f, fine), flow = features(), torch.empty((1, 2, *SIZE), device="cuda")
    masks = torch.empty((2, 16, 16), device="cuda")
    with networks.inference():
        given = [networks.enter(remp, f, fine, boxes()[:1], masks[:1], []).memory]
        start = networks.enter(remp, f, fine, boxes()[1:], masks[1:], [(given[0], False)])
        moved = networks.advance(remp, [start, start], f, fine, flow, 4)
        for state in (start, *moved, *networks.advance(remp, moved, f, fine, flow, 4)):
            assert on_cuda(state.boxes, state.hidden, state.mask, state.alive, *state.memory)
            assert on_cuda(as_bytes(state.mask))


def test_evidence_and_search(networks: Networks) -> None:
    (f, fine), masks = features(), torch.empty((2, 16, 16), device="cuda")
    remp = networks.need("remp", ReMP)
    with networks.inference():
        memory = networks.enter(remp, f, fine, boxes()[:1], masks[:1], []).memory
        shown = Shown(networks.shown(remp, f, [memory, memory]), boxes())
        rows = torch.zeros((2, 1), dtype=torch.long, device="cuda")
        drawn = masks[:, None] / 255
        assert on_cuda(shown.rough_agreement(), shown.agreement(rows, drawn))
        vectors = torch.empty((2, 256), dtype=torch.float64, device="cuda")
        scene = f[0].double()
        assert on_cuda(*similar(scene, vectors, 1, Grid.of((20.0, 30.0), 1.0, scene[0])))


def test_msk(networks: Networks) -> None:
    states = {n: torch.empty((1, 1, *SIZE), device="cuda") for n in (1, 3)}
    image, flow = np.zeros((*SIZE, 3), np.uint8), np.zeros((2, *SIZE), np.float32)
    assert on_cuda(*msk_step(states, image, flow, networks).values())


def test_raft() -> None:
    network = raft_large(weights=None).eval()
    move(network)
    images = [torch.empty((*SIZE, 3), dtype=torch.uint8, device="cuda") for _ in range(2)]
    assert on_cuda(raft_field(network, *images))


# --- training ----------------------------------------------------------------------


def joint(settings: TrainSettings) -> Objective:
    modules = {n: build(n, TINY) for n in ("trunk", "mask", "reid", "remp", "remp_plain")}
    return DyeNetObjective(TINY, modules, 4, settings)


def msk(settings: TrainSettings) -> Objective:
    return MSKObjective({"msk": build("msk", TINY)}, settings)


@pytest.mark.parametrize("make", [joint, msk])
@pytest.mark.parametrize(
    "changed", [{}, {"trunk": "frozen", "precision": "bf16", "optimiser": "adamw"}]
)
def test_a_step_of_training(
    make: Callable[[TrainSettings], Objective], changed: Mapping[str, Any]
) -> None:
    settings = replace(SETTINGS, degrade=1.0, **changed)
    with unset_fake_temporarily():
        objective = make(settings)
        batch = collate([make_clips(settings)[0]], settings)
        objective(batch)
    objective.after_step([])
    move(objective)
    frozen = getattr(objective, "frozen", None)
    if frozen is not None:
        move(frozen._trunk)
    optimiser = optimiser_of(objective, settings)
    sent = batch._each(placed)
    with torch.autocast("cuda", torch.bfloat16, enabled=settings.precision == "bf16"):
        losses = objective(sent)
    assert on_cuda(*losses.values())
    # without a driver the engine of backward() has no thread for the device
    for p in objective.parameters():
        p.grad = placed(p.detach()) if p.requires_grad else None
    nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
    optimiser.step()
    if isinstance(objective, DyeNetObjective):
        embeddings = torch.empty((len(sent.box_labels), TINY.embedding), device="cuda")
        objective.oim.update(embeddings, batch.box_labels)
