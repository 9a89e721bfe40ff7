"""What all tasks that do work have in common."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import luigi

from cache.files import DamagedArtifact, MissingArtifact
from pipeline.run.progress import Progress


class Target(luigi.Target):
    """A file that is complete once it has its name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        return self.path.exists()

    def __str__(self) -> str:
        return str(self.path)


class Step(luigi.Task):
    """A task that has its damaged inputs made anew, and says how far it is."""

    title: str

    def run(self) -> Generator[list[luigi.Task], Any, None]:
        if self.complete():
            return
        with Progress(self.title, self) as progress:
            try:
                self.make(progress)
            except (DamagedArtifact, MissingArtifact) as error:
                lost = [task for task in luigi.task.flatten(self.requires()) if not task.complete()]
                if not lost:
                    raise
                progress.tell(str(error))
                yield lost
            except SystemError as error:
                # a signal that finds HDF5 in a callback comes out of it wrapped
                raise error.__cause__ or error from None

    def make(self, progress: Progress) -> None:
        """Do the work."""
        raise TypeError(f"{type(self).__name__} makes nothing")
