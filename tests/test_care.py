"""The care of a cache: pruning and status beside a working run, verify, cost, --keep results."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from cache import holds
from cache.holds import FOLDER, LIVE_S, hold, release
from cache.prune import prune, record_run
from cache.schemas import SCHEMAS
from cache.store import Store
from cache.verify import verify
from pipeline import RunDataset, cli
from pipeline.errors import UserError
from pipeline.plan.cost import cost
from pipeline.plan.inputs import Options, plan_run
from pipeline.plan.settings import RunSettings, override
from tests.test_cache_faults import chunks, flip, mounted
from tests.test_cache_prune import age
from tests.test_cache_schemas import store_example
from tests.tiny_run import ROOT, command, environment, ran, write_dataset, write_mask, write_weights

EVERYTHING = {"min_age_s": 0.0, "keep_runs": 0, "max_bytes": 0, "delete": True}


def holding(root: Path, run_id: str) -> subprocess.Popen[str]:
    """A process that works on a run, until its input ends."""
    code = (
        "import sys; from pathlib import Path; from cache.holds import hold\n"
        "hold(Path(sys.argv[1]), sys.argv[2]); print('holds', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root), run_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    return process


@pytest.mark.parametrize("end", ["itself", "SIGKILL"])
def test_a_working_process_keeps_what_its_run_reaches(end: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    mine, other = (store_example(store, stage)[0] for stage in ("flow", "scores"))
    record_run(store, "run", [mine])
    age(tmp_path, 7200)
    process = holding(tmp_path, "run")
    young, _ = store_example(store, "tubes")
    draft = store.path("features", "demo", "bear", "0" * 32).with_suffix(".h5.12ab.tmp")
    draft.parent.mkdir(parents=True)
    draft.touch()
    gone = {item.path for item in prune(store, **EVERYTHING)}
    assert gone == {store.path("scores", "demo", "bear", other)}
    if end == "SIGKILL":
        process.kill()
        process.communicate()
        assert prune(store, **EVERYTHING) == []
        (left,) = (tmp_path / FOLDER).iterdir()
        then = time.time() - LIVE_S - 1
        os.utime(left, (then, then))
    else:
        process.communicate()
        assert not list((tmp_path / FOLDER).iterdir())
    gone = {item.path for item in prune(store, **EVERYTHING) if FOLDER not in item.path.parts}
    assert {
        store.path("flow", "demo", "bear", mine),
        store.path("tubes", "demo", "bear", young),
        draft,
    } < gone
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_hold_stays_young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "TOUCH_S", 0.01)
    monkeypatch.setattr(holds, "_touching", [])
    hold(tmp_path, "run")
    (path,) = (tmp_path / FOLDER).iterdir()
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    release(tmp_path, "run")
    assert not path.exists()


def test_a_root_that_cannot_be_written_to_is_not_held(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    hold(tmp_path / "root", "run")
    assert list(tmp_path.iterdir()) == [tmp_path / "root"]


@pytest.mark.parametrize("stage", SCHEMAS)
def test_verify_finds_every_damaged_artifact(stage: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    (good, _), (bad, _) = (store_example(store, stage, seed) for seed in range(2))
    assert not any(found.damaged for found in verify(store))
    path = store.path(stage, "demo", "bear", bad)
    start, size = max(chunks(path))
    flip(path, path.read_bytes(), 8 * start + 4 * size)
    found = {found.kind: found for found in verify(store)}
    assert found[stage].files == 2
    (line,) = found[stage].damaged
    assert line.startswith(f"{path} is damaged") and "\n" not in line
    assert Path(f"{path}.bad").exists() and not path.exists()
    assert store.exists(stage, "demo", "bear", good)
    assert not any(found.damaged for found in verify(store))


def test_verify_compares_the_recipe_with_the_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, _ = store_example(store, "scores")
    with h5py.File(store.path("scores", "demo", "bear", made), "r+") as file:
        file.attrs["recipe"] = '{"another":1}'
    (line,) = [line for found in verify(store) for line in found.damaged]
    assert "its recipe is not that of its key" in line


def test_verify_takes_frames_without_rows(tmp_path: Path) -> None:
    """A video of one frame has no flow, and one without proposals no boxes."""
    store = Store(tmp_path)
    with store.write("flow", "demo", "bear", {}) as out:
        for name in ("to_previous", "to_next"):
            out.put(name, np.zeros((0, 2, 48, 64), np.int16))
    assert [found.damaged for found in verify(store) if found.files] == [[]]


# --- with a real run ---------------------------------------------------------------------


class Place:
    """A dataset, weights and cache of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache, self.out = folder, folder / "cache", folder / "out"
        self.weights = folder / "weights.safetensors"
        self.dataset = ["--dataset", "davis17", "--root", str(folder / "data")]
        self.settings = ["--precision", "fp32", "--max-iterations", "2"]
        self.settings += ["--weights", str(self.weights)]

    def luigi(self, *more: object, task: str = "RunDataset") -> subprocess.CompletedProcess[str]:
        """Run a task to its end."""
        flags = ["--local-scheduler", "--output", self.out, *self.dataset, *self.settings, *more]
        done = command("luigi", task, *flags, cache=self.cache, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return done

    def dyenet(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run `dyenet` to its end."""
        return command("dyenet", *arguments, cache=self.cache, cwd=self.folder)

    def made(self, stage: str) -> list[Path]:
        """Artifacts of a stage."""
        return sorted((self.cache / stage).rglob("*.h5"))

    def results(self) -> dict[str, str]:
        """Digests of every mask and score."""
        files = [*self.out.rglob("*.png"), *self.out.rglob("scores/*.csv")]
        return {
            str(path.relative_to(self.out)): hashlib.md5(path.read_bytes()).hexdigest()
            for path in files
        }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place where a run has ended."""
    place = Place(tmp_path_factory.mktemp("care"))
    write_dataset(place.folder / "data")
    write_weights(place.weights)
    place.luigi()
    return place


@pytest.fixture
def place(finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A copy of it."""
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))
    return Place(tmp_path)


def test_verify_reads_all_that_a_run_left(place: Place) -> None:
    done = place.dyenet("verify")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["features"].startswith("2 files") and lines["features"].endswith(" MB/s")
    assert lines["recipes"].startswith("1 files") and "runs" in lines
    assert lines["all"].endswith("MB/s; 0 damaged")
    (recipe,) = (place.cache / "recipes").iterdir()
    weights = next((place.cache / "digests" / "weights").iterdir())
    for path in (recipe, weights):
        flip(path, path.read_bytes(), 4 * path.stat().st_size)
    tubes = place.made("tubes")[0]
    start, size = max(chunks(tubes))
    flip(tubes, tubes.read_bytes(), 8 * start + 4 * size)
    done = place.dyenet("verify")
    assert done.returncode == 1
    assert done.stderr.count("ERROR: ") == done.stderr.count("\n") == 3
    assert done.stdout.endswith("; 3 damaged\n")
    before = place.results()
    shutil.rmtree(place.out)
    place.luigi()
    assert place.results() == before
    assert place.dyenet("verify").returncode == 0


@pytest.mark.parametrize("size", ["200", "inf", "nanG", "-1G", "1e3G", "G"])
def test_a_size_must_be_a_size(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["prune", f"--max-size={size}"])
    assert f"{size}: must be a size such as 200G" in capsys.readouterr().err


PASSED = ["evidence", "embeddings", "features", "flow", "proposals", "search"]


def test_only_results_are_kept(finished: Place, place: Place) -> None:
    shutil.rmtree(place.cache)
    shutil.rmtree(place.out)
    said = place.luigi("--keep", "results").stdout
    assert re.search(r"^cache: about \S+ [kM]B for 8 frames, of which \S+ [kM]B stay$", said, re.M)
    assert place.results() == finished.results()
    assert not [path for stage in PASSED for path in place.made(stage)]
    assert len(place.made("tubes")) == 4
    assert "nothing to do" in place.luigi("--keep", "results").stdout
    shutil.rmtree(place.out)
    tasks = ran(place.luigi().stdout)
    assert tasks["ant"] == ["export"] and place.results() == finished.results()
    tasks = ran(place.luigi("--rho-reid", "0.3", "--keep", "results").stdout)
    assert set(PASSED) < set(tasks["ant"]) and "frames" not in tasks["ant"]


def test_a_sweep_that_keeps_results_makes_what_its_values_share_once(place: Place) -> None:
    shutil.rmtree(place.cache)
    shutil.rmtree(place.out)
    values = ["--rho-reid-values", "0.3,0.5", "--keep", "results"]
    tasks = ran(place.luigi(*values, task="SweepThreshold").stdout)
    for video in ("ant", "bee"):
        assert [tasks[video].count(stage) for stage in PASSED] == [1] * len(PASSED)
    assert not [path for stage in PASSED for path in place.made(stage)]
    assert not list((place.cache / FOLDER).iterdir())


def test_what_another_run_under_way_reaches_is_kept(place: Place) -> None:
    """Its variant needs features and flow, but no boxes."""
    place.luigi("--variant", "remp", "--output", place.folder / "other")
    (usual,) = {path.stem for path in (place.cache / "recipes").iterdir()} - {_newest(place)}
    process = holding(place.cache, _newest(place))
    place.luigi("--rho-reid", "0.3", "--keep", "results")
    process.communicate()
    left = [stage for stage in PASSED if place.made(stage)]
    assert usual and left == ["features", "flow"]


def _newest(place: Place) -> str:
    """The run that was planned last."""
    records = (place.cache / "runs").glob("*/*.json")
    return max(records, key=lambda path: path.stat().st_mtime).parent.name


def large_frames(folder: Path) -> Path:
    """A dataset of one video of ten frames of 854 x 480 that all are the same."""
    video, masks = folder / "DATA" / "clip", folder / "DATA" / "masks" / "clip"
    for made in (video, masks):
        made.mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 256, (480, 854, 3), np.uint8)
    for j in range(10):
        Image.fromarray(image).save(video / f"{j:05d}.jpg")
    write_mask(masks / "00000.png", np.eye(480, 854, dtype=np.uint8))
    return folder / "DATA"


@pytest.mark.parametrize(("width", "height"), [(854, 480), (427, 240)])
def test_a_frame_of_480p_costs_about_7_mb(
    width: int, height: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is scaled to that."""
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))
    data = large_frames(tmp_path)
    options = Options(
        "folder", str(data), settings=override(RunSettings(), {"frames.height": "480"})
    )
    for path in data.rglob("*.jpg"):
        Image.open(path).resize((width, height)).save(path)
    recipe = plan_run(options, tmp_path / "cache")
    recipe.write(tmp_path / "cache")
    found = cost([recipe, recipe], Store(tmp_path / "cache"))["clip"]
    assert found.frames == 10
    assert 65e6 < found.staying + found.passing < 75e6
    assert found.staying < 2e6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "size=60m")


def test_a_disk_without_room_is_said_before_the_run(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("DYENET_CACHE", str(small_disk))
    options = {"dataset": "folder", "root": str(large_frames(tmp_path)), "output": str(tmp_path)}
    task = RunDataset(**options, set=("frames.height=480",))
    assert not task.say_cost_unless(False, [task.recipe])
    found = capsys.readouterr()
    assert found.out.startswith("cache: about 7") and found.out.endswith(" MB for 10 frames\n")
    assert found.err.count("\n") == 1
    assert found.err.startswith(f"WARNING: {small_disk} has room for ")


def test_what_to_keep_is_one_of_two(place: Place) -> None:
    with pytest.raises(UserError, match="--keep some: must be all or results"):
        _ = RunDataset(dataset="demo", keep="some", output=str(place.out / "new")).report


def beside(place: Place, work: Callable[[], object], *more: str) -> dict[str, list[str]]:
    """Do some work again and again while a run is under way; the tasks of the run."""
    flags = [*place.dataset, *place.settings, "--output", str(place.out), "--local-scheduler"]
    process = subprocess.Popen(
        [sys.executable, "-m", "luigi", "--module", "pipeline", "RunDataset", *flags, *more],
        env=environment(place.cache),
        cwd=place.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list((place.cache / FOLDER).glob("*")):
        time.sleep(0.005)
    times = 0
    while process.poll() is None and list((place.cache / FOLDER).glob("*")):
        work()
        times += 1
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert errors == "" and times > 2
    return ran(said)


@pytest.mark.faults
@pytest.mark.parametrize("start", ["empty", "shared"])
def test_pruning_beside_a_working_run_harms_nothing(
    finished: Place, place: Place, start: str
) -> None:
    """In an empty cache, and in one whose artifacts only an older run has recorded."""
    if start == "empty":
        shutil.rmtree(place.cache)
        shutil.rmtree(place.out)
        undisturbed = finished.results()
    else:
        place.luigi("--rho-reid", "0.3")
        undisturbed = place.results()
        for stage in ("matches", "tracklets", "tubes", "scores", "memo"):
            shutil.rmtree(place.cache / stage)
        shutil.rmtree(place.out)
        age(place.cache, 7200)
    store = Store(place.cache)
    more = [] if start == "empty" else ["--rho-reid", "0.3"]
    tasks = beside(place, lambda: prune(store, **EVERYTHING), *more)
    assert place.results() == undisturbed
    for labels in tasks.values():
        assert len(labels) == len(set(labels))
        assert start == "empty" or not {"features", "flow", "frames", "search"} & set(labels)
    prune(store, **EVERYTHING)
    assert not list(place.cache.rglob("*.h5"))


@pytest.mark.faults
def test_status_beside_a_working_run(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(place.cache)
    shutil.rmtree(place.out)
    said = set()

    def status() -> None:
        assert cli.main(["status", *place.dataset, *place.settings]) == 0
        found = capsys.readouterr()
        assert found.err == ""
        said.add("under way" in found.out)

    beside(place, status)
    assert True in said
    assert cli.main(["status", *place.dataset, *place.settings]) == 0
    assert "under way" not in capsys.readouterr().out
