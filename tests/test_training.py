"""Training: losses, the loop, exact resume, several processes, the Luigi tasks."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import geometry
from models.config import Architecture
from models.weights import build, load_modules, module_digests, read_header, save
from pipeline.datasets.sources import open_sources
from pipeline.errors import UserError
from stages.boxmask import VOID
from tests.clip import draw
from tests.tiny_run import (
    ROOT,
    command,
    environment,
    write_dataset,
    write_mask,
    write_weights,
)
from tests.training_clips import SETTINGS, make_clips
from training import objectives
from training.batch import Batch, Batches, collate
from training.boxes import boxes_of, jittered_boxes, unknown
from training.checkpoint import write_state
from training.clips import Clip
from training.loop import Place, Training, rate, train
from training.objectives import (
    Beside,
    DyeNetObjective,
    MSKObjective,
    Objective,
    RPNObjective,
    degrade,
    pixel_loss,
    targets,
)
from training.settings import TrainSettings

TINY = Architecture.tiny()
JOINT = ("trunk", "mask", "reid", "remp", "remp_plain")


def modules(*names: str) -> dict[str, torch.nn.Module]:
    torch.manual_seed(3)
    return {name: build(name, TINY) for name in names}


def joint(settings: TrainSettings = SETTINGS) -> DyeNetObjective:
    return DyeNetObjective(TINY, modules(*JOINT), 4, settings)


def start(settings: TrainSettings = SETTINGS, objective: Objective | None = None) -> Training:
    torch.manual_seed(0)
    return Training(objective or joint(settings), settings, "cpu", Place())


def batch(*clips: Clip, settings: TrainSettings = SETTINGS) -> Batch:
    return collate(clips, settings)


def test_the_paper_drops_its_rate_every_8k() -> None:
    paper = TrainSettings()
    assert (paper.iterations, paper.clips, paper.frames) == (24_000, 8, 4)
    assert [rate(paper, n) for n in (0, 7999)] == [1e-3, 1e-3]
    assert rate(paper, 8000) == pytest.approx(1e-4)
    assert rate(paper, 23_999) == pytest.approx(1e-5)
    assert rate(replace(paper, warmup=10), 0) == pytest.approx(1e-4)


def test_every_trained_weight_has_a_gradient() -> None:
    clip = batch(make_clips()[0])
    objective = joint()
    losses = objective(clip)
    assert set(losses) == {"reid", "mask", "remp", "remp_plain"}
    objective.oim.update(*objective.seen()[0])
    torch.stack(list(objective(clip).values())).sum().backward()
    for name, p in objective.named_parameters():
        assert p.grad is not None, name
    moved = {name.split(".")[1] for name, p in objective.named_parameters() if p.grad.any()}
    assert moved == set(JOINT)


def test_a_frozen_trunk_has_none() -> None:
    objective = joint(replace(SETTINGS, trunk="frozen"))
    torch.stack(list(objective(batch(make_clips()[0])).values())).sum().backward()
    assert all(p.grad is None for p in objective.trunk.parameters())
    assert set(objective.trained()) == set(JOINT) - {"trunk"}


def test_lambda_scales_the_mask_losses_alone() -> None:
    clip = batch(make_clips()[0])
    one, three = joint()(clip), joint(replace(SETTINGS, mask_weight=3.0))(clip)
    for name in ("mask", "remp", "remp_plain"):
        torch.testing.assert_close(three[name], 3 * one[name])
    torch.testing.assert_close(three["reid"], one["reid"])


@pytest.mark.parametrize("name", ["reid", "remp"])
def test_a_network_alone_learns_as_beside_the_others(name: str) -> None:
    clip = batch(make_clips()[0])
    together = joint()(clip)
    alone = DyeNetObjective(TINY, modules("trunk", name), 4, SETTINGS)
    alone.networks.load_state_dict(joint().networks.state_dict(), strict=False)
    losses = alone(clip)
    assert set(losses) == {name}
    torch.testing.assert_close(losses[name], together[name])


def test_a_frozen_trunk_reads_as_in_inference() -> None:
    clip = batch(make_clips()[0])
    for name, loss in joint(replace(SETTINGS, trunk="frozen"))(clip).items():
        torch.testing.assert_close(loss, joint()(clip)[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("objective", "names"),
    [
        (lambda: RPNObjective(TINY, modules("trunk", "rpn"), SETTINGS), {"objectness", "boxes"}),
        (lambda: MSKObjective(modules("msk"), SETTINGS), {"msk"}),
    ],
)
def test_the_networks_trained_apart(objective: Callable[[], Objective], names: set[str]) -> None:
    made = objective()
    clip = batch(make_clips()[0])
    first, again = made(clip), made(clip)
    assert set(first) == names
    # all that is random follows from the clip
    assert all(torch.equal(first[name], again[name]) for name in names)
    torch.stack(list(first.values())).sum().backward()
    assert all(p.grad is not None for p in made.parameters() if p.requires_grad)


@pytest.mark.training
@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (lambda: joint(replace(SETTINGS, trunk="frozen")), "remp"),
        (lambda: joint(replace(SETTINGS, trunk="frozen")), "reid"),
        (lambda: RPNObjective(TINY, modules("trunk", "rpn"), SETTINGS), "objectness"),
        (lambda: MSKObjective(modules("msk"), SETTINGS), "msk"),
    ],
)
def test_losses_fall(objective: Callable[[], Objective], name: str) -> None:
    chosen = replace(SETTINGS, optimiser="adamw", rate=3e-3, clips=1)
    clips = make_clips(chosen)
    training = start(chosen, objective())
    batches = [batch(clips[n], settings=chosen) for n in range(3)]
    losses = [training.step([batches[n % 3]])[name] for n in range(60)]
    assert np.mean(losses[-6:]) < 0.7 * np.mean(losses[:6])


# --- pieces ------------------------------------------------------------------------


def test_targets_are_the_covered_shares() -> None:
    masks = np.zeros((2, 40, 40), np.uint8)
    masks[1, 10:20, 8:28] = 5
    masks[1, 30:, :] = VOID
    box = torch.tensor([[4.0, 6.0, 36.0, 38.0]])
    frames, sizes = torch.from_numpy(masks[1:]), torch.tensor([[40, 40]])
    found, weight = targets(frames, sizes, torch.tensor([5]), box, 8)
    for row in range(8):
        for column in range(8):
            y, x = 6 + 4 * row, 4 + 4 * column
            window = masks[1, y : y + 4, x : x + 4]
            assert float(found[0, 0, row, column]) == (window == 5).mean()
            assert float(weight[0, 0, row, column]) == (window != VOID).mean()


def shares(inside: np.ndarray, box: list[float], size: int) -> torch.Tensor:
    """Share of each cell of a box that a mask covers, at 4 x 4 points; mirrored outside."""
    x0, y0, x1, y1 = box
    found = torch.zeros(1, 1, size, size)
    beyond = 20
    wide = np.pad(inside, beyond, mode="symmetric")
    for row, column in np.ndindex(size, size):
        for a, b in np.ndindex(4, 4):
            y = y0 + (row + (a + 0.5) / 4) * (y1 - y0) / size
            x = x0 + (column + (b + 0.5) / 4) * (x1 - x0) / size
            place = int(np.floor(y)) + beyond, int(np.floor(x)) + beyond
            found[0, 0, row, column] += bool(wide[place]) / 16
    return found


def test_targets_are_mirrored_beyond_the_frame_that_a_clip_fills() -> None:
    """The frame ends where its clip does, not where the batch does."""
    mask = np.full((50, 60), VOID, np.uint8)
    mask[:40, :30] = 0
    mask[25:40, 12:30] = 2
    box = [8.3, 20.1, 37.9, 47.7]
    frames, sizes = torch.from_numpy(mask)[None], torch.tensor([[40, 30]])
    found, weight = targets(frames, sizes, torch.tensor([2]), torch.tensor([box]), 8)
    torch.testing.assert_close(found, shares(mask[:40, :30] == 2, box, 8))
    assert found[0, 0, -1, -1] == 1 and weight.min() == 1


def test_pixel_loss_leaves_out_what_does_not_count() -> None:
    logits, target = torch.randn(2, 1, 3, 3), torch.rand(2, 1, 3, 3)
    weight = torch.zeros(2, 1, 3, 3)
    clips = torch.tensor([0, 0])
    assert pixel_loss(logits, target, weight, clips, 1) == 0
    weight[0, 0, 1, 2] = 1
    weight[1, 0, 0, 0] = 1
    want = [
        F.binary_cross_entropy_with_logits(logits[place], target[place])
        for place in ((0, 0, 1, 2), (1, 0, 0, 0))
    ]
    found = pixel_loss(logits, target, weight, clips, 1)
    torch.testing.assert_close(found, torch.stack(want).mean())
    apart = pixel_loss(logits, target, torch.ones_like(weight), torch.tensor([2, 0]), 3)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2, 3))
    torch.testing.assert_close(apart, each.sum() / 3)


def test_jittered_boxes_belong_to_their_object() -> None:
    masks = torch.from_numpy(np.stack([draw(j)[1] for j in range(2)]))
    chosen = replace(SETTINGS, boxes=6, negatives=10)
    random = torch.Generator().manual_seed(0)
    known = [boxes_of(mask, {1: 0, 3: 1}) for mask in masks]
    boxes, index, numbers = jittered_boxes(masks, known, chosen, random)
    assert len(boxes) == len(index) == len(numbers)
    assert {1, 3, -1} == set(numbers.tolist())
    for box, t, n in zip(boxes.tolist(), index.tolist(), numbers.tolist(), strict=True):
        overlaps = [iou(box, tight(masks[t].numpy() == i)) for i in (1, 3)]
        assert max(overlaps) < 0.3 if n < 0 else overlaps[(1, 3).index(n)] >= 0.5


def tight(inside: np.ndarray) -> list[float]:
    ys, xs = np.nonzero(inside)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def iou(a: list[float], b: list[float]) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, w) * max(0.0, h)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return shared / (sum(areas) - shared)


def test_void_counts_neither_as_object_nor_as_background() -> None:
    mask = torch.zeros(40, 60, dtype=torch.uint8)
    mask[:, 30:] = VOID
    boxes = torch.tensor([[0.0, 0, 20, 20], [35, 5, 55, 35], [26, 0, 56, 40]])
    assert unknown(mask, boxes).tolist() == [False, True, True]


def test_degraded_masks_stay_masks_of_the_object() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 3:13] = 1
    assert torch.equal(degrade(mask, 0.0, [1]), mask)
    worse = degrade(mask, 1.0, [1])
    assert torch.equal(degrade(torch.cat((mask, mask)), 1.0, [7, 1])[1:], worse)
    assert worse.min() >= 0 and worse.max() <= 1 and not torch.equal(worse, mask)
    both = ((worse > 0.5) & (mask > 0.5)).sum() / ((worse > 0.5) | (mask > 0.5)).sum()
    assert both > 0.5


def test_remp_loss_is_that_of_the_unrolled_recurrence() -> None:
    """The loss against a loop over single steps of inference's own functions."""
    from models import propagation

    clips = make_clips()
    clip = next(c for c in map(clips.__getitem__, range(20)) if (c.masks[0] == 1).sum() > 200)
    clip = replace(clip, labels={1: 0})
    objective = joint(replace(SETTINGS, degrade=0.0))
    remp = objective.modules_by_name["remp"]
    with torch.no_grad():
        got = objective(batch(clip))["remp"]
        coarse, fine = objective.trunk(torch.from_numpy(clip.frames).permute(0, 3, 1, 2))
        inside = clip.masks == 1
        zero = torch.zeros(1, dtype=torch.long)
        box = torch.tensor([tight(clip.masks[0] == 1)]).float()
        roi = geometry.roi_box(box, TINY.margin)
        mask = shares(inside[0], roi[0].tolist(), TINY.mask_size)
        state = propagation.start(remp, TINY, coarse[:1], fine[:1], roi, mask, zero)
        losses = []
        for t in (1, 2):
            flow = torch.from_numpy(clip.to_previous[t - 1 : t])
            state = propagation.step(
                remp, TINY, state, coarse[t : t + 1], fine[t : t + 1], flow, zero
            )
            want = shares(inside[t], state.boxes[0].tolist(), TINY.mask_size)
            losses.append(F.binary_cross_entropy_with_logits(state.logits, want))
    torch.testing.assert_close(got, torch.stack(losses).mean())


@pytest.mark.parametrize("name", ["joint", "msk"])
def test_clips_learn_together_as_they_do_alone(name: str) -> None:
    """Clips of several sizes and numbers of objects in one batch; the mean of each one's loss."""
    objective = joint() if name == "joint" else MSKObjective(modules("msk"), SETTINGS)
    clips = [make_clips(replace(SETTINGS, composites=1.0))[n] for n in range(5)]
    assert len({clip.masks.shape for clip in clips}) > 1
    assert len({len(clip.labels) for clip in clips}) > 1
    with torch.no_grad():
        found = objective(batch(*clips))
        alone = [objective(batch(clip)) for clip in clips]
    for loss, value in found.items():
        want = torch.stack([row[loss] for row in alone]).mean()
        # convolutions see the padding beyond a smaller clip, and the loss of its border cells
        torch.testing.assert_close(value, want, rtol=0.03, atol=0.01)


def test_rows_and_px_that_are_added_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a few fixed shapes run; the loss is that of the clips alone."""
    clips = [make_clips(replace(SETTINGS, composites=1.0, scale=1.0))[n] for n in range(3)]
    objective = joint()
    with torch.no_grad():
        want = objective(batch(*clips))
        monkeypatch.setitem(objectives.ROWS, "cpu", 4)
        rows = objective(batch(*clips))
        larger = objective(collate(clips, SETTINGS, canvas=32))
    for name, value in want.items():
        torch.testing.assert_close(rows[name], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(larger[name], value, rtol=0.03, atol=0.01)


def test_loading_processes_hand_over_the_same_batches() -> None:
    chosen = replace(SETTINGS, clips=3, batch=2)
    clips = make_clips(chosen)

    def loaded(workers: int) -> list[Batch]:
        return list(Batches(clips.__getitem__, chosen).load(2, workers))

    here, elsewhere = loaded(0), loaded(2)
    assert [b.numbers for b in here] == [[6, 7], [8], [9, 10], [11]]
    for one, other in zip(here, elsewhere, strict=True):
        assert one.numbers == other.numbers and one.followed == other.followed
        assert torch.equal(one.frames, other.frames) and torch.equal(one.boxes, other.boxes)


def test_held_out_videos_are_left_out(tmp_path: Path) -> None:
    """However the names come: a command hands over an iterator, which is read once."""
    for folder in ("images", "masks"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
    for name in ("a", "b", "c"):
        image, mask = draw(0)
        cv2.imwrite(str(tmp_path / "photos/images" / f"{name}.jpg"), image)
        cv2.imwrite(str(tmp_path / "photos/masks" / f"{name}.png"), mask)
    data = f"stills:{tmp_path / 'photos'}"
    kept = open_sources(data, filter(None, ["photos-a", "", "photos-c"]), tmp_path)
    assert [source.name for source in kept] == ["photos-b"]
    with pytest.raises(UserError, match="photos-d"):
        open_sources(data, iter(["photos-d"]), tmp_path)


# --- the loop ----------------------------------------------------------------------


def online(settings: TrainSettings) -> Beside:
    """What online training minimises."""
    return Beside(joint(settings), MSKObjective(modules("msk"), settings))


@pytest.mark.parametrize(
    ("optimiser", "objective"), [("sgd", joint), ("adamw", joint), ("sgd", online)]
)
def test_a_stopped_run_goes_on_exactly(
    tmp_path: Path, optimiser: str, objective: Callable[[TrainSettings], Objective]
) -> None:
    chosen = replace(SETTINGS, optimiser=optimiser, average=0.9)
    clips = make_clips(chosen)

    class Stopped(Exception):
        pass

    def stop(done: int, losses: object) -> None:
        if done == 3:
            raise Stopped

    whole = start(chosen, objective(chosen))
    train(whole, clips.__getitem__, tmp_path / "whole", lambda done, losses: None)
    with pytest.raises(Stopped):
        train(start(chosen, objective(chosen)), clips.__getitem__, tmp_path / "parts", stop)
    parts = start(chosen, objective(chosen))
    train(parts, clips.__getitem__, tmp_path / "parts", lambda done, losses: None)
    assert (tmp_path / "whole/log.csv").read_bytes() == (tmp_path / "parts/log.csv").read_bytes()
    for name, value in whole.state().items():
        assert torch.equal(value, parts.state()[name]), name


def test_networks_beside_each_other_learn_as_in_runs_of_their_own() -> None:
    """Also where gradients are cut: the length of one is not added to the other's."""
    chosen = replace(SETTINGS, trunk="frozen", clip_norm=0.01)
    alone = joint(chosen), MSKObjective(modules("msk"), chosen)
    both = online(chosen)
    clips = make_clips(chosen)
    for objective in (*alone, both):
        training = start(chosen, objective)
        for n in range(3):
            training.step([batch(clips[n], settings=chosen)])
    assert set(both.trained()) == {"mask", "reid", "remp", "remp_plain", "msk"}
    for objective, found in zip(alone, both.parts(), strict=True):
        for name, value in objective.state_dict().items():
            assert torch.equal(found.state_dict()[name], value), name


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: damaged"):
        train(start(), make_clips().__getitem__, tmp_path, lambda done, losses: None)


def test_the_mean_of_the_weights_is_lent_only(tmp_path: Path) -> None:
    training = start(replace(SETTINGS, average=0.5))
    training.step([batch(make_clips()[0])])
    now = {n: p.clone() for n, p in training.objective.named_parameters()}
    with training.averaged():
        for name, p in training.objective.named_parameters():
            assert torch.equal(p, training.mean[name])
    assert all(torch.equal(p, now[n]) for n, p in training.objective.named_parameters())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda weight: weight / 0, "iteration 0: the loss is not finite"),
        (torch.sqrt, "iteration 0: the gradient of weight is not finite"),
    ],
)
def test_what_is_not_finite_ends_the_run(
    broken: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    class Broken(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.modules_by_name = {}

        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            return {"bad": broken(self.weight)}

    training = start(objective=Broken())
    with pytest.raises(ValueError, match=message):
        training.step([batch(make_clips()[0])])
    assert all(p.isfinite().all() for p in training.objective.parameters())


WORKER = """
import sys
from pathlib import Path
import torch
from tests.test_training import joint
from tests.training_clips import SETTINGS, make_clips
from training.loop import Training, together, train
with together("cpu") as place:
    torch.manual_seed(0)
    training = Training(joint(), SETTINGS, "cpu", place)
    train(training, make_clips().__getitem__, Path(sys.argv[1]), lambda done, losses: None)
"""


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "two")],
            cwd=ROOT,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
            },
        )
        for rank in range(2)
    ]
    # sums of more threads round otherwise, and the steps that follow amplify it
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = start()
    train(one, make_clips().__getitem__, tmp_path / "one", lambda done, losses: None)
    torch.set_num_threads(threads)
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    two = start()
    two.resume(tmp_path / "two/checkpoint.safetensors")
    assert two.done == one.done == SETTINGS.iterations
    for name, value in one.state().items():
        torch.testing.assert_close(two.state()[name], value, rtol=1e-4, atol=1e-5, msg=name)


# --- the Luigi tasks ---------------------------------------------------------------

SHORT = "iterations=2,clips=1,frames=2,height=56,queue=8,checkpoint=1,boxes=2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_dataset(folder / "data")
    return folder


def luigi(place: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return command("luigi", *arguments, "--local-scheduler", cache=place / "cache", cwd=place)


def test_from_nothing_to_masks(place: Path) -> None:
    data, short = f"davis17:{place / 'data'}:val", ("--set", SHORT)
    steps = [
        ("TrainDyeNet", "--architecture", "tiny", "--output", "joint.safetensors"),
        ("TrainRPN", "--weights", "joint.safetensors", "--output", "rpn.safetensors"),
        ("TrainMSK", "--weights", "rpn.safetensors", "--output", "all.safetensors"),
    ]
    for step in steps:
        done = luigi(place, *step, "--data", data, *short)
        assert done.returncode == 0, done.stderr
    assert read_header(place / "joint.safetensors")["modules"] == sorted(JOINT)
    header = read_header(place / "all.safetensors")
    assert header["modules"] == sorted([*JOINT, "rpn", "msk"])
    assert header["training"]["videos"] == 2 and header["training_seconds"] > 0
    with (place / "joint.training/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["0", "1"]
    assert {"rate", "reid", "mask", "remp", "remp_plain"} <= set(rows[0])
    assert "<svg" in (place / "joint.training/loss.svg").read_text()
    where = ("--dataset", "davis17", "--root", place / "data")
    online = ("--weights", "all.safetensors", "--scope", "video", "--output", "online")
    done = luigi(place, "FinetuneOnFirstFrames", *where, *online, *short)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (place / "online").glob("*.safetensors")) == [
        "ant.safetensors",
        "bee.safetensors",
    ]
    before = module_digests(place / "all.safetensors")
    after = module_digests(place / "online/ant.safetensors")
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"mask", "reid", "remp", "remp_plain", "msk"}
    done = luigi(place, "RunDataset", *where, "--weights", "online", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert len(list((place / "out/masks/ant").glob("*.png"))) == 4


def test_online_training_of_msk_in_a_file_of_its_own(place: Path) -> None:
    every, alone = write_weights(place / "whole.safetensors"), place / "msk.safetensors"
    save(alone, TINY, load_modules(every, ["msk"]), {})
    options = ("--dataset", "davis17", "--root", place / "data", "--weights", alone)
    options += ("--output", place / "msk-online.safetensors", "--set", SHORT)
    done = luigi(place, "FinetuneOnFirstFrames", *options, "--set", "learn=remp")
    assert done.returncode != 0
    assert "msk.safetensors: holds only msk, of which learn=remp trains nothing" in done.stderr
    done = luigi(place, "FinetuneOnFirstFrames", *options)
    assert done.returncode == 0, done.stderr
    after = module_digests(place / "msk-online.safetensors")
    assert set(after) == {"msk"} and after != module_digests(alone)


def test_each_kind_of_re_mp_may_have_a_trunk_of_its_own(place: Path) -> None:
    """Table 1: no run leaves networks that another trunk taught, or that learnt nothing."""
    weights = write_weights(place / "every.safetensors")
    data = ("--data", f"davis17:{place / 'data'}:val", "--set", SHORT)
    for learn, start, modules in (
        ("attention", ("--architecture", "tiny"), {"remp"}),
        ("no-attention", ("--weights", weights), {"remp_plain", "msk"}),
    ):
        path = place / f"{learn}.safetensors"
        done = luigi(
            place, "TrainDyeNet", *start, *data, "--set", f"learn={learn}", "--output", path
        )
        assert done.returncode == 0, done.stderr
        assert set(read_header(path)["modules"]) == {"trunk", "mask", "reid", *modules}
        with (path.with_suffix(".training") / "log.csv").open() as file:
            losses = set(next(csv.reader(file))) - {"iteration", "rate"}
        assert losses == {"reid", "mask", *modules - {"msk"}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("TrainRPN", "--output", "x.safetensors"), "TrainRPN needs --weights"),
        (("TrainDyeNet", "--output", "x"), "give a file that ends in .safetensors"),
        (("TrainDyeNet", "--output", "x.safetensors", "--set", "rat=1"), "did you mean rate?"),
        (("TrainDyeNet", "--output", "x.safetensors", "--set", "clips=0"), "at least 1"),
        (("TrainDyeNet", "--profile", "pape"), "--profile pape: must be one of extended, paper"),
        (("TrainMSK", "--loaders", "two"), "--loaders two: must be an integer"),
        (("TrainMSK",), "TrainMSK needs --output: the .safetensors file to write"),
    ],
)
def test_what_a_person_can_mend(place: Path, arguments: tuple[str, ...], message: str) -> None:
    done = luigi(place, *arguments, "--data", f"davis17:{place / 'data'}:val")
    assert done.returncode != 0
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (place / "x.safetensors").exists()


def test_an_unknown_video_is_one_line_for_each_scope(place: Path) -> None:
    data = ("--dataset", "davis17", "--root", str(place / "data"), "--videos", "cat")
    for scope, output in (("dataset", "x.safetensors"), ("video", "x")):
        done = luigi(place, "FinetuneOnFirstFrames", *data, "--scope", scope, "--output", output)
        assert done.returncode != 0
        assert "--videos cat: split val" in done.stderr and done.stderr.count("\n") == 1


def checkpoint_of_another_network(place: Path) -> None:
    folder = place / "x.training"
    folder.mkdir()
    write_state(folder / "checkpoint.safetensors", {"weights.x": torch.zeros(1)}, {"done": 1})


def masks_without_objects(place: Path) -> None:
    for path in (place / "data").rglob("*.png"):
        write_mask(path, np.zeros((56, 72), np.uint8))


def small_objects(place: Path) -> None:
    for path in (place / "data").rglob("*.png"):
        mask = np.zeros((56, 72), np.uint8)
        mask[20:24, 20:24] = 1
        write_mask(path, mask)


def weights_without_trunk(place: Path) -> None:
    tiny = Architecture.tiny()
    save(place / "msk.safetensors", tiny, {"msk": build("msk", tiny)}, {})


def weights_of_another_shape(place: Path) -> None:
    wide, tiny = replace(Architecture.tiny(), hidden=24), Architecture.tiny()
    save(place / "wide.safetensors", wide, {"remp": build("remp", tiny)}, {})


def nothing(place: Path) -> None:
    """All is well with the files."""


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (checkpoint_of_another_network, (), "of another network; delete it to start anew"),
        (masks_without_objects, (), "at least one video or image whose masks hold an object"),
        (small_objects, ("--loaders", "1"), "hold no object of 64 px"),
        (weights_without_trunk, ("--weights", "msk.safetensors"), "holds no trunk"),
        (weights_of_another_shape, ("--weights", "wide.safetensors"), "fit its architecture"),
        (nothing, ("--backbone", "resnet9"), "backbone = 'resnet9': must be one of"),
        (nothing, ("--initial", "resnet9"), "resnet9"),
        (nothing, ("--device", "tpu"), "--device tpu: must be one of auto, cpu, cuda"),
        (nothing, ("--set", "rate=1e30"), "is not finite"),
    ],
)
def test_faults_of_training_are_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], arguments: tuple[str, ...], message: str
) -> None:
    write_dataset(tmp_path / "data", ("ant",))
    spoil(tmp_path)
    task = "TrainRPN" if spoil is weights_without_trunk else "TrainDyeNet"
    usual = ("--architecture", "tiny", "--output", "x.safetensors", "--set", SHORT)
    data = ("--data", f"davis17:{tmp_path / 'data'}:val")
    done = luigi(tmp_path, task, *usual, *data, *arguments)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "x.safetensors").exists()


def test_another_run_in_the_same_place_is_refused(place: Path) -> None:
    folder = place / "taken.training"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"task": "other"}))
    data = ("--data", f"davis17:{place / 'data'}:val", "--output", "taken.safetensors")
    done = luigi(place, "TrainDyeNet", "--architecture", "tiny", *data)
    assert done.returncode != 0 and "holds a run with other options" in done.stderr


@pytest.mark.training
def test_killed_training_ends_with_the_same_losses(place: Path) -> None:
    weights = write_weights(place / "start.safetensors")
    options = (
        *("--weights", str(weights), "--data", f"davis17:{place / 'data'}:val"),
        *("--set", SHORT.replace("iterations=2", "iterations=12")),
    )
    done = luigi(place, "TrainDyeNet", *options, "--output", "whole.safetensors")
    assert done.returncode == 0, done.stderr
    flags = ["TrainDyeNet", *options, "--output", "killed.safetensors", "--local-scheduler"]
    for wanted in (2, 6):
        process = subprocess.Popen(
            [sys.executable, "-m", "luigi", "--module", "pipeline", *flags],
            env=environment(place / "cache"),
            cwd=place,
            stderr=subprocess.DEVNULL,
        )
        log = place / "killed.training/log.csv"
        while process.poll() is None and (
            not log.exists() or len(log.read_text().splitlines()) < wanted
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = luigi(place, "TrainDyeNet", *options, "--output", "killed.safetensors")
    assert done.returncode == 0, done.stderr
    assert log.read_bytes() == (place / "whole.training/log.csv").read_bytes()
