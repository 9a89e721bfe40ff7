"""What all tasks that do work have in common."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import luigi

from cache.files import DamagedArtifact, MissingArtifact
from pipeline.run import handover
from pipeline.run.progress import Progress


def perform(task: luigi.Task, caller: luigi.Task) -> None:
    """Run a task and what it requires within another task, as a worker would run them.

    HandedOver between two of them if the process is to leave.
    """
    if task.complete():
        return
    for needed in luigi.task.flatten(task.requires()):
        perform(needed, caller)
    handover.check()
    task.set_status_message = getattr(caller, "set_status_message", None)
    task.trigger_event(luigi.Event.START, task)
    for asked in task.run() or ():
        for needed in luigi.task.flatten(asked):
            perform(needed, caller)
    task.trigger_event(luigi.Event.SUCCESS, task)


class Target(luigi.Target):
    """A file that is complete once it has its name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        return self.path.exists()

    def __str__(self) -> str:
        return str(self.path)


class Step(luigi.Task):
    """A task that has its lost inputs made anew, and says how far it is."""

    title: str

    def run(self) -> Generator[list[luigi.Task], Any, None]:
        while not self.complete():
            if lost := self._lost():
                yield lost
                continue
            progress = Progress(self.title, self)
            try:
                with progress:
                    self.make(progress)
                return
            except (DamagedArtifact, MissingArtifact) as error:
                if not (lost := self._lost()):
                    raise
                progress.tell(str(error))
            except SystemError as error:
                # a signal that finds HDF5 in a callback comes out of it wrapped
                raise error.__cause__ or error from None
            yield lost

    def needs(self) -> Mapping[str, luigi.Task]:
        """What it reads besides requires(), known only once those are complete."""
        return {}

    def _lost(self) -> list[luigi.Task]:
        """Tasks whose results it reads and that are not complete."""
        read = luigi.task.flatten([self.requires(), self.needs()])
        return [task for task in read if not task.complete()]

    def make(self, progress: Progress) -> None:
        """Do the work."""
        raise TypeError(f"{type(self).__name__} makes nothing")
