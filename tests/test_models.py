"""The networks: sizes at the paper's width, geometry against naive loops, weights files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models import resnet18
from torchvision.ops import FrozenBatchNorm2d

import models
from models import geometry
from models.backbone import Backbone, Trunk, fold_batch_norms
from models.config import LATER, Architecture
from models.errors import BadWeights
from models.memory import KEPT_EVERY, KEPT_FRAMES, SURE_PROBABILITY, AppearanceMemory, Memory
from models.networks import MODULES, Networks
from models.oim import IGNORED, OIM, UNLABELLED
from models.propagation import memorise
from models.reid_network import ReIDNetwork
from models.remp import ReMP
from models.rpn import RPN
from models.weights import (
    build,
    load,
    load_modules,
    module_digests,
    read_architecture,
    read_header,
    save,
)
from tests.networks import random_networks

TINY = Architecture.tiny()


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def with_norms(module: torch.nn.Module) -> int:
    """Weights as published models count them: those of frozen norms are buffers here."""
    norms = (m for m in module.modules() if isinstance(m, FrozenBatchNorm2d))
    return count(module) + sum(m.weight.numel() + m.bias.numel() for m in norms)


PUBLISHED = {"resnet50": 25_557_032, "resnet101": 44_549_160}
"""parameters of the whole classifiers, as torchvision publishes them"""
CONV5 = 14_964_736
"""of which conv5_x, of either"""
CLASSIFIER = 2048 * 1000 + 1000


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_paper_backbone_is_the_published_network_up_to_conv4(name: str) -> None:
    assert with_norms(Backbone(name)) == PUBLISHED[name] - CONV5 - CLASSIFIER


def test_paper_heads_are_the_published_conv5_and_what_section_3_adds() -> None:
    a = Architecture.paper()
    one_class, fully_connected = 2048 + 1, 2048 * 256 + 256
    mask, reid, remp, plain = (build(name, a) for name in ("mask", "reid", "remp", "remp_plain"))
    assert with_norms(mask) == CONV5 + one_class
    assert with_norms(reid) == CONV5 + fully_connected
    assert isinstance(remp, ReMP) and remp.attend is not None
    assert with_norms(remp.recur.conv5) == CONV5
    convolutions = {
        part: [m for m in getattr(remp, part).modules() if isinstance(m, torch.nn.Conv2d)]
        for part in ("output", "attend")
    }
    assert len(convolutions["output"]) == 3 and convolutions["output"][-1].out_channels == 1
    (attention,) = convolutions["attend"]
    assert attention.out_channels == 1
    assert count(remp) - count(plain) == count(attention)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", 256), ("resnet50", 1024), ("resnet101", 1024), ("mobilenet_v2", 448)],
)
def test_backbones_share_one_interface(name: str, channels: int) -> None:
    net = Backbone(name).eval()
    images = torch.zeros((1, 3, 50, 71), dtype=torch.uint8)
    with torch.inference_mode():
        coarse, fine = net(images)
    assert (net.name, net.channels, net.stride) == (name, channels, 8)
    assert coarse.shape == (1, channels, 7, 9)
    assert fine.shape == (1, net.fine_source, 13, 18)


def test_paper_remp_shapes() -> None:
    a = Architecture.paper()
    remp = ReMP(a, 1024).eval()
    with torch.inference_mode():
        out = remp(
            torch.zeros(1, 512, 28, 28), torch.rand(1, 1024, 28, 28), torch.ones(1, 1, 28, 28)
        )
    assert out.hidden.shape == (1, 512, 28, 28)
    assert out.logits.shape == (1, 1, 28, 28)
    assert out.attention is not None
    assert out.attention.shape == (1, 1, 28, 28)
    assert out.attention.sum().item() == pytest.approx(1, abs=1e-4)


def random_step(a: Architecture) -> tuple[ReMP, tuple[Tensor, Tensor, Tensor]]:
    """A Re-MP with inputs h, x and the warped mask; alike for every architecture."""
    torch.manual_seed(0)
    inputs = torch.rand(1, 16, 8, 8), torch.rand(1, 256, 8, 8), torch.rand(1, 1, 8, 8)
    torch.manual_seed(1)
    return ReMP(a, 256).eval(), inputs


@torch.no_grad()
def test_the_warped_mask_is_an_input_of_n_r_or_not() -> None:
    base = replace(TINY, refine=1, memory=False)
    with_mask, (h, x, mask) = random_step(base)
    without, _ = random_step(replace(base, mask_input=False))
    assert with_mask.recur.fuse.in_channels == without.recur.fuse.in_channels + 1
    assert torch.equal(without(h, x, mask).logits, without(h, x, 1 - mask).logits)
    assert not torch.equal(with_mask(h, x, mask).hidden, with_mask(h, x, 1 - mask).hidden)
    # equation (1): the same weights with the mask's own at zero
    joined = torch.cat((without.recur.fuse.weight, torch.zeros(16, 1, 1, 1)), 1)
    state = {**without.state_dict(), "recur.fuse.weight": joined}
    with_mask.load_state_dict(state)
    torch.testing.assert_close(with_mask(h, x, mask).hidden, without(h, x, mask).hidden)


@torch.no_grad()
def test_attention_is_the_softmax_scaled_or_not() -> None:
    base = replace(TINY, refine=1, memory=False)
    scaled, inputs = random_step(base)
    printed, _ = random_step(replace(base, scale_attention=False))
    one, other = scaled(*inputs), printed(*inputs)
    assert scaled.attend is not None and one.attention is not None and other.attention is not None
    softmax = torch.softmax(scaled.attend.score(inputs[0]).flatten(1), 1).view(1, 1, 8, 8)
    torch.testing.assert_close(other.attention, softmax)
    torch.testing.assert_close(one.attention, 64 * softmax)
    torch.testing.assert_close(
        other.logits, printed.output(other.hidden * softmax, inputs[2], None)
    )
    assert torch.equal(one.hidden, other.hidden) and not torch.equal(one.logits, other.logits)


def test_the_paper_has_equations_1_and_2_as_printed() -> None:
    paper = Architecture.paper()
    assert not (paper.mask_input or paper.scale_attention or paper.memory or paper.reid_shortcut)
    assert (paper.backbone, paper.refine, paper.roi_size) == ("resnet101", 1, 28)
    assert Architecture.compact().mask_input and Architecture.compact().scale_attention


def test_stock_weights_give_the_stock_features_up_to_layer2() -> None:
    stock = resnet18(weights=None).eval()
    for module in stock.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    net = Backbone("resnet18").eval()
    own = net.body.state_dict()
    net.body.load_state_dict({k: v for k, v in stock.state_dict().items() if k in own})
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        x = net.preprocess(images)
        mine = net.body.layer2(
            net.body.layer1(net.body.maxpool(F.relu(net.body.bn1(net.body.conv1(x)))))
        )
        s = stock.maxpool(F.relu(stock.bn1(stock.conv1(x))))
        theirs = stock.layer2(stock.layer1(s))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_folding_batch_norms_changes_nothing(name: str) -> None:
    net = Backbone(name).eval()
    for module in net.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.5, 2)
            module.bias.uniform_(-0.5, 0.5)
    images = torch.randint(0, 256, (1, 3, 64, 48), dtype=torch.uint8)
    with torch.no_grad():
        before = net(images)[0]
        fold_batch_norms(net)
        after = net(images)[0]
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)


def naive_bilinear(field: np.ndarray, x: float, y: float, outside: str) -> float:
    """One bilinear sample at a position in px, centres at +0.5, by the definition."""
    height, width = field.shape
    if outside == "border":
        x, y = min(max(x, 0.5), width - 0.5), min(max(y, 0.5), height - 0.5)
    left, top = int(np.floor(x - 0.5)), int(np.floor(y - 0.5))
    total = 0.0
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
                total += share * float(field[row, column])
    return total


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_warp_equals_the_naive_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, s = 20, 26, 5
    maps = rng.random((1, 2, s, s)).astype(np.float32)
    flow = rng.normal(0, 3, (1, 2, height, width)).astype(np.float32)
    low = rng.uniform(-3, 10, (2, 2))
    old, new = np.concatenate((low, low + rng.uniform(4, 15, (2, 2))), 1).astype(np.float32)
    got = geometry.warp(
        torch.from_numpy(maps),
        torch.from_numpy(old)[None],
        torch.from_numpy(new)[None],
        s,
        torch.from_numpy(flow),
        torch.zeros(1, dtype=torch.long),
    )
    for r in range(s):
        for c in range(s):
            x = new[0] + (c + 0.5) * (new[2] - new[0]) / s
            y = new[1] + (r + 0.5) * (new[3] - new[1]) / s
            u = x + naive_bilinear(flow[0, 0], x, y, "border")
            v = y + naive_bilinear(flow[0, 1], x, y, "border")
            u, v = min(max(u, 0.5), width - 0.5), min(max(v, 0.5), height - 0.5)
            in_x, in_y = (u - old[0]) / (old[2] - old[0]) * s, (v - old[1]) / (old[3] - old[1]) * s
            for k in range(2):
                want = naive_bilinear(maps[0, k], in_x, in_y, "zero")
                assert got[0, k, r, c].item() == pytest.approx(want, abs=2e-3)


def test_what_flow_reads_beyond_the_frame_is_its_border() -> None:
    """An object that the frame cuts and that moves into it is whole in the new frame."""
    box = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., :10, :] = 1
    flow = torch.zeros(1, 2, 30, 50)
    flow[:, 1] = 6
    index = torch.zeros(1, dtype=torch.long)
    warped = geometry.warp(mask, box, box - torch.tensor([0.0, 6, 0, 6]), 20, flow, index)
    # rows from 10 on come from beyond the old frame, whose last row shows the object
    torch.testing.assert_close(warped, torch.ones_like(warped))


def test_rois_read_the_mirror_image_next_to_the_frame_and_zeros_further_out() -> None:
    f = torch.rand(2, 3, 9, 12)
    index = torch.tensor([1, 0])
    inside = torch.tensor([[20.0, 12.0, 52.0, 44.0], [30.0, 8.0, 70.0, 40.0]])
    torch.testing.assert_close(
        geometry.mirrored_roi_align(f, inside, 4, 8, index),
        geometry.roi_align(f, inside, 4, 8, index),
    )
    # 7 cells of 16 px, the first four beyond the frame, the first of them by more than 48 px
    box = torch.tensor([[-64.0, 8.0, 48.0, 64.0]])
    got = geometry.mirrored_roi_align(f, box, 7, 8, index[:1])
    assert (got[..., :1] == 0).all() and (got[..., 1:] > 0).all()
    # the mirror stands on the middle of the outermost features, at 4 px
    mirrored = geometry.roi_align(f, torch.tensor([[8.0, 8, 56, 64]]), 1, 8, index[:1])
    box = torch.tensor([[-48.0, 8.0, 0.0, 64.0]])
    torch.testing.assert_close(geometry.mirrored_roi_align(f, box, 1, 8, index[:1]), mirrored)


def test_locate_follows_a_moved_square() -> None:
    box = torch.tensor([[40.0, 30.0, 80.0, 70.0]])
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., 10:30, 10:30] = 1
    flow = torch.empty(1, 2, 120, 160)
    flow[:, 0], flow[:, 1] = -12, 5
    tight, found = geometry.locate(mask, box, flow, torch.zeros(1, dtype=torch.long))
    assert found.all()
    # the square 50..70 x 40..60 moves by (12, -5); the search grid resolves about 1 px
    torch.testing.assert_close(tight, torch.tensor([[62.0, 35.0, 82.0, 55.0]]), atol=1.2, rtol=0)


def test_locate_reports_an_object_that_left_the_frame() -> None:
    flow = torch.full((1, 2, 50, 50), 500.0)
    mask = torch.ones(1, 1, 8, 8)
    _, found = geometry.locate(
        mask, torch.tensor([[10.0, 10.0, 20.0, 20.0]]), flow, torch.zeros(1, dtype=torch.long)
    )
    assert not found.any()


def frame(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(256, 12, 15)).astype(np.float16),
        rng.normal(size=(8, 24, 30)).astype(np.float16),
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_result_does_not_depend_on_its_batch(precision: str) -> None:
    nets = random_networks(TINY, 1, precision=precision)
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 60, (33, 2))
    boxes = np.concatenate((low, low + rng.uniform(8, 40, (33, 2))), 1).astype(np.float32)
    f, fine = frame(0)
    together = nets.embed(f, boxes)
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    np.testing.assert_array_equal(together[5:7], nets.embed(f, boxes[5:7]))
    np.testing.assert_array_equal(nets.masks(f, boxes)[20:], nets.masks(f, boxes[20:]))
    given_masks = np.full((3, 6, 6), 255, np.uint8)
    flow = rng.normal(size=(2, 96, 120)).astype(np.float32)
    joint = nets.step(nets.start(f, fine, boxes[:3], given_masks), *frame(1), flow)
    alone = nets.step(nets.start(f, fine, boxes[1:2], given_masks[1:2]), *frame(1), flow)
    np.testing.assert_array_equal(joint.masks[1:2], alone.masks)
    np.testing.assert_array_equal(joint.boxes[1:2], alone.boxes)
    np.testing.assert_array_equal(joint[[1]].areas, alone.areas)


def test_proposals_lie_in_the_frame_and_are_sorted() -> None:
    nets = random_networks(TINY, 2)
    with nets.inference():
        [(boxes, scores)] = nets.need("rpn", RPN).propose(
            torch.randn(1, 256, 12, 15), (96, 120), per_frame=7, nms=0.7
        )
    assert boxes.shape == (7, 4)
    assert (boxes >= 0).all() and (boxes[:, 2] <= 120).all() and (boxes[:, 3] <= 96).all()
    assert (scores[:-1] >= scores[1:]).all()


def test_weights_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    modules = {name: build(name, TINY) for name in MODULES}
    save(path, TINY, modules, {"data": ["none"]})
    assert read_header(path)["data"] == ["none"]
    nets = load(path, precision="fp32")
    again = Networks(TINY, modules, precision="fp32")
    box = np.array([[8, 8, 40, 40]], np.float32)
    np.testing.assert_array_equal(nets.embed(frame(3)[0], box), again.embed(frame(3)[0], box))


def test_module_digests_change_with_their_module_only(tmp_path: Path) -> None:
    modules = {name: build(name, TINY) for name in ("trunk", "mask", "reid")}
    save(tmp_path / "a", TINY, modules, {})
    with torch.no_grad():
        next(modules["mask"].parameters()).add_(1e-3)
    save(tmp_path / "b", TINY, modules, {"note": "other"})
    a, b = module_digests(tmp_path / "a"), module_digests(tmp_path / "b")
    assert a["mask"] != b["mask"]
    assert (a["trunk"], a["reid"]) == (b["trunk"], b["reid"])


def test_later_fields_move_no_key_while_they_have_their_defaults(tmp_path: Path) -> None:
    """Weights files of before name none of them: they load alike, and so do their digests."""
    module = {"remp": build("remp", TINY)}
    for name, a in (("now", TINY), ("paper", replace(TINY, scale_attention=False))):
        save(tmp_path / name, a, module, {})
    header = read_header(tmp_path / "now")
    assert not set(LATER) & set(header["architecture"])
    assert header["architecture"] == {
        name: list(value) if name == "anchors" else value
        for name, value in asdict(TINY).items()
        if name not in LATER
    }
    assert read_architecture(tmp_path / "now") == TINY
    assert read_architecture(tmp_path / "paper") == replace(TINY, scale_attention=False)
    assert module_digests(tmp_path / "now") != module_digests(tmp_path / "paper")


def test_what_is_tuned_keeps_the_digests_of_modules_that_stay(tmp_path: Path) -> None:
    """The shipped file's header does not name later fields, nor does that of its successor."""
    path = Path(models.__file__).parent / "pretrained" / "compact.safetensors"
    a = read_architecture(path)
    assert a == Architecture.compact() and a.to_dict() == read_header(path)["architecture"]
    save(tmp_path / "tuned", a, load_modules(path, ["reid"]), {}, torch.float16)
    assert module_digests(tmp_path / "tuned")["reid"] == module_digests(path)["reid"]


def test_bad_weights_are_named(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save(good, TINY, {"mask": build("mask", TINY)}, {})
    truncated = tmp_path / "cut.safetensors"
    truncated.write_bytes(good.read_bytes()[:-100])
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    for path, reason in (
        (tmp_path / "none", "no such file"),
        (truncated, "truncated"),
        (text, "not a safetensors"),
    ):
        with pytest.raises(BadWeights, match=reason) as error:
            load(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(BadWeights, match="holds no remp"):
        load(good, modules=["remp"])


def test_weights_of_another_architecture_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w"
    save(path, TINY, {"mask": build("mask", Architecture(backbone="resnet18", planes=16))}, {})
    with pytest.raises(BadWeights, match="does not fit its architecture"):
        load(path)
    assert json.dumps(read_header(path))


def test_oim_follows_the_published_rules() -> None:
    oim = OIM(identities=3, length=4, queue=2)
    vectors = F.normalize(torch.eye(4), dim=1)
    oim.update(vectors[:1], torch.tensor([1]))
    torch.testing.assert_close(oim.table[1], vectors[0])
    mixed = F.normalize(vectors[0] + vectors[1], dim=0)
    oim.update(vectors[1:2], torch.tensor([1]))
    torch.testing.assert_close(oim.table[1], mixed)
    labels = torch.tensor([UNLABELLED, IGNORED, UNLABELLED, UNLABELLED])
    oim.update(vectors, labels)
    # a queue of two holds the last two of the three unlabelled, the oldest overwritten
    torch.testing.assert_close(oim.queue, vectors[[3, 2]])


def test_oim_loss_is_the_scaled_cross_entropy() -> None:
    oim = OIM(identities=2, length=3, queue=1)
    oim.table.copy_(torch.eye(3)[:2])
    oim.queue.copy_(torch.eye(3)[2:])
    x = F.normalize(torch.tensor([[3.0, 1.0, 2.0]]), dim=1)
    logits = 10 * x[0]
    want = torch.logsumexp(logits, 0) - logits[0]
    found = oim(x.expand(3, 3), torch.tensor([UNLABELLED, 0, IGNORED]))
    torch.testing.assert_close(found, torch.stack((want * 0, want, want * 0)))


def test_refinement_needs_the_fine_features() -> None:
    nets = random_networks(TINY)
    with pytest.raises(ValueError, match="stride-4"):
        nets.start(
            frame(0)[0],
            None,
            np.array([[0, 0, 40, 40]], np.float32),
            np.full((1, 4, 4), 255, np.uint8),
        )


def test_trunk_makes_fine_features_only_for_refinement() -> None:
    assert Trunk(TINY).f4 is not None
    assert Trunk(Architecture(backbone="resnet18")).f4 is None


def test_memory_keeps_the_object_its_surroundings_and_the_frame() -> None:
    remp = build("remp", TINY)
    assert isinstance(remp, ReMP)
    f = torch.rand(1, 256, 15, 11)
    boxes, index = torch.tensor([[16.0, 24, 56, 88]]), torch.zeros(1, dtype=torch.long)
    mask = torch.ones(1, 1, TINY.mask_size, TINY.mask_size)
    memory = memorise(remp, TINY, f, boxes, mask, index)
    assert memory is not None
    m = TINY.roi_size
    near, far = m * m, (m // 2) ** 2
    inside, outside = memory.sides[0].unbind(1)
    assert inside.shape == (near + far + 8 * 6,)
    assert torch.equal(inside + outside, torch.ones_like(inside))
    assert inside[:near].all()
    # cells of 16 px whose centre lies in the box
    want = torch.tensor(
        [[24 < 16 * r + 8 < 88 and 16 < 16 * c + 8 < 56 for c in range(6)] for r in range(8)]
    )
    assert torch.equal(inside[near + far :].reshape(8, 6).bool(), want)


def test_another_object_of_the_frame_counts_as_rest() -> None:
    remp = build("remp", TINY)
    assert isinstance(remp, ReMP)
    assert remp.memory is not None
    f = torch.full((1, 256, 40, 40), 0.0)
    f[:, 0], f[:, 1, :10, :10], f[:, 2, 30:, 30:] = 1.0, 5.0, 5.0
    boxes, index = torch.tensor([[0.0, 0, 80, 80]]), torch.zeros(1, dtype=torch.long)
    size = (1, 1, TINY.mask_size, TINY.mask_size)
    memory = memorise(remp, TINY, f, boxes, torch.ones(size), index)
    assert memory is not None
    other = geometry.roi_align(f, torch.tensor([[250.0, 250, 310, 310]]), TINY.roi_size, 8, index)
    own = geometry.roi_align(f, torch.tensor([[10.0, 10, 70, 70]]), TINY.roi_size, 8, index)
    assert remp.memory(own, memory)[:, 2].min() > 0.5 > remp.memory(other, memory)[:, 2].max()


def test_what_given_masks_show_counts_for_the_object_or_for_the_rest() -> None:
    network = AppearanceMemory(8, 4)
    xs = [torch.randn(1, 8, 4, 4) for _ in range(3)]
    masks = [(torch.rand(1, 1, 4, 4) > 0.5).float() for _ in range(3)]
    mine, same, other = (network.write((x,), (m,)) for x, m in zip(xs, masks, strict=True))
    joined = mine.with_given([(same, True), (other, False)])
    assert torch.equal(joined.keys, torch.cat([mine.keys, same.keys, other.keys], 2))
    flat = [m.flatten() for m in masks]
    own = torch.cat([flat[0], flat[1], torch.zeros(16)])
    rest = torch.cat([1 - flat[0], 1 - flat[1], flat[2]])
    assert torch.equal(joined.sides[0], torch.stack((own, rest), 1))
    assert torch.equal(mine.with_given([]).keys, mine.keys)
    rows = Memory(*map(torch.cat, zip(mine, other, same, strict=True)))
    both = rows.with_others(16, [0, 0, 1])
    assert torch.equal(both.sides[:1], mine.with_given([(other, False)]).sides)
    assert torch.equal(both.keys[1:2], other.with_given([(mine, False)]).keys)
    # the third is alone in its frame: what is added has no side
    assert torch.equal(both.keys[2, :, :16], same.keys[0]) and not both.sides[2, 16:].any()
    # of another object's memory only its RoI joins
    assert torch.equal(rows.with_others(9, [0, 0, 1]).keys[0, :, 16:], other.keys[0, :, :9])


def test_memory_follows_the_last_frame_and_one_in_some() -> None:
    """Against a list of frames, kept as the text says; two objects of different age."""
    remp = build("remp", TINY)
    assert isinstance(remp, ReMP)
    network = remp.memory
    assert network is not None
    m, s = TINY.roi_size, TINY.mask_size
    cells = (m // 2) ** 2
    generator = torch.Generator().manual_seed(0)
    start = network.write(
        (torch.rand(2, 256, m, m, generator=generator),), (torch.ones(2, 1, m, m),)
    )
    memory = start._replace(age=torch.tensor([0, KEPT_EVERY - 1]))
    lists: list[list[tuple[Tensor, Tensor]]] = [[], []]
    last: list[tuple[Tensor, Tensor]] = []
    for t in range(1, KEPT_EVERY * (KEPT_FRAMES + 2)):
        x = torch.rand(2, 256, m, m, generator=generator)
        p = torch.rand(2, 1, m // 2, m // 2, generator=generator)
        memory = network.follow(memory, x, F.interpolate(p, s, mode="nearest"))
        keys = network.keys(F.avg_pool2d(x, 2))
        last = [(keys[n], p[n].flatten()) for n in range(2)]
        for n, age in enumerate((t, t + KEPT_EVERY - 1)):
            if age % KEPT_EVERY == 0:
                lists[n] = [last[n], *lists[n]][:KEPT_FRAMES]
    assert torch.equal(memory.keys, start.keys) and torch.equal(memory.sides, start.sides)
    for n in range(2):
        for slot, (keys, p) in enumerate([last[n], *lists[n]]):
            at = slice(slot * cells, (slot + 1) * cells)
            assert torch.allclose(memory.later_keys[n, :, at], keys, atol=1e-6)
            assert torch.equal(memory.later_sides[n, at, 0] > 0, p > SURE_PROBABILITY)
            assert torch.equal(memory.later_sides[n, at, 1] > 0, p < 1 - SURE_PROBABILITY)


def test_frames_that_are_not_there_yet_have_no_say() -> None:
    network = AppearanceMemory(8, 4)
    x = torch.rand(1, 8, 6, 6)
    memory = network.write((x,), (torch.ones(1, 1, 6, 6),))
    bare = memory._replace(
        later_keys=memory.later_keys[..., :0], later_sides=memory.later_sides[:, :0]
    )
    other = torch.rand(1, 8, 6, 6)
    assert torch.allclose(network(other, memory), network(other, bare), atol=1e-6)


def test_an_untrained_shortcut_compares_the_pooled_features() -> None:
    """Up to what a random projection to 256 dimensions adds; conv5_x has no part in it."""
    network = build("reid", replace(TINY, backbone="mobilenet_v2"))
    assert isinstance(network, ReIDNetwork)
    x = torch.randn(40, 448, 8, 8)
    x[20:] = x[:20] + 0.5 * torch.randn(20, 448, 8, 8)
    assert network.window is not None
    weights = torch.softmax(network.window.score.flatten(), 0)
    pooled = F.normalize((x.flatten(2) * weights).sum(2), dim=1)
    with torch.no_grad():
        embedded = network(x)
    assert (embedded @ embedded.T - pooled @ pooled.T).abs().max() < 0.3
    twins = (embedded[:20] @ embedded[20:].T).argmax(1)
    assert torch.equal(twins, torch.arange(20))


def test_reid_reads_the_scene_less_its_mean_only_with_the_shortcut() -> None:
    f = torch.rand(2, 256, 6, 7) + torch.arange(2).view(2, 1, 1, 1)
    network, plain = build("reid", TINY), build("reid", replace(TINY, reid_shortcut=False))
    assert isinstance(network, ReIDNetwork)
    assert isinstance(plain, ReIDNetwork)
    assert network.scene(f).mean((2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(network.scene(f)[0, 0, 1, 2], f[0, 0, 1, 2] - f[0, 0].mean())
    assert torch.equal(plain.scene(f), f)


def test_the_shortcut_is_the_network_whose_conv5_adds_nothing() -> None:
    nets = random_networks(TINY, 3)
    f = np.random.default_rng(0).normal(size=(512, 9, 14)).astype(np.float16)
    reid = nets.need("reid", ReIDNetwork)
    channels = reid.window is not None and reid.project.in_features - 32
    f = f[:channels]
    boxes = np.array(
        [[0, 0, 112, 72], [3.3, 5.1, 40.7, 66.2], [90, 50, 112, 72], [20, 20, 21, 22]], np.float32
    )
    assert not reid.learnt
    quick = nets.embed(f, boxes)
    scene = reid.scene(nets.tensor(f)[None])
    rois = geometry.roi_align(scene, nets.tensor(boxes), TINY.reid_size, 8, torch.zeros(4).long())
    with nets.inference():
        whole = reid(rois).numpy()
    np.testing.assert_allclose(quick, whole, atol=1e-5)
    # each box alike among others
    np.testing.assert_array_equal(quick[1:2], nets.embed(f, boxes[1:2]))
    reid.project.weight[:, :32] = 0.1
    assert reid.learnt
    assert np.abs(nets.embed(f, boxes) - whole).max() > 1e-3
