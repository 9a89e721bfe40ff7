"""Several workers of one luigid, of which some die: real processes, a real luigid."""

from __future__ import annotations

import itertools
import logging
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.files import GRACE_S, TEMPORARY
from cache.prune import prune
from cache.store import Store
from pipeline import ComputeFlow, RunDataset
from pipeline.commands import engine
from pipeline.run import group
from tests.test_tasks import LUIGID, contents, free_port, masks
from tests.tiny_run import ROOT, environment, ran, write_dataset, write_mask, write_weights

VIDEOS = tuple(f"v{i:02d}" for i in range(int(os.environ.get("DYENET_TEST_VIDEOS", "6"))))
DELAY = 10
"""seconds after which a worker that is not heard of counts as dead, in these tests"""
PAUSE = 15
"""seconds after which its task is taken over, at the latest"""
WAIT = 1200
"""seconds after which a process hangs"""
LUIGI = """
import sys, time
ahead, now = float(sys.argv.pop(1)), time.time
time.time = lambda: now() + ahead
from luigi.cmdline import luigi_run
luigi_run()
"""
"""the command `luigi` on a node whose clock is so many seconds ahead"""
STOPPED = "ERROR: stopped by {}; the same command goes on from here\n"


class Nodes:
    """A dataset, an artifact root and an output folder that several workers share."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder, self.source, self.port = folder, source, free_port()
        self.cache, self.out = folder / "cache", folder / "out"
        self.started: list[subprocess.Popen[str]] = []
        config = (ROOT / "luigi.cfg").read_text()
        config = config.replace("_delay = 60", f"_delay = {DELAY}")
        (folder / "luigi.cfg").write_text(
            config.replace("[core]", "[core]\nrpc_retry_wait = 1\nrpc_retry_attempts = 20")
        )

    def luigid(self, *more: str) -> subprocess.Popen[str]:
        """A scheduler that listens."""
        head = [sys.executable, "-c", LUIGID, "--address", "127.0.0.1", "--port", self.port]
        found = self._start([*head, *more])
        while socket.socket().connect_ex(("127.0.0.1", int(self.port))):
            assert found.poll() is None
            time.sleep(0.1)
        return found

    def worker(
        self, *more: str, scheduler: bool = True, ahead: float = 0.0
    ) -> subprocess.Popen[str]:
        """A run of all videos, by default one that asks luigid.

        ahead: seconds by which the clock of its node is wrong.
        """
        there = ["--scheduler-host", "127.0.0.1", "--scheduler-port", self.port]
        flags = [*(there if scheduler else ["--local-scheduler"]), *more]
        head = [sys.executable, "-c", LUIGI, str(ahead), "--module", "pipeline", "RunDataset"]
        given = {**options(self.source), "output": str(self.out)}.items()
        asked = [part for name, v in given for part in (f"--{name.replace('_', '-')}", v)]
        return self._start([*head, *asked, *flags])

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        log = (self.folder / f"log{len(self.started)}").open("w")
        env = environment(self.cache)
        process = subprocess.Popen(command, env=env, cwd=self.folder, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def said(self, process: subprocess.Popen[str]) -> str:
        """What a process has printed."""
        return (self.folder / f"log{self.started.index(process)}").read_text()

    def artifacts(self) -> list[Path]:
        return [path for path in self.cache.rglob("*.h5") if path.is_file()]

    def until(self, artifacts: int, process: subprocess.Popen[str]) -> None:
        """Wait for so many artifacts."""
        while len(self.artifacts()) < artifacts:
            assert process.poll() is None, self.said(process)
            time.sleep(0.02)

    def longest_pause(self) -> float:
        """Seconds between two artifacts, at most, without those that the longest stage takes."""
        times = sorted(path.stat().st_mtime for path in self.artifacts())
        stages = [
            s
            for p in self.started
            for s in re.findall(r"^\S+ \S+: ([\d.]+) s$", self.said(p), re.M)
        ]
        return max(b - a for a, b in itertools.pairwise(times)) - max(map(float, stages))


def options(source: Path) -> dict[str, str]:
    """Of the run that all tests make."""
    return {
        "dataset": "davis17",
        "root": str(source / "data"),
        "weights": str(source / "weights.safetensors"),
        "precision": "fp32",
        "variant": "remp",
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and weights, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("source")
    write_dataset(folder / "data", VIDEOS)
    write_weights(folder / "weights.safetensors")
    alone = Nodes(folder, folder)
    process = alone.worker(scheduler=False)
    assert process.wait(timeout=WAIT) == 0, alone.said(process)
    assert {"", *VIDEOS} == set(ran(alone.said(process)))
    return folder


@pytest.fixture
def nodes(source: Path, tmp_path: Path) -> Iterator[Nodes]:
    """A place of which nothing is made yet; what still runs there at the end is killed."""
    found = Nodes(tmp_path, source)
    yield found
    for process in found.started:
        process.kill()
        process.wait()


@pytest.fixture
def same(nodes: Nodes, source: Path) -> Callable[[], bool]:
    """Whether all is made, as by one process, with nothing left over."""

    def same() -> bool:
        assert contents(nodes.cache) == contents(source / "cache")
        assert masks(nodes.out) == masks(source / "out")
        assert (nodes.out / "report.html").exists()
        return True

    return same


def test_a_luigid_without_its_state_is_told_again(nodes: Nodes, same: Callable[[], bool]) -> None:
    luigid, run = nodes.luigid(), nodes.worker()
    nodes.until(8, run)
    luigid.kill()
    luigid.wait()
    nodes.luigid()
    assert run.wait(timeout=WAIT) == 0, nodes.said(run)
    assert same()
    assert "luigid has lost the tasks of this run" in nodes.said(run)
    assert "Traceback" not in nodes.said(run)


def test_a_worker_told_to_leave_hands_over(nodes: Nodes, same: Callable[[], bool]) -> None:
    nodes.luigid()
    leaving = nodes.worker()
    nodes.until(3, leaving)
    leaving.send_signal(signal.SIGUSR1)
    assert leaving.wait(timeout=WAIT) == engine.NOT_RUN
    assert nodes.said(leaving).endswith("not all is done; the same command goes on from here\n")
    assert not list(nodes.folder.rglob(f"*{TEMPORARY}"))
    made = len(nodes.artifacts())
    staying = nodes.worker()
    assert staying.wait(timeout=WAIT) == 0, nodes.said(staying)
    assert same() and made < len(nodes.artifacts())


def test_videos_of_one_task_fail_by_themselves(
    nodes: Nodes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("DYENET_CACHE", str(nodes.cache))
    monkeypatch.setattr(group, "TASKS", 2)
    # Luigi's handlers depend on what other tests ran in this process before: read the records.
    monkeypatch.setattr(logging.getLogger("luigi-interface"), "propagate", True)
    shutil.copytree(nodes.source / "data", nodes.folder / "data")
    bad = [VIDEOS[0], VIDEOS[1]]
    for video in bad:
        path = nodes.folder / "data" / "Annotations" / "480p" / video / "00000.png"
        write_mask(path, np.zeros((10, 10), np.uint8))
    given = {**options(nodes.source), "root": str(nodes.folder / "data")}
    run = RunDataset(**given, output=str(nodes.out))
    assert len(run.report.requires()) == 2
    assert not engine.build(run)
    made = ran(capsys.readouterr().out)
    assert {v for v, stages in made.items() if "export" in stages} == {*VIDEOS} - {*bad}
    lines = [line for line in caplog.messages if "is 10x10" in line]
    assert {line.split(",")[0].split()[-1] for line in lines} == {*bad}
    assert "Traceback" not in caplog.text


def test_flow_is_computed_before_the_rest(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYENET_CACHE", str(nodes.cache))
    given = {**options(nodes.source), "videos": VIDEOS[0], "output": str(nodes.out)}
    assert engine.build(ComputeFlow(**given))
    assert ran(capsys.readouterr().out) == {VIDEOS[0]: ["frames", "flow"]}
    assert ComputeFlow(**given).complete() and not nodes.out.exists()
    assert engine.build(RunDataset(**given))
    assert not {"frames", "flow"} & set(ran(capsys.readouterr().out)[VIDEOS[0]])


@pytest.mark.faults
def test_a_luigid_with_its_state_goes_on(nodes: Nodes, same: Callable[[], bool]) -> None:
    state = ["--state-path", str(nodes.folder / "state")]
    luigid, run = nodes.luigid(*state), nodes.worker()
    nodes.until(8, run)
    luigid.terminate()
    luigid.wait()
    nodes.luigid(*state)
    assert run.wait(timeout=WAIT) == 0, nodes.said(run)
    assert same()
    assert "luigid has lost" not in nodes.said(run)


@pytest.mark.faults
def test_a_luigid_that_never_comes_is_one_line(nodes: Nodes) -> None:
    config = nodes.folder / "luigi.cfg"
    config.write_text(config.read_text().replace("attempts = 20", "attempts = 2"))
    run = nodes.worker()
    assert run.wait(timeout=WAIT) == 40
    said = nodes.said(run)
    assert "Traceback" not in said
    assert re.search(r"luigid at http://127.0.0.1:\d+ does not answer; trying again", said)
    assert said.endswith("start luigid; the same command goes on from here\n")


@pytest.mark.faults
def test_the_task_of_a_dead_worker_is_taken_over(nodes: Nodes, same: Callable[[], bool]) -> None:
    nodes.luigid()
    runs = [nodes.worker() for _ in range(2)]
    nodes.until(8, runs[0])
    runs[0].kill()
    assert runs[1].wait(timeout=WAIT) == 0, nodes.said(runs[1])
    assert nodes.longest_pause() < PAUSE
    assert same()


@pytest.mark.faults
def test_assistants_leave_and_the_run_goes_on(nodes: Nodes, same: Callable[[], bool]) -> None:
    nodes.luigid()
    run, *assistants = nodes.worker(), nodes.worker("--assistant"), nodes.worker("--assistant")
    nodes.until(10, run)
    for assistant in assistants:
        assistant.send_signal(signal.SIGUSR1)
    assert [assistant.wait(timeout=WAIT) for assistant in assistants] == [0, 0]
    assert not any("ERROR" in nodes.said(assistant) for assistant in assistants)
    assert run.wait(timeout=WAIT) == 0, nodes.said(run)
    assert same()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C"), (signal.SIGHUP, "SIGHUP")],
)
def test_a_stopped_worker_says_so_and_another_ends(
    nodes: Nodes, same: Callable[[], bool], number: int, name: str
) -> None:
    nodes.luigid()
    stopped, staying = nodes.worker(), nodes.worker()
    nodes.until(8, stopped)
    stopped.send_signal(number)
    assert stopped.wait(timeout=WAIT) not in (0, None)
    assert nodes.said(stopped).endswith(STOPPED.format(name))
    assert "Traceback" not in nodes.said(stopped)
    assert staying.wait(timeout=WAIT) == 0, nodes.said(staying)
    assert same()
    assert not list(nodes.folder.rglob(f"*{TEMPORARY}"))


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_processes_of_a_worker_leave_with_it(
    nodes: Nodes, same: Callable[[], bool], number: int
) -> None:
    nodes.luigid()
    leaving = nodes.worker("--workers", "2")
    nodes.until(5, leaving)
    leaving.send_signal(number)
    assert leaving.wait(timeout=WAIT) != 0
    assert "Traceback" not in nodes.said(leaving)
    assert not list(nodes.folder.rglob(f"*{TEMPORARY}"))
    staying = nodes.worker()
    assert staying.wait(timeout=WAIT) == 0, nodes.said(staying)
    assert same()


@pytest.mark.faults
def test_two_of_three_die_and_luigid_forgets(nodes: Nodes, same: Callable[[], bool]) -> None:
    """DYENET_TEST_VIDEOS=24 makes it the size that a cluster's evening has."""
    chance = random.Random(0)
    luigid = nodes.luigid()
    runs = [nodes.worker() for _ in range(3)]
    whole = len([path for path in (nodes.source / "cache").rglob("*.h5") if path.is_file()])
    nodes.until(whole // 4 + chance.randrange(4), runs[0])
    runs[0].kill()
    nodes.until(whole // 3 + chance.randrange(4), runs[1])
    luigid.kill()
    luigid.wait()
    nodes.luigid()
    nodes.until(whole // 2, runs[1])
    runs[1].kill()
    assert runs[2].wait(timeout=WAIT) == 0, nodes.said(runs[2])
    assert [run.wait() for run in runs] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    pause = nodes.longest_pause()
    print(f"longest pause {pause:.1f} s")
    assert pause < PAUSE
    assert same()


@pytest.mark.faults
def test_clocks_that_are_hours_apart_harm_nothing(nodes: Nodes, same: Callable[[], bool]) -> None:
    """Each finds what the other is about to write old, or of tomorrow, by its own clock."""
    nodes.luigid()
    drafts = [
        nodes.out / ".made/drafts/0123456789abcdef/masks/v00/00000.png",
        nodes.cache / "runs/0123456789abcdef/0123456789abcdef.json.0123456789abcdef.tmp",
    ]
    for draft in drafts:
        draft.parent.mkdir(parents=True)
        draft.touch()
    runs = [nodes.worker(ahead=ahead) for ahead in (2 * GRACE_S, -2 * GRACE_S)]
    assert [run.wait(timeout=WAIT) for run in runs] == [0, 0], list(map(nodes.said, runs))
    assert all(draft.exists() for draft in drafts)
    assert same()
    assert prune(Store(nodes.cache), min_age_s=0.0, delete=True)
    assert not list(nodes.cache.rglob(f"*{TEMPORARY}"))


@pytest.mark.parametrize(("status", "requeued"), [(0, ""), (25, "requeue 7\n"), (30, "")])
def test_slurm_queues_up_again_only_what_is_left(
    tmp_path: Path, status: int, requeued: str
) -> None:
    """With stand-ins for Slurm's own commands."""
    for name, line in (("srun", f"exit {status}"), ("scontrol", 'echo "$@" >> asked')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").touch()
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "SLURM_JOB_ID": "7", "LUIGID": "127.0.0.1"}
    script = ROOT / "examples" / "slurm.sh"
    assert subprocess.run([script], env=env, cwd=tmp_path).returncode == status
    assert (tmp_path / "asked").read_text() == requeued
