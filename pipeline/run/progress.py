"""How far a task and its whole run are: one line on a terminal, elsewhere one a minute at most.

Luigi's status has how far the task is.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import luigi
import luigi.rpc

from pipeline.plan.chain import SECONDS

if TYPE_CHECKING:
    from pipeline.plan.cost import Cost

T = TypeVar("T")

STATUS_EVERY = 1.0
"""seconds between two messages to the scheduler: each is a remote call"""
AWAY = 60.0
"""seconds without messages to a scheduler that does not answer: they would hold up the work"""
LINE_EVERY = 60.0
"""seconds between two plain lines of a run"""
KNOWN = 0.05
"""share of a run's work from which the time left can be told"""


class Whole:
    """How far all that this process and its workers were asked for is.

    Work is in the seconds of pipeline.plan.cost; the share that is done tells the time left.
    """

    def __init__(self, costs: Mapping[str, Cost]) -> None:
        """costs: of every video that lacks anything."""
        self._costs, self._all = costs, sum(cost.work for cost in costs.values())
        self._began = time.monotonic()
        self._of: dict[str, float] = {}
        # Workers are forks of this process. A sum of theirs that is lost now and then does no harm.
        self._done = multiprocessing.RawValue("d", 0.0)
        self._ended = multiprocessing.RawValue("i", 0)

    def made(self, video: str, stage: str) -> None:
        """A stage of a video is done; after `export` nothing of the video is left."""
        if video not in self._costs:
            return
        whole, before = self._costs[video].work, self._of.get(video, 0.0)
        stage_work = SECONDS.get(stage, 0.0) * self._costs[video].frames
        now = whole if stage == "export" else min(whole, before + stage_work)
        self._of[video] = now
        self._done.value += now - before
        self._ended.value += stage == "export" and before < whole

    def so_far(self, video: str, stage: str, share: float) -> str:
        """In words; share: of a stage that is under way, 0..1. Empty where there is no run."""
        if not self._all:
            return ""
        cost = self._costs.get(video)
        under_way = share * SECONDS.get(stage, 0.0) * cost.frames if cost else 0.0
        done = min(1.0, (self._done.value + under_way) / self._all)
        said = [f"{done:.0%} of all"]
        if len(self._costs) > 1:
            said.append(f"{self._ended.value} of {len(self._costs)} videos")
        if done >= KNOWN:
            spent = time.monotonic() - self._began
            said.append(f"about {_readable(spent * (1 - done) / done)} left")
        return ", ".join(said)


def _readable(seconds: float) -> str:
    """30 s, 5 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


_whole = Whole({})
_said = multiprocessing.RawValue("d", time.monotonic())
"""when the last plain line was printed, by this process or another worker"""


def begin(costs: Mapping[str, Cost]) -> None:
    """A run begins; costs: of every video that lacks anything."""
    global _whole
    _whole = Whole(costs)


class Progress:
    """Called with (done, total) as work advances; a `with` block for each task."""

    def __init__(self, title: str, task: luigi.Task | None = None) -> None:
        self._title = title
        self._task = task
        self._began = self._reported = time.monotonic()
        self._video, self._stage = (getattr(task, n, "") for n in ("video", "stage"))
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if kind is None:
            _whole.made(self._video, self._stage)
            # On a terminal the line is the progress's.
            if not sys.stdout.isatty():
                self.tell(f"{time.monotonic() - self._began:.1f} s")

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty():
            self._draw(done, total)
        elif now - _said.value >= LINE_EVERY:
            _said.value = now
            self.tell("; ".join(filter(None, (f"{done} of {total}", self._so_far(done, total)))))
        if now - self._reported >= STATUS_EVERY:
            self._reported = now
            self._report(done, total)

    def follow(self, items: Iterable[T], total: int) -> Iterator[T]:
        """The items, each counted once it has been dealt with."""
        for done, item in enumerate(items, 1):
            yield item
            self(done, total)

    def tell(self, text: str) -> None:
        """A line of its own; nothing where the reader has closed its end."""
        with suppress(BrokenPipeError):
            print(f"{self._title}: {text}", flush=True)

    def _so_far(self, done: int, total: int) -> str:
        return _whole.so_far(self._video, self._stage, done / max(1, total))

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(desc=self._title, total=total, leave=False)
        self._bar.total = total
        self._bar.set_postfix_str(self._so_far(done, total), refresh=False)
        self._bar.update(done - self._bar.n)

    def _report(self, done: int, total: int) -> None:
        # Luigi gives a task these only while a worker runs it.
        values = {
            "set_status_message": f"{self._title}: {done} of {total}",
            "set_progress_percentage": 100 * done // max(1, total),
        }
        try:
            for name, value in values.items():
                if tell := getattr(self._task, name, None):
                    tell(value)
        except luigi.rpc.RPCError:
            self._reported += AWAY
