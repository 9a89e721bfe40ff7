"""How far a task is: a bar on a terminal, plain lines elsewhere, and Luigi's status."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import luigi
import luigi.rpc

T = TypeVar("T")

STATUS_EVERY = 1.0
"""seconds between two messages to the scheduler: each is a remote call"""
AWAY = 60.0
"""seconds without messages to a scheduler that does not answer: they would hold up the work"""
LINE_EVERY = 30.0
"""seconds between two plain lines of a task"""


class Progress:
    """Called with (done, total) as work advances; a `with` block for each task."""

    def __init__(self, title: str, task: luigi.Task | None = None) -> None:
        self._title = title
        self._task = task
        self._began = self._reported = self._printed = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if kind is None:
            self.tell(f"{time.monotonic() - self._began:.1f} s")

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty():
            self._draw(done, total)
        elif now - self._printed >= LINE_EVERY:
            self._printed = now
            self.tell(f"{done} of {total}")
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

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(desc=self._title, total=total, leave=False)
        self._bar.total = total
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
