"""From the artifacts of a run to its output folder (pipeline/results/export.py, pages/run.py)."""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path

from cache.files import DamagedArtifact, MissingArtifact
from cache.store import LIBRARIES
from pipeline.pages.run import report_html
from pipeline.plan import recipe as recipes
from pipeline.plan.recipe import Recipe, label
from pipeline.plan.settings import RunSettings
from pipeline.results.export import (
    Iteration,
    Run,
    Start,
    Template,
    VideoResult,
    drop_others,
    starts_of,
    write_run,
    write_scores,
)
from pipeline.results.overlays import read_palette
from pipeline.results.scores import rule_of
from pipeline.run import artifacts as readers
from pipeline.run.job import Job
from pipeline.run.progress import Progress
from stages.types import Matches

BEGAN = time.time()
"""when this process started"""


def video_result(job: Job) -> VideoResult:
    """What export needs of a video; its masks are read as they are used."""
    tubes = job.open(recipes.final(job.specs))
    objects = [int(i) for i in tubes["objects"][:]]
    source, frames = job.source, job.frames()
    return VideoResult(
        name=job.video,
        frame_names=frames.names,
        frames=frames,
        masks=readers.rows(tubes, "masks"),
        objects=objects,
        palette=read_palette(source.first_masks[min(source.first_masks)], objects),
        keys={name: spec.key for name, spec in job.specs.items()},
        given=frozenset(source.first_masks),
    )


def reported(recipe: Recipe, folder: Path) -> bool:
    """Whether the folder's run.json and report are those of this recipe."""
    try:
        videos = json.loads((folder / "run.json").read_text(encoding="utf-8"))["videos"]
    except (OSError, ValueError, KeyError):
        return False
    made = {video: about["keys"] for video, about in videos.items()}
    wanted = {video: recipes.keys(recipe, video) for video in recipe.videos}
    return made == wanted and (folder / "report.html").exists()


def write_report(root: Path, recipe: str, folder: Path, progress: Progress) -> None:
    """Write the tables, run.json and report.html of a run."""
    videos = []
    made = recipes.read(root, recipe)
    for video in progress.follow(made.videos, len(made.videos)):
        with Job(root, recipe, video, progress) as job:
            videos.append(_scored(job))
    run = _run(made)
    drop_others(folder, made.videos)
    write_scores(folder, videos, run)
    # A stop between these two leaves no report, so the next run writes both again.
    (folder / "report.html").unlink(missing_ok=True)
    write_run(folder, videos, run)
    report_html(folder)


def _scored(job: Job) -> VideoResult:
    """A video's result with its scores, starting points and times."""
    names = [name for name, spec in job.specs.items() if spec.stage == "scores"]
    last = [spec.iteration for spec in job.specs.values() if spec.stage == "tubes"]
    matches = [job.matches(k) for k in last]
    return replace(
        video_result(job),
        iterations=[_iteration(job, k) for k in range(1, len(names) + 1)],
        starts=_starts(job, matches) if matches else (),
        seconds=_seconds(job),
        templates=_templates(matches),
    )


def _iteration(job: Job, k: int) -> Iteration:
    scores = job.open(label("scores", k))
    return Iteration(k, readers.get_scores(scores), readers.get_counts(scores))


def _starts(job: Job, matches: Sequence[Matches]) -> list[Start]:
    last = len(matches)
    return starts_of(matches, job.tracklets(last), readers.get_linking(job.tubes(last)))


def _templates(matches: Sequence[Matches]) -> list[Template]:
    # An iteration after convergence repeats the one before it.
    return [
        Template(k, i, j)
        for k, found in enumerate(matches, 1)
        for j, i in found.templates
        if not (k > 1 and matches[k - 2].converged)
    ]


def _seconds(job: Job) -> dict[str, float]:
    """Wall time by artifact; of what has been pruned meanwhile there is none."""
    spent: dict[str, float] = {}
    for name in job.specs:
        with suppress(MissingArtifact, DamagedArtifact):
            spent[name] = job.open(name).wall_seconds
    return spent


def _run(recipe: Recipe) -> Run:
    """What the run was asked for."""
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
