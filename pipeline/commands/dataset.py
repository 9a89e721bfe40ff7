"""A whole dataset: every video segmented, its results exported, scored and reported.

luigi --module pipeline RunDataset --local-scheduler
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi

from cache.store import LIBRARIES
from pipeline.commands import engine
from pipeline.commands.options import DatasetOptions
from pipeline.plan import chain
from pipeline.plan.inputs import cache_root
from pipeline.plan.profiles import EXTENDED
from pipeline.plan.recipe import Recipe, read
from pipeline.plan.settings import RunSettings, single
from pipeline.run.progress import Progress
from pipeline.run.stages import decided, deciding, possible
from pipeline.run.step import Step

if TYPE_CHECKING:
    from pipeline.results.export import Run


BEGAN = time.time()
"""when this process started"""


class RunDataset(DatasetOptions, luigi.WrapperTask):
    """Segment every video of a split, score it and write the report."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with engine.command():
            self.recipe = self.plan(single(self.assignments()))
            if engine.commanded() and self.complete():
                print(f"nothing to do: {self.folder(self.recipe)} is up to date", flush=True)

    def requires(self) -> dict[str, luigi.Task]:
        folder = str(self.folder(self.recipe))
        return {"report": Report(run_digest=self.recipe.digest, folder=folder)}


class Export(Step):
    """The files of one video below the output folder."""

    video = luigi.Parameter(description="name of the video")
    run_digest = luigi.Parameter(description="digest of the run's recipe")
    folder = luigi.Parameter(description="the output folder")

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"{self.video} export"

    def requires(self) -> dict[str, luigi.Task]:
        return deciding(self.run_digest, self.video)

    def needs(self) -> dict[str, luigi.Task]:
        return decided(self.run_digest, self.video, lambda plan: (chain.final(plan),))

    def complete(self) -> bool:
        from pipeline.results.export import exported

        folder, plans = Path(self.folder), possible(self.run_digest, self.video)
        return any(exported(folder, self.video, chain.export_keys(plan)) for plan in plans)

    def make(self, progress: Progress) -> None:
        from pipeline.results.export import export_video
        from pipeline.run.job import Job
        from pipeline.run.outcome import video_result

        with Job(cache_root(), self.run_digest, self.video, progress) as job:
            result = replace(video_result(job), keys=chain.export_keys(job.needed))
            export_video(result, Path(self.folder))


class Report(Step):
    """Tables, run.json and report.html of a run; the last of its tasks."""

    run_digest = luigi.Parameter(description="digest of the run's recipe")
    folder = luigi.Parameter(description="the output folder")

    title = "report"

    def requires(self) -> dict[str, luigi.Task]:
        tasks: dict[str, luigi.Task] = {}
        for video in read(cache_root(), self.run_digest).videos:
            tasks[video] = Export(video=video, run_digest=self.run_digest, folder=self.folder)
            tasks |= _of_video(video, deciding(self.run_digest, video))
        return tasks

    def needs(self) -> dict[str, luigi.Task]:
        tasks: dict[str, luigi.Task] = {}
        for video in read(cache_root(), self.run_digest).videos:
            tasks |= _of_video(video, decided(self.run_digest, video, chain.report_labels))
        return tasks

    def complete(self) -> bool:
        recipe = read(cache_root(), self.run_digest)
        exports = (
            Export(video=v, run_digest=self.run_digest, folder=self.folder) for v in recipe.videos
        )
        current = report_is_current(recipe, Path(self.folder))
        return current and all(task.complete() for task in exports)

    def make(self, progress: Progress) -> None:
        from pipeline.pages.run import report_html
        from pipeline.results.export import drop_others, write_run, write_scores
        from pipeline.run.job import Job
        from pipeline.run.outcome import scored

        folder, recipe = Path(self.folder), read(cache_root(), self.run_digest)
        videos = []
        for video in progress.follow(recipe.videos, len(recipe.videos)):
            with Job(cache_root(), self.run_digest, video, progress) as job:
                videos.append(scored(job))
        run = run_of(recipe)
        drop_others(folder, recipe.videos)
        write_scores(folder, videos, run)
        # A stop between these two leaves no report, so the next run writes both again.
        (folder / "report.html").unlink(missing_ok=True)
        write_run(folder, videos, run)
        progress.tell(str(report_html(folder)))


def _of_video(video: str, tasks: Mapping[str, luigi.Task]) -> dict[str, luigi.Task]:
    return {f"{video} {name}": task for name, task in tasks.items()}


def report_is_current(recipe: Recipe, folder: Path) -> bool:
    """Whether the folder's run.json and report are those of this recipe."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        made = {video: about["keys"] for video, about in run["videos"].items()}
        # A run of before profiles had this one.
        profile = run["settings"]["run"].get("profile", EXTENDED)
    except (OSError, ValueError, KeyError):
        return False
    same = made.keys() == recipe.videos.keys() and profile == recipe.settings.run.profile
    current = same and all(
        any(made[video] == {name: spec.key for name, spec in plan.items()} for plan in plans)
        for video in recipe.videos
        for plans in [possible(recipe.digest, video)]
    )
    return current and (folder / "report.html").exists()


def run_of(recipe: Recipe) -> Run:
    """What the run was asked for, and how it was started."""
    from pipeline.datasets import rule_of
    from pipeline.results.export import Run

    weights = {Path(video.weights) for video in recipe.videos.values()}
    return Run(
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        dataset=recipe.dataset,
        split=recipe.split,
        variant=recipe.settings.run.variant,
        weights=str(weights.pop() if len(weights) == 1 else weights.pop().parent),
        rule=rule_of(recipe.dataset),
        settings=recipe.settings.to_dict(),
        defaults=RunSettings().to_dict(),
        versions=library_versions(),
        started=datetime.fromtimestamp(BEGAN).astimezone().isoformat(timespec="seconds"),
        seconds=time.time() - BEGAN,
    )


def library_versions() -> dict[str, str]:
    """Versions of what results depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
