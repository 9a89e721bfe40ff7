"""`dyenet bench`, `dyenet speed` and `dyenet bench-sweep` as commands, on networks of seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from models.networks import Networks
from models.weights import load
from pipeline.bench import clip
from pipeline.bench.meter import covered, spans
from pipeline.bench.sweep import differences
from stages.features import features
from tests.clip import draw
from tests.tiny_run import command, write_dataset, write_mask, write_weights

STAGES = ("features", "flow", "proposals", "embeddings", "matches", "tracklets", "tubes")


def test_bench_prints_every_figure(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for j in range(2):
        Image.fromarray(draw(j)[0]).save(frames / f"{j:05d}.png")
    write_mask(tmp_path / "first.png", draw(0)[1])
    weights = write_weights(tmp_path / "tiny.safetensors")
    clip = ["--root", frames, "--masks", tmp_path / "first.png", "--networks", weights]
    size = ["--objects", "1,2", "--frames", "3", "--precision", "fp32", "--device", "cpu"]
    done = command("dyenet", "bench", *clip, *size, cache=tmp_path / "unused", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "unused").exists() and not (tmp_path / "artifacts").exists()
    head, *lines = done.stdout.rstrip().splitlines()
    height, width = draw(0)[1].shape
    assert head.startswith(f"{weights}: 3 frames of {width}x{height} px, fp32, ")
    found = {
        line[:36].strip(): [float(value.replace(",", "")) for value in line[36:].split()]
        for line in lines
    }
    assert found["objects"] == [1, 2]
    for stage in STAGES:
        assert min(found[f"frames a second, {stage}"]) > 0
        assert min(found[f"bytes a frame, {stage}"]) > 0
    shared = found["frames a second, features"]
    assert shared[0] == shared[1]
    for n in range(2):
        whole, bare = (
            found[f"frames a second, {name}"][n] for name in ("all stages", "bare trunk")
        )
        assert found["time of all stages / bare trunk"][n] == pytest.approx(bare / whole, rel=0.1)
    assert all(100 < value < 10_000 for value in found["peak memory so far, MiB"])
    assert not [name for name in found if "device" in name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--root", "frames"], "--root and --masks belong together"),
        (["--networks", "resnet7"], "--weights resnet7: no such file"),
        (["--objects", "0"], "argument --objects: 0: must be numbers from 1"),
    ],
)
def test_what_bench_cannot_do_is_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    done = command("dyenet", "bench", *options, cache=tmp_path / "cache", cwd=tmp_path)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert message in done.stderr.splitlines()[-1]


def test_bench_of_longer_clips_goes_through_the_frames_and_back(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for j in range(3):
        (frames / f"{j}.png").write_bytes(bytes([j]))
    clip.stretch(frames, tmp_path / "clip", 7)
    read = [path.read_bytes()[0] for path in sorted((tmp_path / "clip").iterdir())]
    assert read == [0, 1, 2, 1, 0, 1, 2]


@pytest.mark.parametrize("objects", [1, 3, 10])
def test_every_drawn_object_is_seen_in_the_first_frame(objects: int) -> None:
    drawn = clip.draw(objects, 1, (240, 426))
    assert drawn.frames[0].shape == (240, 426, 3)
    found, areas = np.unique(drawn.masks[0], return_counts=True)
    assert found.tolist() == list(range(objects + 1))
    assert areas[1:].min() > 400


def test_fewer_objects_are_the_first_ones(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.array([[0, 2, 5], [9, 9, 0]], np.uint8))
    clip.fewer_objects(tmp_path / "a.png", tmp_path / "b.png", 2)
    assert np.array(Image.open(tmp_path / "b.png")).tolist() == [[0, 2, 5], [0, 0, 0]]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    path = tmp_path_factory.mktemp("untrained") / "resnet50.safetensors"
    clip.write_untrained(path, "resnet50")
    return load(path, "cpu", "fp32", ["trunk", "remp"])


def test_untrained_networks_keep_an_object_as_it_is(untrained: Networks) -> None:
    images = [draw(j)[0] for j in range(2)]
    (f, _), (g, _) = features(images, untrained)
    assert np.isfinite(f).all() and np.isfinite(g).all()
    box, mask = np.array([[16, 8, 48, 40]], np.float32), np.full((1, 28, 28), 255, np.uint8)
    state = untrained.start(f, None, box, mask)
    still = np.zeros((2, *images[0].shape[:2]), np.float32)
    for _ in range(5):
        state = untrained.step(state, g, None, still)
    assert state.alive.all() and state.areas[0] == pytest.approx(32 * 32, rel=0.2)


def test_time_that_is_covered_twice_counts_once() -> None:
    assert covered([]) == 0
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4


def test_spans_of_a_profiler_are_of_one_device_and_in_seconds() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.ones(500, 500) @ torch.ones(500, 500)
    found = spans(profiler, DeviceType.CPU)
    assert found and 1e-6 < covered(found) < 5
    assert not spans(profiler, DeviceType.CUDA)


def test_sweep_compares_every_mask_csv_and_dataset(tmp_path: Path) -> None:
    root, weights = write_dataset(tmp_path / "data", ("ant",)), tmp_path / "w.safetensors"
    write_weights(weights)
    dataset = ["--dataset", "davis17", "--root", root, "--weights", weights]
    dataset += [
        "--set",
        "frames.height=0",
        "--max-iterations",
        "1",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    values = ["--rho-reid-values", "0.9,0.5", "--keep", tmp_path / "kept"]
    done = command(
        "dyenet", "bench-sweep", *dataset, *values, cache=tmp_path / "unused", cwd=tmp_path
    )
    assert "byte-identical: masks, CSVs and HDF5 datasets" in done.stdout, done.stderr
    assert "rho_reid=0.9 alone: " in done.stdout and "ratio " in done.stdout
    alone, swept = tmp_path / "kept" / "rho_reid=0.5", tmp_path / "kept" / "sweep"
    compared = alone, swept / "out" / "rho_reid=0.5", swept / "cache"
    assert not differences(*compared)
    mask = sorted((compared[1] / "masks" / "ant").iterdir())[0]
    write_mask(mask, np.zeros((8, 8), np.uint8))
    flow = next((alone / "cache" / "flow").rglob("*.h5"))
    (swept / "cache" / flow.relative_to(alone / "cache")).unlink()
    assert [line.rpartition("/")[2] for line in differences(*compared)] == [mask.name, flow.name]


def test_speed_prints_frames_a_second_by_stage(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", ("ant",))
    weights = write_weights(tmp_path / "w.safetensors")
    options = ["--dataset", "davis17", "--root", root, "--weights", weights]
    options += ["--set", "frames.height=0", "--device", "cpu", "--precision", "fp32"]
    done = command(
        "dyenet", "speed", *options, "--training-seconds", 9, cache=tmp_path / "c", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "1 videos, 4 frames" in done.stdout and "weights w.safetensors" in done.stdout
    for row in ("| features | ", "| all, offline | ", "| all, online | ", "| paper, offline,"):
        assert row in done.stdout
    assert not (tmp_path / "c").exists()


def test_scheduling_is_told_for_every_number_of_videos(tmp_path: Path) -> None:
    done = command("dyenet", "bench-scheduling", "--videos", "2,3", cache=tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line]
    assert rows[0][:3] == ["videos", "planning", "scheduling"]
    assert [row[0] for row in rows[2:]] == ["2", "3"]
    for row in rows[2:]:
        *parts, whole, _, rerun, _ = map(float, row[1:])
        assert sum(parts) == pytest.approx(whole, abs=0.5) and min(*parts, rerun) >= 0
