"""How far a run is: its share, videos and time left, in one line or one a minute."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.plan.chain import SECONDS
from pipeline.plan.cost import Cost
from pipeline.run import progress
from pipeline.run.progress import Progress, Whole


class Clock:
    """time.monotonic() as a test sets it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    monkeypatch.setattr(progress._said, "value", made.now)
    return made


@pytest.fixture(autouse=True)
def _no_run_afterwards() -> Any:
    yield
    progress.begin({})


def cost(frames: int, *stages: str) -> Cost:
    return Cost(frames, 0, 0, frames * sum(SECONDS[stage] for stage in stages))


def task(video: str, stage: str) -> Any:
    return SimpleNamespace(video=video, stage=stage)


def test_the_share_that_is_done_tells_the_time_left(clock: Clock) -> None:
    whole = Whole({"ant": cost(10, "features", "tracklets"), "bee": cost(30, "features")})
    assert whole.so_far("ant", "features", 0) == "0% of all, 0 of 2 videos"
    clock.now += 60
    assert whole.so_far("ant", "features", 0.5) == "12% of all, 0 of 2 videos, about 8 min left"
    whole.made("ant", "features")
    whole.made("ant", "frames")
    clock.now += 60
    # 8 of 34
    assert whole.so_far("bee", "features", 0) == "24% of all, 0 of 2 videos, about 6 min left"
    # What a video turned out not to need is not waited for.
    whole.made("ant", "export")
    assert whole.so_far("bee", "features", 0) == "29% of all, 1 of 2 videos, about 5 min left"
    whole.made("bee", "features")
    whole.made("bee", "features")
    whole.made("bee", "export")
    whole.made("other", "features")
    assert whole.so_far("other", "features", 1) == "100% of all, 1 of 2 videos, about 0 s left"


def test_a_log_has_a_line_a_minute_at_most(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.begin({"ant": cost(180, "features", "flow")})
    for stage in ("features", "flow"):
        with Progress(f"ant {stage}", task("ant", stage)) as told:
            for done in range(180):
                told(done, 180)
                clock.now += 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "ant features: 60 of 180; 23% of all, about 3 min left",
        "ant features: 120 of 180; 46% of all, about 2 min left",
        "ant features: 180.0 s",
        "ant flow: 0 of 180; 70% of all, about 79 s left",
        "ant flow: 60 of 180; 80% of all, about 61 s left",
        "ant flow: 120 of 180; 90% of all, about 34 s left",
        "ant flow: 180.0 s",
    ]


def test_without_a_run_a_line_is_the_tasks_own(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("training") as told:
        clock.now += 61
        told(1, 3)
    assert capsys.readouterr().out.splitlines()[0] == "training: 1 of 3"


def test_a_terminal_has_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.begin({"ant": cost(4, "features")})
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with Progress("ant features", task("ant", "features")) as told:
        for done in range(1, 5):
            told(done, 4)
            told._bar.refresh()
    said = capsys.readouterr()
    assert said.out == ""
    assert "\n" not in said.err
    assert "100% of all" in said.err
