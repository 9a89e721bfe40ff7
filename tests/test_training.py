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
from models.weights import build, read_header
from pipeline.errors import UserError
from pipeline.sources import open_sources
from stages.boxmask import VOID
from tests.clip import draw
from tests.tiny_run import ROOT, command, environment, write_dataset, write_weights
from tests.training_clips import SETTINGS, make_clips
from training.clips import Clip
from training.loop import Place, Training, rate, train
from training.objectives import (
    DyeNetObjective,
    MSKObjective,
    Objective,
    RPNObjective,
    degrade,
    jittered_boxes,
    pixel_loss,
    raggedness,
    targets,
    unknown,
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


def test_the_paper_drops_its_rate_every_8k() -> None:
    paper = TrainSettings()
    assert (paper.iterations, paper.clips, paper.frames) == (24_000, 8, 4)
    assert [rate(paper, n) for n in (0, 7999)] == [1e-3, 1e-3]
    assert rate(paper, 8000) == pytest.approx(1e-4)
    assert rate(paper, 23_999) == pytest.approx(1e-5)
    assert rate(replace(paper, warmup=10), 0) == pytest.approx(1e-4)


def test_every_trained_weight_has_a_gradient() -> None:
    clip = make_clips()[0]
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
    torch.stack(list(objective(make_clips()[0]).values())).sum().backward()
    assert all(p.grad is None for p in objective.trunk.parameters())
    assert set(objective.trained()) == set(JOINT) - {"trunk"}


def test_lambda_scales_the_mask_losses_alone() -> None:
    clip = make_clips()[0]
    one, three = joint()(clip), joint(replace(SETTINGS, mask_weight=3.0))(clip)
    for name in ("mask", "remp", "remp_plain"):
        torch.testing.assert_close(three[name], 3 * one[name])
    torch.testing.assert_close(three["reid"], one["reid"])


@pytest.mark.parametrize("name", ["reid", "remp"])
def test_a_network_alone_learns_as_beside_the_others(name: str) -> None:
    clip = make_clips()[0]
    together = joint()(clip)
    alone = DyeNetObjective(TINY, modules("trunk", name), 4, SETTINGS)
    alone.networks.load_state_dict(joint().networks.state_dict(), strict=False)
    losses = alone(clip)
    assert set(losses) == {name}
    torch.testing.assert_close(losses[name], together[name])


def test_a_frozen_trunk_reads_as_in_inference() -> None:
    clip = make_clips()[0]
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
    clip = make_clips()[0]
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
    losses = [training.step(lambda n: clips[n % 3])[name] for _ in range(60)]
    assert np.mean(losses[-6:]) < 0.7 * np.mean(losses[:6])


# --- pieces ------------------------------------------------------------------------


def test_targets_are_the_covered_shares() -> None:
    masks = np.zeros((2, 40, 40), np.uint8)
    masks[1, 10:20, 8:28] = 5
    masks[1, 30:, :] = VOID
    box = torch.tensor([[4.0, 6.0, 36.0, 38.0]])
    found, weight = targets(torch.from_numpy(masks), torch.tensor([5]), box, torch.tensor([1]), 8)
    for row in range(8):
        for column in range(8):
            y, x = 6 + 4 * row, 4 + 4 * column
            window = masks[1, y : y + 4, x : x + 4]
            # RoIAlign samples each cell at four points, so it is exact to a quarter
            assert abs(float(found[0, 0, row, column]) - (window == 5).mean()) <= 0.26
            assert abs(float(weight[0, 0, row, column]) - (window != VOID).mean()) <= 0.26


def test_pixel_loss_leaves_out_what_does_not_count() -> None:
    logits, target = torch.randn(2, 1, 3, 3), torch.rand(2, 1, 3, 3)
    weight = torch.zeros(2, 1, 3, 3)
    assert pixel_loss(logits, target, weight) == 0
    weight[0, 0, 1, 2] = 1
    weight[1, 0, 0, 0] = 1
    want = [
        F.binary_cross_entropy_with_logits(logits[place], target[place])
        for place in ((0, 0, 1, 2), (1, 0, 0, 0))
    ]
    torch.testing.assert_close(pixel_loss(logits, target, weight), torch.stack(want).mean())


def test_jittered_boxes_belong_to_their_object() -> None:
    masks = torch.from_numpy(np.stack([draw(j)[1] for j in range(2)]))
    chosen = replace(SETTINGS, boxes=6, negatives=10)
    random = torch.Generator().manual_seed(0)
    boxes, index, numbers = jittered_boxes(masks, {1: 0, 3: 1}, chosen, random)
    assert len(boxes) == len(index) == len(numbers)
    assert {1, 3, -1} == set(numbers)
    for box, t, n in zip(boxes.tolist(), index.tolist(), numbers, strict=True):
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
    random = torch.Generator().manual_seed(1)
    assert raggedness(0.0, random) is None
    assert torch.equal(degrade(mask, [None]), mask)
    worse = degrade(mask, [raggedness(1.0, random)])
    assert worse.min() >= 0 and worse.max() <= 1 and not torch.equal(worse, mask)
    both = ((worse > 0.5) & (mask > 0.5)).sum() / ((worse > 0.5) | (mask > 0.5)).sum()
    assert both > 0.5


def test_remp_loss_is_that_of_the_unrolled_recurrence() -> None:
    """The loss against a loop over single steps of inference's own functions."""
    from models import propagation

    clips = make_clips()
    clip = next(c for c in map(clips.__getitem__, range(20)) if (c.masks[0] == 1).sum() > 200)
    clip = replace(clip, labels={1: 0})
    chosen = replace(SETTINGS, degrade=0.0)
    objective = joint(chosen)
    remp = objective.modules_by_name["remp"]
    with torch.no_grad():
        got = objective(clip)["remp"]
        coarse, fine = objective.trunk(torch.from_numpy(clip.frames).permute(0, 3, 1, 2))
        inside = torch.from_numpy(clip.masks == 1).float()[:, None]
        zero = torch.zeros(1, dtype=torch.long)
        box = torch.tensor([tight(clip.masks[0] == 1)]).float()
        roi = geometry.roi_box(box, TINY.margin)
        mask = geometry.roi_align(inside[:1], roi, TINY.mask_size, 1, zero)
        state = propagation.start(remp, TINY, coarse[:1], fine[:1], roi, mask, zero)
        losses = []
        for t in (1, 2):
            flow = torch.from_numpy(clip.to_previous[t - 1 : t])
            state = propagation.step(
                remp, TINY, state, coarse[t : t + 1], fine[t : t + 1], flow, zero
            )
            want = geometry.roi_align(inside[t : t + 1], state.boxes, TINY.mask_size, 1, zero)
            losses.append(F.binary_cross_entropy_with_logits(state.logits, want))
    torch.testing.assert_close(got, torch.stack(losses).mean())


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


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_stopped_run_goes_on_exactly(tmp_path: Path, optimiser: str) -> None:
    chosen = replace(SETTINGS, optimiser=optimiser, average=0.9)
    clips = make_clips(chosen)

    class Stopped(Exception):
        pass

    def stop(done: int, losses: object) -> None:
        if done == 3:
            raise Stopped

    whole = start(chosen)
    train(whole, clips.__getitem__, tmp_path / "whole", lambda done, losses: None)
    with pytest.raises(Stopped):
        train(start(chosen), clips.__getitem__, tmp_path / "parts", stop)
    parts = start(chosen)
    train(parts, clips.__getitem__, tmp_path / "parts", lambda done, losses: None)
    assert (tmp_path / "whole/log.csv").read_bytes() == (tmp_path / "parts/log.csv").read_bytes()
    for name, value in whole.state().items():
        assert torch.equal(value, parts.state()[name]), name


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: damaged"):
        train(start(), make_clips().__getitem__, tmp_path, lambda done, losses: None)


def test_the_mean_of_the_weights_is_lent_only(tmp_path: Path) -> None:
    training = start(replace(SETTINGS, average=0.5))
    training.step(make_clips().__getitem__)
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

        def forward(self, clip: Clip) -> dict[str, torch.Tensor]:
            return {"bad": broken(self.weight)}

    training = start(objective=Broken())
    with pytest.raises(ValueError, match=message):
        training.step(make_clips().__getitem__)
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
    done = luigi(place, "RunDataset", *where, "--weights", "online", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert len(list((place / "out/masks/ant").glob("*.png"))) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("TrainRPN", "--output", "x.safetensors"), "TrainRPN needs --weights"),
        (("TrainDyeNet", "--output", "x"), "give a file that ends in .safetensors"),
        (("TrainDyeNet", "--output", "x.safetensors", "--set", "rat=1"), "did you mean rate?"),
        (("TrainDyeNet", "--output", "x.safetensors", "--set", "clips=0"), "at least 1"),
    ],
)
def test_what_a_person_can_mend(place: Path, arguments: tuple[str, ...], message: str) -> None:
    done = luigi(place, *arguments, "--data", f"davis17:{place / 'data'}:val")
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (place / "x.safetensors").exists()


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
