"""Videos as the scheduler sees them: a task of Luigi's for one of them, or for several.

Luigi looks at all tasks that it has for each that it hands out. So what a video needs runs within
one task, and where there are many videos, a task has several.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import luigi

from pipeline.run.handover import HandedOver
from pipeline.run.step import perform

TASKS = 1000
"""groups of a run, at most"""
LOG = logging.getLogger("luigi-interface")


def grouped(videos: Iterable[str]) -> list[list[str]]:
    """Names of videos in their order, in at most TASKS groups of one size."""
    names = list(videos)
    size = -(-len(names) // TASKS)
    return [names[i : i + size] for i in range(0, len(names), size)]


class VideoGroup(luigi.Task):
    """Some videos of a run, one after the other."""

    videos = luigi.ListParameter(description="their names")
    run_digest = luigi.Parameter(description="digest of the run's recipe")

    def tasks(self, video: str) -> Iterator[luigi.Task]:
        """What is made of a video, each with all that it requires, in the order of making."""
        raise TypeError(f"{type(self).__name__} makes nothing")

    def complete(self) -> bool:
        return all(task.complete() for video in self.videos for task in self.tasks(video))

    def run(self) -> None:
        """Make what is not there; the error of a video does not keep the others from it."""
        failed: list[Exception] = []
        for video in self.videos:
            try:
                for task in self.tasks(video):
                    perform(task, self)
            except HandedOver:
                raise
            except Exception as error:
                if failed:
                    LOG.error("%s", failed[-1], exc_info=failed[-1])
                failed.append(error)
        if failed:
            # Luigi shows this one.
            raise failed[-1]

    def on_failure(self, exception: Exception) -> str:
        if isinstance(exception, HandedOver):
            return str(exception)
        return str(super().on_failure(exception))
