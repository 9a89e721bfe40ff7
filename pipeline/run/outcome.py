"""From the artifacts of a video to what is exported and reported of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from cache.files import DamagedArtifact, MissingArtifact
from pipeline.plan.chain import final, keys_of
from pipeline.results.export import Iteration, Start, Template, VideoResult, starts_of
from pipeline.results.overlays import read_palette
from pipeline.run import artifacts
from pipeline.run.job import Job
from stages.types import Matches


def video_result(job: Job) -> VideoResult:
    """What export needs of a video; its masks are read as they are used."""
    tubes = job.open(final(job.needed))
    objects = [int(i) for i in tubes["objects"][:]]
    source, frames = job.files.source, job.files.frames()
    given = job.files.first_masks(frames.size)
    return VideoResult(
        name=job.video,
        frame_names=frames.names,
        frames=frames,
        masks=artifacts.rows(tubes, "masks"),
        objects=objects,
        palette=read_palette(source.first_masks[min(given)], objects),
        keys=keys_of(job.needed),
        given=frozenset(given),
        names=source.objects,
        confidence=tubes["confidence"][:],
    )


def scored(job: Job) -> VideoResult:
    """A video's result with its scores, starting points and times; without masks."""
    made = [spec for spec in job.needed.values() if spec.given == job.given]
    scored_in = [spec.iteration for spec in made if spec.stage == "scores"]
    last = [spec.iteration for spec in made if spec.stage == "tubes"]
    matches = [job.matches(k) for k in last]
    return replace(
        video_result(job),
        # HDF5 objects that outlive their file cost time at the closing of every later one.
        masks=(),
        iterations=_iterations(job, scored_in),
        starts=_starts(job, matches) if matches else (),
        seconds=_seconds(job),
        templates=_templates(matches),
    )


def _iterations(job: Job, made: Sequence[int]) -> list[Iteration]:
    """Scores of every iteration of the run; `made`: those of the video that were scored.

    Where the given masks settle every object, all iterations are the first, and no starting
    points are counted, since none were looked for.
    """
    found = [_iteration(job, k) for k in made]
    if not (job.given and found):
        return found
    repeated = range(1, job.recipe.settings.iterations + 1)
    return [replace(found[0], number=k, counts=None) for k in repeated]


def _iteration(job: Job, k: int) -> Iteration:
    scores = job.scores(k)
    return Iteration(k, artifacts.get_scores(scores), artifacts.get_counts(scores))


def _starts(job: Job, matches: Sequence[Matches]) -> list[Start]:
    last = len(matches)
    return starts_of(matches, job.tracklets(last), artifacts.get_linking(job.tubes(last)))


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
    for name in job.needed:
        with suppress(MissingArtifact, DamagedArtifact):
            spent[name] = job.open(name).wall_seconds
    return spent
