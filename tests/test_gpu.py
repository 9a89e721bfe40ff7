"""Network work on a GPU against the CPU: `make test-gpu`, under five minutes on one GPU.

Every stage reads what the CPU made in float32, so that no test hangs on another's rounding.
TF32 is off throughout: it is no float32.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.optical_flow import raft_large

from models.config import Architecture
from models.networks import Networks
from models.reid_network import ReIDNetwork
from models.weights import build, load
from pipeline.run.kept import device_has_room, on_device, to_device
from stages.boxmask import cut, iou
from stages.embeddings import embeddings
from stages.evidence import evidence
from stages.features import features
from stages.flow import flow
from stages.flow_methods import raft_estimator
from stages.msk import msk
from stages.proposals import proposals
from stages.search import search
from stages.seen import SeenBoxes
from stages.settings import FlowSettings, ProposalsSettings, SearchSettings, TrackletsSettings
from stages.tracklets import Propagated, Propagation, propagate, tracklets
from stages.types import StartingPoint, Tracklet
from tests.clip import Features, Flow, Proposals, draw, same
from tests.networks import random_networks
from tests.tiny_run import ROOT, command, environment, write_dataset, write_weights
from tests.training_clips import SETTINGS, make_clips
from training.batch import Batch, Batches
from training.loop import Place, Training
from training.objectives import DyeNetObjective, MSKObjective, Objective, RPNObjective
from training.settings import TrainSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

GPU = "cuda"
TINY = Architecture.tiny()
SIZE = 280, 360
FRAMES = 6
PRECISIONS = ["fp32", "bf16"]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Float32 as it is on the CPU, also in commands; matrix products are so by default."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@cache
def networks(device: str, precision: str = "fp32") -> Networks:
    """The shipped ones."""
    return load(ROOT / "models/pretrained/compact.safetensors", device, precision)


@dataclass(frozen=True)
class Made:
    """What the CPU makes of a clip in float32."""

    images: list[np.ndarray]
    masks: list[np.ndarray]
    features: Features
    flow: Flow
    proposals: Proposals

    def start(self, j: int, i: int, similarity: float = 1.0) -> StartingPoint:
        """An object's own mask in frame j; given where the similarity is 1."""
        a = networks("cpu").architecture
        box, mask = cut(self.masks[j], i, a.margin, a.mask_size)
        return StartingPoint(j, i, similarity, box, mask, similarity == 1)


@pytest.fixture(scope="module")
def made() -> Made:
    drawn = [draw(j) for j in range(FRAMES)]
    images = [cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for image, _ in drawn]
    masks = [cv2.resize(mask, SIZE[::-1], interpolation=cv2.INTER_NEAREST) for _, mask in drawn]
    cpu = networks("cpu")
    read = Features(list(features(images, cpu)))
    boxes = [b for b, _ in proposals(read, SIZE, cpu, ProposalsSettings(per_frame=30))]
    vectors = list(embeddings(read, lambda j: boxes[j], cpu))
    fields = Flow(list(flow(images, FlowSettings())))
    return Made(images, masks, read, fields, Proposals(boxes, vectors, []))


def error(got: Any, want: Any) -> float:
    """Norm of the difference over the norm of what was wanted."""
    one, other = (np.asarray(values, np.float64) for values in (got, want))
    assert one.shape == other.shape
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


# --- every stage against the CPU ---------------------------------------------------


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-3), ("bf16", 6e-2)])
def test_features(made: Made, precision: str, most: float) -> None:
    for j, (coarse, fine) in enumerate(features(made.images, networks(GPU, precision))):
        assert error(coarse, made.features.coarse(j)) < most
        assert error(fine, made.features.fine(j)) < most


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99), ("bf16", 0.9)])
def test_proposals(made: Made, precision: str, least: float) -> None:
    """The mean over the CPU's boxes of the largest IoU of one of the GPU's."""
    from torchvision.ops import box_iou

    found = proposals(made.features, SIZE, networks(GPU, precision), ProposalsSettings())
    best = [
        box_iou(torch.from_numpy(made.proposals.boxes(j)), torch.from_numpy(boxes)).amax(1).mean()
        for j, (boxes, _) in enumerate(found)
    ]
    assert float(torch.stack(best).mean()) > least


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("bf16", 1e-2)])
def test_embeddings(made: Made, precision: str, most: float) -> None:
    found = embeddings(made.features, made.proposals.boxes, networks(GPU, precision))
    for j, vectors in enumerate(found):
        assert error(vectors, made.proposals.embeddings(j)) < most


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_embeddings_through_rois(made: Made, precision: str, most: float) -> None:
    """As where conv5_x has learnt something, which that of the shipped weights has not."""
    f, boxes = made.features.coarse(0), made.proposals.boxes(0)[:20]
    vectors = []
    for net in (networks(GPU, precision), networks("cpu")):
        with net.inference():
            reid = net.need("reid", ReIDNetwork)
            scene = reid.scene(net.tensor(f)[None])
            vectors.append(net.embedded(reid, scene, net.tensor(boxes)).cpu())
    assert error(*vectors) < most


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-3), ("bf16", 3e-2)])
def test_masks_of_boxes(made: Made, precision: str, most: float) -> None:
    f, boxes = made.features.coarse(0), made.proposals.boxes(0)
    want = networks("cpu").masks(f, boxes)
    assert error(networks(GPU, precision).masks(f, boxes), want) < most


@pytest.mark.parametrize("precision", PRECISIONS)
def test_search(made: Made, precision: str) -> None:
    """In float64 on both, so nearly all windows are the same."""
    given, settings = {0: made.masks[0]}, SearchSettings()
    there, here = (
        [boxes for boxes, _ in search(made.features, SIZE, given, net, settings)]
        for net in (networks(GPU, precision), networks("cpu"))
    )
    pairs = list(zip(there, here, strict=True))
    equal = [a.shape == b.shape and np.allclose(a, b, atol=1e-3) for a, b in pairs]
    assert sum(equal) >= FRAMES - 1


@pytest.mark.parametrize(("precision", "most"), [("fp32", 2e-3), ("bf16", 5e-2)])
def test_evidence(made: Made, precision: str, most: float) -> None:
    """Of the boxes that both looked at: which they are hangs on a rank."""
    given = {0: made.masks[0]}
    there, here = (
        np.concatenate(list(evidence(made.features, made.proposals, given, net, SeenBoxes())))
        for net in (networks(GPU, precision), networks("cpu"))
    )
    both = (there > 0) & (here > 0)
    assert both.sum() >= 0.8 * (here > 0).sum()
    assert error(there[both], here[both]) < most


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99), ("bf16", 0.95)])
def test_tracklets(made: Made, precision: str, least: float, plain: bool) -> None:
    """Mean IoU of the masks of every frame; the same frames are covered."""
    given = [made.start(0, 1), made.start(0, 3)]
    starts = [*given, made.start(3, 1, 0.9), made.start(5, 3, 0.8)]
    there, here = (
        propagate(
            Propagation(made.features, made.flow, net, TrackletsSettings(), plain), starts, given
        )
        for net in (networks(GPU, precision), networks("cpu"))
    )
    for a, b in zip(there, here, strict=True):
        assert (a.first, len(a.masks)) == (b.first, len(b.masks))
        rows = zip(a.boxes, a.masks, b.boxes, b.masks, strict=True)
        assert np.mean([iou(*row, SIZE) for row in rows]) > least


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-3), ("bf16", 5e-2)])
def test_msk(made: Made, precision: str, most: float) -> None:
    """The confidences of untrained networks; their masks are all noise."""
    there, here = (
        [confidence for _, confidence in msk(made.images, made.flow, {0: made.masks[0]}, net)]
        for net in (
            random_networks(TINY, 0, GPU, precision, ["msk"]),
            random_networks(TINY, 0, "cpu", "fp32", ["msk"]),
        )
    )
    assert error(there, here) < most


def test_raft(made: Made) -> None:
    torch.manual_seed(0)
    network = raft_large(weights=None)
    small = [cv2.resize(image, (160, 128)) for image in made.images[:2]]
    here = raft_estimator(network, "cpu")(*small)
    assert error(raft_estimator(network, GPU)(*small), here) < 1e-2


def test_features_that_stay_on_the_device(made: Made) -> None:
    f, boxes = made.features.coarse(0), made.proposals.boxes(0)
    net, placed = networks(GPU, "bf16"), to_device(f)
    assert placed.is_cuda and on_device(placed) and device_has_room()
    np.testing.assert_array_equal(placed.cpu().numpy(), f)
    np.testing.assert_array_equal(net.embed(placed, boxes), net.embed(f, boxes))


# --- results do not depend on what ran with them -----------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_result_depends_on_its_batch(made: Made, precision: str) -> None:
    net = networks(GPU, precision)
    f, boxes = made.features.coarse(0), made.proposals.boxes(0)
    for some in (boxes[:1], boxes[3:8], boxes[::-1]):
        rows = [np.flatnonzero((boxes == box).all(1))[0] for box in some]
        assert np.array_equal(net.embed(f, some), net.embed(f, boxes)[rows])
        assert np.array_equal(net.masks(f, some), net.masks(f, boxes)[rows])
    whole = list(features(made.images, net))
    for j, (coarse, _) in enumerate(features(made.images[2:4], net)):
        assert np.array_equal(coarse, whole[2 + j][0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_tracklet_depends_on_its_wave(made: Made, precision: str) -> None:
    starts = [made.start(j, i, 0.9 - 0.1 * j) for j in range(FRAMES) for i in (1, 3)]

    def run(wave: int) -> list[Tracklet]:
        settings = TrackletsSettings(skip_iou=1.0)
        return tracklets(
            Propagation(made.features, made.flow, networks(GPU, precision), settings),
            starts,
            [],
            iteration=1,
            wave=wave,
            memo=Propagated(),
            progress=lambda done, total: None,
        )

    one = run(1)
    assert len(one) == len(starts)
    for wave in (3, 8, 12):
        assert all(map(same, run(wave), one))


# --- training ----------------------------------------------------------------------


def joint(settings: TrainSettings) -> Objective:
    modules = {n: build(n, TINY) for n in ("trunk", "mask", "reid", "remp", "remp_plain")}
    return DyeNetObjective(TINY, modules, 4, settings)


def rpn(settings: TrainSettings) -> Objective:
    return RPNObjective(TINY, {n: build(n, TINY) for n in ("trunk", "rpn")}, settings)


def baseline(settings: TrainSettings) -> Objective:
    return MSKObjective({"msk": build("msk", TINY)}, settings)


MAKE = Callable[[TrainSettings], Objective]
HALF = {"trunk": "frozen", "precision": "bf16", "optimiser": "adamw", "average": 0.9}


def begin(make: MAKE, settings: TrainSettings, device: str) -> Training:
    torch.manual_seed(0)
    return Training(make(settings), settings, device, Place())


def first_batches(settings: TrainSettings) -> list[Batch]:
    """Those of the first iteration."""
    data = Batches(make_clips(settings).__getitem__, settings)
    return [data[n] for n in range(len(data.groups))]


@pytest.mark.parametrize("make", [joint, rpn, baseline])
@pytest.mark.parametrize(("changed", "most"), [({}, 1e-3), (HALF, 3e-2)])
def test_a_step_of_training(make: MAKE, changed: Mapping[str, Any], most: float) -> None:
    settings = replace(SETTINGS, **changed)
    batches = first_batches(settings)
    there, here = (
        begin(make, s, device).step(batches)
        for s, device in ((settings, GPU), (replace(settings, precision="fp32"), "cpu"))
    )
    assert there.keys() == here.keys()
    assert error(list(there.values()), list(here.values())) < most


@pytest.mark.parametrize("make", [joint, rpn, baseline])
@pytest.mark.parametrize("changed", [{}, HALF])
def test_training_resumes(make: MAKE, changed: Mapping[str, Any], tmp_path: Path) -> None:
    """Sums of gradients differ from run to run on a GPU, so not to the last digit."""
    settings = replace(SETTINGS, **changed)
    batches, path = first_batches(settings), tmp_path / "checkpoint.safetensors"
    whole = begin(make, settings, GPU)
    whole.step(batches)
    whole.save(path)
    want = whole.step(batches)
    parts = begin(make, settings, GPU)
    parts.resume(path)
    got = parts.step(batches)
    assert (parts.done, got.keys()) == (2, want.keys())
    assert error(list(got.values()), list(want.values())) < 1e-3
    for name, value in whole.state().items():
        other = parts.state()[name]
        assert value.device == other.device, name
        assert torch.allclose(value.float(), other.float(), atol=2e-2), name
    begin(make, settings, "cpu").resume(path)


# --- the commands ------------------------------------------------------------------


def luigi(cache: Path, *arguments: object) -> subprocess.Popen[str]:
    """`luigi --module pipeline RunDataset`, under way."""
    head = [sys.executable, "-m", "luigi", "--module", "pipeline", "RunDataset"]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
    return subprocess.Popen(
        [*head, "--local-scheduler", *map(str, arguments)],
        env={**environment(cache), **threads},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(runs: Sequence[subprocess.Popen[str]]) -> Iterator[str]:
    """What the runs printed, once all of them ended well."""
    for run in runs:
        output, _ = run.communicate(timeout=200)
        assert run.returncode == 0, output[-3000:]
        yield output


def read_masks(out: Path) -> dict[tuple[str, str], np.ndarray]:
    """Masks of a run by video and name."""
    return {
        (path.parent.name, path.name): np.array(Image.open(path))
        for path in sorted((out / "masks").rglob("*.png"))
    }


def agreement(one: Path, other: Path) -> float:
    """Mean IoU of two runs' masks over all objects and frames."""
    mine, theirs = read_masks(one), read_masks(other)
    assert mine and mine.keys() == theirs.keys()
    found = []
    for key, mask in mine.items():
        for i in set(np.unique(mask)) | set(np.unique(theirs[key])) - {0}:
            a, b = mask == i, theirs[key] == i
            found.append((a & b).sum() / (a | b).sum())
    return float(np.mean(found))


def test_a_clip_of_the_demo(tmp_path: Path) -> None:
    """Masks in float32, and in the precision that a run has by default."""
    runs = {
        "here": ("--device", "cpu", "--precision", "fp32"),
        "there": ("--device", GPU, "--precision", "fp32"),
        "usual": ("--device", GPU),
    }
    options = ["--videos", "return", "--max-iterations", 1]
    started = [
        luigi(tmp_path / f"cache-{name}", *options, *more, "--output", tmp_path / name)
        for name, more in runs.items()
    ]
    list(finish(started))
    exact, usual = (agreement(tmp_path / name, tmp_path / "here") for name in ("there", "usual"))
    print(f"mean IoU with the CPU: float32 {exact:.4f}, by default {usual:.4f}")
    assert exact > 0.98 and usual > 0.95


def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, at the size and in the precision that a run has by default."""
    monkeypatch.delenv("LUIGI_CONFIG_PATH")
    out = tmp_path / "out"
    list(finish([luigi(tmp_path / "cache", "--device", GPU, "--output", out)]))
    assert (out / "report.html").is_file()
    given = {n for _, n in read_masks(out)}
    assert len(read_masks(out)) == 3 * len(given)


def test_two_workers_share_a_gpu(tmp_path: Path) -> None:
    root, weights = write_dataset(tmp_path / "DAVIS"), write_weights(tmp_path / "w.safetensors")
    data = ["--dataset", "davis17", "--root", root, "--split", "val", "--weights", weights]
    options = [*data, "--device", GPU, "--max-iterations", 1]
    started = [
        luigi(tmp_path / f"cache{n}", *options, "--workers", n, "--output", tmp_path / f"out{n}")
        for n in (1, 2)
    ]
    list(finish(started))
    one, two = (read_masks(tmp_path / f"out{n}") for n in (1, 2))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)
    run = json.loads((tmp_path / "out2" / "run.json").read_text(encoding="utf-8"))
    assert len(run["videos"]) == 2


def test_bench_measures_the_device(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "w.safetensors")
    options = ["--networks", weights, "--objects", "1,2", "--frames", 10, "--device", GPU]
    done = command("dyenet", "bench", *options, cache=tmp_path / "cache", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {line[:36].strip(): line[36:].split() for line in done.stdout.splitlines()[1:]}
    for stage in ("features", "embeddings", "tracklets", "all stages"):
        for share in found[f"% device busy, {stage}"]:
            assert 0 < float(share) <= 100
    assert all(float(value.replace(",", "")) > 1 for value in found["peak device memory, MiB"])
