"""A whole dataset: every video segmented, its results exported, scored and reported.

luigi --module pipeline RunDataset --local-scheduler
"""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import luigi

from cache import keys
from cache.store import LIBRARIES
from pipeline.commands import engine
from pipeline.commands.options import RunOptions
from pipeline.errors import UserError
from pipeline.plan import chain
from pipeline.plan.inputs import cache_root, sources
from pipeline.plan.options import ALL, RESULTS
from pipeline.plan.recipe import Recipe, read
from pipeline.plan.settings import RunSettings, single
from pipeline.plan.settled import cases
from pipeline.run.group import VideoGroup, grouped
from pipeline.run.progress import Progress
from pipeline.run.stages import decided, deciding, planned, stage_tasks
from pipeline.run.step import Step

if TYPE_CHECKING:
    from pipeline.results.tables import Run


BEGAN = time.time()
"""when this process started"""


class RunDataset(RunOptions, luigi.WrapperTask):
    """Segment every video of a split, score it and write the report."""

    @cached_property
    @engine.command()
    def recipe(self) -> Recipe:
        """What is run; planned when it is first asked for."""
        return self.plan(single(self.assignments()))

    @cached_property
    @engine.command()
    def report(self) -> Report:
        """The run's last task."""
        return report_of(self.recipe, self.top, self.keep)

    @property
    def top(self) -> Path:  # type: ignore[override]
        return self.folder(self.recipe)

    def requires(self) -> dict[str, luigi.Task]:
        return {"report": self.report}

    def complete(self) -> bool:
        return self.say_cost_unless(super().complete(), [self.recipe])


class ComputeFlow(RunDataset):
    """Frames and optical flow of every video of a split, for nodes without a GPU.

    RunDataset, at the same time or later, finds them.
    """

    @property
    def top(self) -> Path:  # type: ignore[override]
        return cache_root()

    def requires(self) -> dict[str, luigi.Task]:
        return {
            names[0]: FlowOfVideos(videos=names, run_digest=self.recipe.digest)
            for names in grouped(self.recipe.videos)
        }

    def complete(self) -> bool:
        return all(task.complete() for task in self.requires().values())


class Export(Step):
    """The files of one video below the output folder."""

    video = luigi.Parameter(description="name of the video")
    run_digest = luigi.Parameter(description="digest of the run's recipe")
    folder = luigi.Parameter(description="the output folder")
    keep = luigi.Parameter(default=ALL, significant=False, description="as RunDataset has it")

    stage = "export"

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"{self.video} export"

    def requires(self) -> dict[str, luigi.Task]:
        return deciding(self.run_digest, self.video)

    def needs(self) -> dict[str, luigi.Task]:
        return decided(self.run_digest, self.video, lambda plan: (chain.final(plan),))

    def complete(self) -> bool:
        from pipeline.results.export import exported

        # What was exported tells which case it was, without a look into artifacts.
        folder, plans = Path(self.folder), cases(planned(self.run_digest, self.video))
        return any(exported(folder, self.video, chain.export_keys(plan)) for plan in plans)

    def make(self, progress: Progress) -> None:
        from pipeline.results.export import export_video
        from pipeline.run.job import Job
        from pipeline.run.outcome import video_result

        with Job(cache_root(), self.run_digest, self.video, progress) as job:
            result = replace(video_result(job), keys=chain.export_keys(job.needed))
            take(Path(self.folder), job.recipe)
            export_video(result, Path(self.folder))
            if self.keep == RESULTS:
                job.drop(chain.PASSING)


class SegmentVideos(VideoGroup):
    """Exported files of some videos, and what is reported of them."""

    folder = luigi.Parameter(description="the output folder")
    keep = luigi.Parameter(default=ALL, significant=False, description="as RunDataset has it")

    def tasks(self, video: str) -> Iterator[luigi.Task]:
        given = {"run_digest": self.run_digest, "folder": self.folder, "keep": self.keep}
        yield Export(video=video, **given)
        # Known once the video is exported: what is reported, and what tells that it is so.
        yield from deciding(self.run_digest, video).values()
        yield from decided(self.run_digest, video, chain.report_labels).values()


class FlowOfVideos(VideoGroup):
    """Optical flow of some videos."""

    def tasks(self, video: str) -> Iterator[luigi.Task]:
        yield from stage_tasks(self.run_digest, video, ("flow",)).values()


class Report(Step):
    """Tables, run.json and report.html of a run; the last of its tasks."""

    run_digest = luigi.Parameter(description="digest of the run's recipe")
    folder = luigi.Parameter(description="the output folder")
    keep = luigi.Parameter(default=ALL, significant=False, description="as RunDataset has it")

    title = "report"

    def requires(self) -> dict[str, luigi.Task]:
        recipe = read(cache_root(), self.run_digest)
        given = {"run_digest": recipe.digest, "folder": self.folder, "keep": self.keep}
        return {names[0]: SegmentVideos(videos=names, **given) for names in grouped(recipe.videos)}

    def complete(self) -> bool:
        from pipeline.results.export import exported
        from pipeline.results.tables import report_is_current

        recipe, folder, wanted = read(cache_root(), self.run_digest), Path(self.folder), {}
        for video in recipe.videos:
            plans = cases(planned(self.run_digest, video))
            if not any(exported(folder, video, chain.export_keys(plan)) for plan in plans):
                return False
            wanted[video] = [chain.keys_of(plan) for plan in plans]
        return report_is_current(folder, recipe.settings.to_dict(), wanted)

    def make(self, progress: Progress) -> None:
        from pipeline.pages.run import report_html
        from pipeline.results.claim import release
        from pipeline.results.tables import gathered, reported
        from pipeline.run.job import Job
        from pipeline.run.outcome import scored

        folder, recipe = Path(self.folder), read(cache_root(), self.run_digest)
        take(folder, recipe)
        videos = []
        for video in progress.follow(recipe.videos, len(recipe.videos)):
            plans = cases(planned(self.run_digest, video))
            if not reported(folder, video, [chain.keys_of(plan) for plan in plans]):
                with Job(cache_root(), self.run_digest, video, progress) as job:
                    videos.append(replace(scored(job), asked=asked(recipe)))
        with gathered(folder, videos, run_of(recipe)):
            page = report_html(folder)
        release(folder)
        _tell_others(folder, recipe, progress)
        progress.tell(str(page))


def asked(recipe: Recipe) -> dict[str, str]:
    """How one's own clip was asked for; of other datasets nothing."""
    if recipe.dataset != "clip":
        return {}
    return {"command": commanded(), "masks": recipe.masks or ""}


def commanded() -> str:
    """The command line of this process."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def report_of(recipe: Recipe, folder: Path, keep: str = ALL) -> Report:
    """The report of a run into a folder that is fit for it, and taken unless all is done.

    UserError if the run would write over what it reads or over files of others, or if the
    folder is another run's.
    """
    from pipeline.results.apart import check_apart
    from pipeline.results.export import refuse_foreign_masks, refuse_foreign_video
    from pipeline.results.made import sweep
    from pipeline.results.tables import refuse_foreign_report

    if keep not in (ALL, RESULTS):
        raise UserError(f"--keep {keep}: must be {ALL} or {RESULTS}")
    report = Report(run_digest=recipe.digest, folder=str(folder), keep=keep)
    if not report.complete():
        check_apart(folder, recipe.videos, sources(recipe) | {cache_root(): "the artifact root"})
        refuse_foreign_report(folder)
        refuse_foreign_masks(folder)
        for video in recipe.videos:
            refuse_foreign_video(folder, video)
        take(folder, recipe)
        sweep(folder, recipe.videos)
    return report


def take(folder: Path, recipe: Recipe) -> None:
    """Claim an output folder for a run's settings; UserError if it is another run's."""
    from pipeline.results.claim import claim, flat

    here = {"dataset": recipe.dataset, "split": recipe.split, "weights": _weights(recipe)}
    settings = here | flat(recipe.settings.to_dict())
    claim(folder, settings, here | flat(RunSettings().to_dict()), recipe.videos)


def _weights(recipe: Recipe) -> str:
    """A run's weights by what they hold, wherever they lie; a folder of them by its path."""
    name, video = next(iter(recipe.videos.items()))
    path = Path(video.weights)
    if path.stem == name:
        return str(path.parent)
    return f"{path.name} ({keys.short(keys.key(video.modules))})"


def _tell_others(folder: Path, recipe: Recipe, progress: Progress) -> None:
    """Say what else lies in the output folder."""
    from pipeline.results.claim import listed
    from pipeline.results.made import listed_videos
    from pipeline.results.tables import unreported

    if others := sorted(listed_videos(folder) - set(recipe.videos)):
        progress.tell(f"{folder} also holds {listed(others)}; the report covers them")
    if lost := unreported(folder):
        progress.tell(f"{folder} also holds {listed(lost)}, not in the report; run them again")


def run_of(recipe: Recipe) -> Run:
    """What the run was asked for, and how it was started."""
    from pipeline.datasets import rule_of
    from pipeline.results.tables import Run

    weights = {Path(video.weights) for video in recipe.videos.values()}
    return Run(
        command=commanded(),
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
