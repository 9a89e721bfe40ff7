"""RunDataset and SweepThreshold with real Luigi on a dataset of seconds."""

from __future__ import annotations

import hashlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cache import digests
from cache.files import BAD, TEMPORARY
from pipeline import RunDataset, SweepThreshold
from pipeline.commands import engine
from pipeline.errors import UserError
from pipeline.interrupts import Stopped
from pipeline.run.progress import Progress
from pipeline.run.step import Step
from tests.clip import draw
from tests.tiny_run import ROOT, command, environment, ran, write_dataset, write_mask, write_weights

AFTER_MATCHES = [f"{stage}({k})" for k in (1, 2) for stage in ("matches", "tracklets", "tubes")]
SCORES = ["scores(1)", "scores(2)"]
LUIGID = "from luigi.cmdline import luigid; luigid()"
GIVEN = ["matches(given)", "tracklets(given)"]
ONCE = ["frames", "features", "flow", *GIVEN, "proposals", "embeddings", "search", "evidence"]


class Place:
    """A dataset, weights and cache of their own, as a run has left them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.cache = folder / "data", folder / "cache"
        self.weights, self.out = folder / "weights.safetensors", folder / "out"

    def options(self, **changed: object) -> dict[str, object]:
        """RunDataset's parameters."""
        usual = {
            "dataset": "davis17",
            "root": self.data,
            "weights": self.weights,
            "precision": "fp32",
            "max_iterations": 2,
            "output": self.out,
        }
        return {name: str(value) for name, value in {**usual, **changed}.items()}

    def flags(self, **changed: object) -> list[str]:
        """RunDataset's parameters as a command line."""
        options = self.options(**changed).items()
        return [part for name, v in options for part in (f"--{name.replace('_', '-')}", v)]

    def luigi(self, **changed: object) -> subprocess.CompletedProcess[str]:
        """Run it with a scheduler of its own, to its end."""
        flags = ["RunDataset", "--local-scheduler", *self.flags(**changed)]
        return command("luigi", *flags, cache=self.cache, cwd=self.folder)

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start it."""
        flags = [*self.flags(), *more]
        return subprocess.Popen(
            [sys.executable, "-m", "luigi", "--module", "pipeline", "RunDataset", *flags],
            env=environment(self.cache),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def empty(self) -> None:
        """Forget the run."""
        shutil.rmtree(self.cache)
        shutil.rmtree(self.out)

    def files(self, stage: str, video: str = "ant") -> list[Path]:
        return sorted((self.cache / stage / "davis17" / video).glob("*.h5"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place where the usual run has ended well."""
    place = Place(tmp_path_factory.mktemp("finished"))
    write_dataset(place.data)
    write_weights(place.weights)
    done = place.luigi()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    tasks = ran(done.stdout)
    for video in ("ant", "bee"):
        assert sorted(tasks[video]) == sorted([*ONCE, *AFTER_MATCHES, *SCORES, "export"])
    assert tasks[""] == ["report"]
    return place


@pytest.fixture
def place(finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A copy of it, to be changed."""
    for name in ("data", "cache", "out", "weights.safetensors"):
        source = finished.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, tmp_path / name)
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "RACY_NS", 0)
    return Place(tmp_path)


@pytest.fixture
def run(place: Place, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, list[str]]]:
    """Run the dataset again in this process; the tasks that ran."""

    def run(**changed: object) -> dict[str, list[str]]:
        capsys.readouterr()
        assert engine.build(RunDataset(**place.options(**changed)))
        tasks = ran(capsys.readouterr().out)
        return {video: sorted(labels) for video, labels in tasks.items()}

    return run


def both(*labels: str) -> dict[str, list[str]]:
    """The same tasks for both videos, and the report."""
    return {"ant": sorted(labels), "bee": sorted(labels), "": ["report"]}


def masks(folder: Path) -> dict[str, str]:
    """Digests of the bytes that people look at."""
    files = [*sorted((folder / "masks").rglob("*.png")), *sorted((folder / "scores").glob("*"))]
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in files
    }


def contents(cache: Path) -> dict[str, str]:
    """Digests of every HDF5 dataset of every artifact."""
    found = {}
    for path in sorted(cache.rglob("*.h5")):
        with h5py.File(path, "r") as file:
            for name, item in file.items():
                data = np.ascontiguousarray(item[()])
                found[f"{path.relative_to(cache)}/{name}"] = hashlib.blake2b(data).hexdigest()
    return found


def test_output_is_whole(finished: Place) -> None:
    for video in ("ant", "bee"):
        assert len(list((finished.out / "masks" / video).glob("*.png"))) == 4
        assert (finished.out / "overlays" / f"{video}.mp4").stat().st_size
    names = {path.name for path in (finished.out / "scores").iterdir()}
    assert {"global_results-val.csv", "per-sequence_results-val.csv"} <= names
    assert (finished.out / "report.html").exists()
    assert not list(finished.folder.rglob(f"*{TEMPORARY}"))


def test_nothing_changed(finished: Place) -> None:
    again = finished.luigi()
    assert again.returncode == 0
    assert ran(again.stdout) == {}
    assert "up to date" in again.stdout


def test_changed_rho_reid_and_back(place: Place, run: Callable[..., dict]) -> None:
    features = [(path.stat().st_ino, path.read_bytes()) for path in place.files("features")]
    before = masks(place.out)
    assert run(rho_reid=0.9) == both(*AFTER_MATCHES, *SCORES, "export")
    assert features == [(p.stat().st_ino, p.read_bytes()) for p in place.files("features")]
    assert run() == both("export")
    assert masks(place.out) == before


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("reid", ["embeddings", "search", "evidence"]),
        ("trunk", ["features", *GIVEN, "proposals", "embeddings", "search", "evidence"]),
    ],
)
def test_changed_weights(
    place: Place, run: Callable[..., dict], module: str, stages: list[str]
) -> None:
    write_weights(place.weights, **{module: 1})
    assert run() == both(*stages, *AFTER_MATCHES, *SCORES, "export")


def test_changed_first_mask(place: Place, run: Callable[..., dict]) -> None:
    mask = draw(0)[1]
    mask[:20] = 0
    write_mask(place.data / "Annotations/480p/ant/00000.png", mask)
    assert run() == {
        "ant": sorted(["frames", *GIVEN, "search", "evidence", *AFTER_MATCHES, *SCORES, "export"]),
        "": ["report"],
    }


def test_changed_annotation(place: Place, run: Callable[..., dict]) -> None:
    write_mask(place.data / "Annotations/480p/ant/00002.png", draw(3)[1])
    # the manifest names the annotations, and the number of frames is read from it
    assert run() == {"ant": sorted(["frames", *SCORES]), "": ["report"]}


def test_changed_frame(place: Place, run: Callable[..., dict]) -> None:
    frames = place.data / "JPEGImages/480p/ant"
    shutil.copy(frames / "00001.jpg", frames / "00002.jpg")
    tasks = run()
    assert tasks["ant"] == sorted([*ONCE, *AFTER_MATCHES, *SCORES, "export"])
    assert "bee" not in tasks


def test_fewer_videos_and_iterations(place: Place, run: Callable[..., dict]) -> None:
    before = masks(place.out)
    with pytest.raises(UserError, match=r"holds ant, .*run\.max_iterations: 2 there, 1 here"):
        run(videos="bee", max_iterations=1)
    assert run(videos="bee") == {}
    assert masks(place.out) == before


@pytest.mark.parametrize("variant", ["remp", "remp-no-attention", "msk"])
def test_variants_share_what_they_can(place: Place, run: Callable[..., dict], variant: str) -> None:
    tasks = run(variant=variant)["ant"]
    assert not set(ONCE) & set(tasks)
    assert ("msk" in tasks) == (variant == "msk")
    assert len([task for task in tasks if task.startswith("scores")]) == 1


def doubled(pixels: np.ndarray) -> np.ndarray:
    """Every pixel as four."""
    return pixels.repeat(2, 0).repeat(2, 1)


@pytest.mark.parametrize("variant", ["dyenet", "msk"])
def test_a_video_of_twice_the_size_is_segmented_alike(
    place: Place, run: Callable[..., dict], variant: str
) -> None:
    folder = place.folder / "clips"
    for name, change in (("large", doubled), ("small", np.asarray)):
        (folder / name).mkdir(parents=True)
        for j, (image, index) in enumerate(map(draw, range(4))):
            Image.fromarray(change(image)).save(folder / name / f"{j:05d}.png")
            if j == 0:
                (folder / "masks" / name).mkdir(parents=True)
                write_mask(folder / "masks" / name / "00000.png", change(index))
    run(
        dataset="folder",
        root=folder,
        split="all",
        variant=variant,
        set="frames.height=56,tubes.edges=0",
        output=place.folder / "sizes",
    )
    for stage in ("features", "flow", "search", "evidence", "matches", "tracklets"):
        large, small = (
            sorted(
                (at.split("/")[1], digest)
                for at, digest in contents(place.cache / stage / "folder" / name).items()
            )
            for name in ("large", "small")
        )
        assert large == small, stage
        assert large or variant == "msk"
    for j in range(4):
        large, small = (
            np.asarray(Image.open(place.folder / "sizes" / "masks" / name / f"{j:05d}.png"))
            for name in ("large", "small")
        )
        assert large.shape == (112, 144)
        assert np.mean(large[::2, ::2] != small) < 0.03
        if j == 0:
            np.testing.assert_array_equal(large, doubled(small))


def test_damaged_input_is_made_anew(place: Place, run: Callable[..., dict]) -> None:
    path = place.files("features")[0]
    before = contents(path.parent)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    tasks = run(set="tracklets.abort_area=20")
    assert tasks["ant"].count("features") == 1
    assert contents(path.parent) == before
    assert path.with_name(path.name + BAD).exists()


def test_sweep_shares_everything_but_the_matches(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    options = place.options(output=place.folder / "sweep", rho_reid_values="0.9,0.7,0.5")
    assert engine.build(SweepThreshold(**options))
    tasks = ran(capsys.readouterr().out)
    assert not set(ONCE) & set(tasks["ant"])
    table = pd.read_csv(place.folder / "sweep" / "sweep.csv")
    assert list(table["matches.rho_reid"].unique()) == [0.9, 0.7, 0.5]
    assert len(table) == 6
    assert {"iteration", "G", "precision", "recall"} <= set(table.columns)
    spent = table.groupby("matches.rho_reid")["seconds"].sum()
    assert (spent > 0).all()
    assert (place.folder / "sweep" / "sweep.html").exists()
    assert SweepThreshold(**options).complete()


def test_sweep_takes_lists_of_any_settings(place: Place) -> None:
    lists = {
        "set": "proposals.per_frame=20,30,tubes.contradiction=0.4",
        "rho_reid_values": "0.90,0.7",
    }
    sweep = SweepThreshold(**place.options(**lists))
    assert list(sweep.runs) == [
        f"per_frame={count},rho_reid={rho}" for count in (20, 30) for rho in (0.9, 0.7)
    ]
    assert len({run.recipe.digest for run in sweep.runs.values()}) == 4
    with pytest.raises(UserError, match="nothing to sweep: give several values"):
        SweepThreshold(**place.options(rho_reid_values="0.9")).complete()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rho_reid": "x"}, "matches.rho_reid = 'x': must be a number"),
        ({"set": "proposals.perframe=3"}, "did you mean proposals.per_frame?"),
        ({"videos": "and"}, "did you mean ant?"),
        ({"split": "vall"}, "did you mean val?"),
        ({"variant": "all"}, "must be one of dyenet"),
        ({"device": "tpu"}, "must be one of auto, cpu, cuda"),
        ({"weights": "compactt"}, "no such file"),
        ({"root": "/nowhere"}, "/nowhere"),
    ],
)
def test_bad_options(place: Place, changed: dict[str, str], message: str) -> None:
    options = place.options(**changed)
    with pytest.raises(UserError) as caught:
        RunDataset(**options).complete()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_option_is_one_line_of_the_command(finished: Place) -> None:
    failed = finished.luigi(rho_reid=7)
    assert failed.returncode != 0
    assert failed.stderr == "ERROR: matches.rho_reid = 7: must be a number, -1 to 2\n"


def test_bad_mask_is_one_line_and_other_videos_end(place: Place) -> None:
    path = place.data / "Annotations/480p/ant/00000.png"
    write_mask(path, np.zeros((10, 10), np.uint8))
    failed = place.luigi(rho_reid=0.8)
    assert failed.returncode != 0
    lines = failed.stderr.splitlines()
    assert len(lines) == 1
    assert f"video ant, frame 00000: mask {path} is 10x10" in lines[0]
    assert "export" in ran(failed.stdout)["bee"]


def test_weights_without_a_module(place: Place) -> None:
    from models.config import Architecture
    from models.weights import build, save

    save(place.weights, Architecture.tiny(), {"trunk": build("trunk", Architecture.tiny())}, {})
    with pytest.raises(UserError, match="holds no rpn, mask, reid, remp, which variant dyenet"):
        RunDataset(**place.options()).complete()


@pytest.fixture
def interrupted(place: Place) -> Iterator[Callable[..., str]]:
    """Stop a run by a signal some seconds after it has made so many artifacts; what it said."""
    place.empty()

    def stop(number: int, artifacts: int, seconds: float = 0.0) -> str:
        process = place.start("--local-scheduler")
        while process.poll() is None and len(list(place.cache.rglob("*.h5"))) < artifacts:
            time.sleep(0.005)
        time.sleep(seconds)
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert process.wait() != 0
        return said

    yield stop


def test_sigterm_leaves_nothing_temporary(place: Place, interrupted: Callable[..., str]) -> None:
    said = interrupted(signal.SIGTERM, 3)
    assert said == "ERROR: stopped by SIGTERM; the same command goes on from here\n"
    assert not list(place.folder.rglob(f"*{TEMPORARY}"))


def test_ctrl_c_is_one_line(place: Place, interrupted: Callable[..., str]) -> None:
    said = interrupted(signal.SIGINT, 3)
    assert said == "ERROR: stopped by Ctrl-C; the same command goes on from here\n"
    assert not list(place.folder.rglob(f"*{TEMPORARY}"))


def test_a_signal_where_python_ignores_errors_still_ends_the_run() -> None:
    code = """
import signal, time
from pipeline import interrupts
interrupts.install()
class Last:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
Last()
time.sleep(20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert done.stderr == "ERROR: stopped by SIGTERM; the same command goes on from here\n"


def test_a_cache_root_removed_during_a_run_is_made_again(place: Place, finished: Place) -> None:
    place.empty()
    process = place.start("--local-scheduler")
    while process.poll() is None and not place.files("embeddings"):
        time.sleep(0.005)
    shutil.rmtree(place.cache, ignore_errors=True)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    assert "Traceback" not in said
    if process.wait() == 0:
        assert masks(place.out) == masks(finished.out)
    else:
        assert str(place.cache) in said


def test_a_signal_inside_a_callback_of_hdf5_is_still_the_signal(tmp_path: Path) -> None:
    class Reading(Step):
        title = "reading"

        def make(self, progress: Progress) -> None:
            with h5py.File(tmp_path / "a.h5", "w") as file:
                file.attrs["name"] = 1
                h5py.h5a.iterate(file.id, self.interrupted)

        @staticmethod
        def interrupted(*_: object) -> None:
            raise Stopped(signal.SIGTERM)

        def complete(self) -> bool:
            return False

    with pytest.raises(Stopped):
        list(Reading().run())


@pytest.mark.faults
def test_two_workers_end_byte_identical(finished: Place, place: Place) -> None:
    place.empty()
    done = place.luigi(workers=2)
    assert done.returncode == 0, done.stderr
    assert contents(place.cache) == contents(finished.cache)


def free_port() -> str:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start_luigid(place: Place, port: str) -> subprocess.Popen[bytes]:
    """A scheduler without state that listens."""
    luigid = subprocess.Popen(
        [sys.executable, "-c", LUIGID, "--address", "127.0.0.1", "--port", port],
        cwd=place.folder,
        stderr=subprocess.DEVNULL,
    )
    while socket.socket().connect_ex(("127.0.0.1", int(port))):
        assert luigid.poll() is None
        time.sleep(0.1)
    return luigid


@pytest.mark.faults
def test_two_runs_and_an_assistant_share_the_work(finished: Place, place: Place) -> None:
    place.empty()
    shutil.copy(ROOT / "luigi.cfg", place.folder)
    port = free_port()
    luigid = start_luigid(place, port)
    try:
        there = ["--scheduler-host", "127.0.0.1", "--scheduler-port", port]
        runs = [place.start(*there), place.start(*there)]
        assistant = place.start(*there, "--assistant")
        assert [run.wait(timeout=300) for run in runs] == [0, 0]
        assistant.send_signal(signal.SIGUSR1)
        assert assistant.wait(timeout=60) == 0
    finally:
        luigid.kill()
        luigid.wait()
    assert contents(place.cache) == contents(finished.cache)
    assert masks(place.out) == masks(finished.out)


@pytest.mark.faults
def test_a_run_whose_luigid_lost_its_tasks_ends_with_a_status(place: Place) -> None:
    place.empty()
    shutil.copy(ROOT / "luigi.cfg", place.folder)
    port = free_port()
    luigid = start_luigid(place, port)
    run = place.start("--scheduler-host", "127.0.0.1", "--scheduler-port", port)
    while run.poll() is None and not place.files("embeddings"):
        time.sleep(0.01)
    luigid.kill()
    luigid.wait()
    luigid = start_luigid(place, port)
    try:
        status = run.wait(timeout=300)
    finally:
        luigid.kill()
        luigid.wait()
    assert (status == 0) == (place.out / "report.html").exists()


@pytest.mark.faults
def test_bad_mask_ends_a_local_run_at_once_with_our_luigi_cfg(place: Place) -> None:
    shutil.copy(ROOT / "luigi.cfg", place.folder)
    write_mask(place.data / "Annotations/480p/ant/00000.png", np.zeros((10, 10), np.uint8))
    began = time.monotonic()
    assert place.luigi().returncode == 30
    assert time.monotonic() - began < 50
