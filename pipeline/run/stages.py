"""The stages as Luigi tasks: what each reads, runs and writes.

`pipeline.plan.chain` says which artifacts a video needs and what each is made from; a
task here makes one of them. Tasks are named by video and key, so that runs which share an
artifact share its task, also when they run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import luigi

from cache.store import Store
from pipeline.plan import chain, settled
from pipeline.plan.inputs import cache_root
from pipeline.plan.recipe import read
from pipeline.run.progress import Progress
from pipeline.run.step import Step, Target

if TYPE_CHECKING:
    from pipeline.run.job import Job


STAGES: dict[str, type[Stage]] = {}
"""every class below, by the name of its stage"""


class Stage(Step):
    """One artifact of one video."""

    video = luigi.Parameter(description="name of the video")
    key = luigi.Parameter(description="first digits of the artifact's key")
    run_digest = luigi.Parameter(significant=False, description="digest of the run's recipe")
    iteration = luigi.IntParameter(default=0, description="iteration, from 1; 0 for none")
    given = luigi.BoolParameter(significant=False, description="of the given masks alone")

    stage: ClassVar[str]
    """the name of the class in lower case"""

    def __init_subclass__(cls) -> None:
        cls.stage = cls.__name__.lower()
        STAGES[cls.stage] = cls

    @property
    def label(self) -> str:
        """The artifact's name within its video, such as `tubes(2)`."""
        return chain.label(self.stage, self.iteration, self.given)

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"{self.video} {self.label}"

    def requires(self) -> dict[str, luigi.Task]:
        spec = planned(self.run_digest, self.video)[self.label]
        return stage_tasks(self.run_digest, self.video, spec.reads)

    def output(self) -> Target:
        dataset = read(cache_root(), self.run_digest).dataset
        return Target(Store(cache_root()).path(self.stage, dataset, self.video, self.key))

    def make(self, progress: Progress) -> None:
        from pipeline.run.job import Job

        with Job(cache_root(), self.run_digest, self.video, progress, self.label) as job:
            if job.converged(self.iteration - (self.stage == "matches")):
                job.copy(self.stage, self.iteration - 1)
            else:
                self.compute(job)

    def compute(self, job: Job) -> None:
        """Compute and write the artifact."""
        raise TypeError(f"{type(self).__name__} computes nothing")


class Frames(Stage):
    """Names, size and digests of the frames; checks what was given for the video."""

    def compute(self, job: Job) -> None:
        found = job.files.manifest()
        for line in job.files.remarks(found):
            job.progress.tell(line)
        masks = job.files.source.first_masks
        with job.write() as out:
            out.put("names", list(found.names))
            out.put("size", list(found.size))
            out.put("fps", found.fps or 0.0)
            # Of a video file there is one digest for all frames.
            out.put("digests", list(found.digests) * (len(found.names) // len(found.digests)))
            out.put("first_mask_frames", sorted(masks))
            out.put("first_mask_digests", [job.files.digest(masks[j]) for j in sorted(masks)])
            out.put("annotations_digest", job.made.annotations or "")


class Features(Stage):
    """N_feat (section 3)."""

    def compute(self, job: Job) -> None:
        from stages.features import features

        frames = job.files.working_frames()
        with job.write() as out:
            for f, f4 in job.progress.follow(features(frames, job.networks), len(frames)):
                out.append("coarse", f)
                if f4 is not None:
                    out.append("fine", f4)


class Flow(Stage):
    """Optical flow, both ways (section 3.2)."""

    def compute(self, job: Job) -> None:
        import numpy as np

        from stages.flow import flow

        frames, settings = job.files.working_frames(), job.recipe.settings.flow
        with job.write() as out:
            if len(frames) == 1:
                for name in ("to_previous", "to_next"):
                    out.put(name, np.zeros((0, 2, *job.working_size()), np.int16))
            pairs = flow(frames, settings, job.device)
            for to_previous, to_next in job.progress.follow(pairs, len(frames) - 1):
                out.append("to_previous", to_previous)
                out.append("to_next", to_next)


class Proposals(Stage):
    """The RPN's boxes (section 3.1)."""

    def compute(self, job: Job) -> None:
        import numpy as np

        from pipeline.run.artifacts import offsets
        from stages.proposals import proposals

        features, settings = job.features(), job.recipe.settings.proposals
        found = proposals(features, job.working_size(), job.networks, settings)
        boxes, objectness = zip(*job.progress.follow(found, len(features)), strict=True)
        with job.write() as out:
            out.put("boxes", np.concatenate(boxes))
            out.put("objectness", np.concatenate(objectness))
            out.put("offsets", offsets([len(rows) for rows in boxes]))


class Embeddings(Stage):
    """The Re-ID network's vector of every proposal (section 3.1)."""

    def compute(self, job: Job) -> None:
        import numpy as np

        from stages.embeddings import embeddings

        features, proposals = job.features(), job.open("proposals").arrays()
        ends = proposals["offsets"][1:-1]
        boxes = np.split(proposals["boxes"], ends)
        found = embeddings(features, boxes.__getitem__, job.networks)
        vectors = list(job.progress.follow(found, len(features)))
        with job.write() as out:
            out.put("vectors", np.concatenate(vectors))


class Search(Stage):
    """Windows that look like the given masks (an extension to section 3.1)."""

    def compute(self, job: Job) -> None:
        import numpy as np

        from pipeline.run.artifacts import offsets
        from stages.search import search

        features, settings = job.features(), job.recipe.settings.search
        size, masks = job.working_size(), job.working_masks()
        found = search(features, size, masks, job.networks, settings)
        boxes, vectors = zip(*job.progress.follow(found, len(features)), strict=True)
        with job.write() as out:
            out.put("boxes", np.concatenate(boxes))
            out.put("vectors", np.concatenate(vectors))
            out.put("offsets", offsets([len(rows) for rows in boxes]))


class Evidence(Stage):
    """How well boxes agree with the memory of given masks (an extension to section 3.1)."""

    def compute(self, job: Job) -> None:
        import numpy as np

        from pipeline.run.artifacts import offsets
        from stages.boxmask import all_ids
        from stages.evidence import evidence

        features, masks = job.features(), job.working_masks()
        with job.mask_memo() as memo:
            found = evidence(
                features,
                job.boxes(),
                masks,
                job.networks,
                memo,
                plain=job.recipe.settings.plain,
            )
            values = list(job.progress.follow(found, len(features)))
        with job.write() as out:
            out.put("objects", all_ids(masks.values()))
            out.put("values", np.concatenate(values))
            out.put("offsets", offsets([len(rows) for rows in values]))


class Matches(Stage):
    """Re-ID: starting points of one iteration (sections 3.1 and 3.3)."""

    def compute(self, job: Job) -> None:
        from pipeline.run.artifacts import put_matches
        from stages.matches import Retrieval, matches

        settings, networks, k = job.recipe.settings, job.networks, self.iteration
        offers = [job.offers(i) for i in settings.matches.offering(k)]
        with job.mask_memo() as masks, job.vector_memo() as vectors:
            retrieval = Retrieval(
                features=job.features(),
                first_masks=job.working_masks(),
                networks=networks,
                settings=settings.matches,
                skip_iou=settings.tracklets.skip_iou,
                cuts=settings.tracklets.cuts,
                masks=masks,
                vectors=vectors,
            )
            found = matches(retrieval, job.proposals(), offers, job.tracklets(k - 1), k)
        with job.write() as out:
            put_matches(out, found, networks.architecture.mask_size)


class Tracklets(Stage):
    """Re-MP: starting points propagated both ways (section 3.2)."""

    def compute(self, job: Job) -> None:
        from pipeline.run.artifacts import put_tracklets
        from stages.tracklets import WAVE, Propagation, tracklets

        settings, networks, k = job.recipe.settings, job.networks, self.iteration
        propagation = Propagation(
            job.features(), job.flow(), networks, settings.tracklets, settings.plain
        )
        with job.tracklet_memo() as memo:
            found = tracklets(
                propagation,
                job.matches(k).starts,
                job.tracklets(k - 1),
                iteration=k,
                wave=WAVE[job.device],
                memo=memo,
                progress=job.progress,
            )
        with job.write() as out:
            put_tracklets(out, found, networks.architecture.mask_size)


class Tubes(Stage):
    """Linking (section 3.2), and boxes offered as templates (section 3.3)."""

    def compute(self, job: Job) -> None:
        from pipeline.run.artifacts import get_drawn, put_linking
        from stages.tubes import link, offers, render

        tracklets, working = job.tracklets(self.iteration), job.working_size()
        frames, settings = job.length(), job.recipe.settings.tubes
        linking = link(tracklets, frames, working, settings)
        before = get_drawn(job.tubes(self.iteration - 1)) if self.iteration > 1 else None
        drawn = render(
            linking, tracklets, job.first_masks(), job.files.frames(), working, settings, before
        )
        with job.write() as out:
            for mask, confidence in job.progress.follow(drawn, frames):
                out.append("masks", mask)
                out.append("confidence", confidence)
            put_linking(out, linking, offers(linking, tracklets, settings, working))


class Msk(Stage):
    """The baseline of Table 1, in place of features to tubes."""

    def compute(self, job: Job) -> None:
        from pipeline.run.artifacts import no_linking, put_linking
        from stages.boxmask import all_ids
        from stages.msk import msk

        frames, first_masks = job.files.working_frames(), job.first_masks()
        objects = all_ids(first_masks.values())
        drawn = msk(frames, job.flow(), first_masks, job.networks)
        with job.write() as out:
            for mask, confidence in job.progress.follow(drawn, len(frames)):
                out.append("masks", mask)
                out.append("confidence", confidence)
            put_linking(out, *no_linking(objects, len(frames)))


class Scores(Stage):
    """J, F and the quality of the starting points (section 4)."""

    def compute(self, job: Job) -> None:
        from pipeline.datasets import rule_of
        from pipeline.datasets.rules import objects_of
        from pipeline.run.artifacts import put_scores, rows
        from stages.scores import mask_digest, score_video, starting_points

        tubes = job.tubes(self.iteration)
        frames, height, width = tubes["masks"].shape
        size = height, width
        annotations = job.files.annotations(size)
        digest = mask_digest(rows(tubes, "masks"))
        scores = job.same_scores(digest)
        if scores is None:
            given = job.files.first_masks(size).values()
            objects = objects_of(given, rule_of(job.recipe.dataset))
            masks = job.progress.follow(rows(tubes, "masks"), frames)
            scores = score_video(masks, annotations, objects)
        counts = starting_points(job.starts(self.iteration, size), annotations, frames)
        with job.write() as out:
            put_scores(out, scores, counts, digest)


def planned(run_digest: str, video: str) -> Mapping[str, chain.Spec]:
    """Every artifact that a video may need, by label."""
    return chain.planned(cache_root(), run_digest, video)


def stage_tasks(run_digest: str, video: str, labels: tuple[str, ...]) -> dict[str, luigi.Task]:
    """The tasks that make some of a video's artifacts, by label."""
    plan = planned(run_digest, video)
    return {
        name: STAGES[plan[name].stage](
            video=video,
            key=plan[name].key[:16],
            run_digest=run_digest,
            iteration=plan[name].iteration,
            given=plan[name].given,
        )
        for name in labels
    }


def possible(run_digest: str, video: str) -> list[dict[str, chain.Spec]]:
    """pipeline.plan.settled.possible() by the recipe's short digest."""
    root = cache_root()
    dataset = read(root, run_digest).dataset
    return settled.possible(Store(root), dataset, video, planned(run_digest, video))


def deciding(run_digest: str, video: str) -> dict[str, luigi.Task]:
    """The tasks that tell whether a video needs retrieval; none where that is known."""
    unknown = len(possible(run_digest, video)) > 1
    return stage_tasks(run_digest, video, chain.DECIDING if unknown else ())


def decided(
    run_digest: str, video: str, labels: Callable[[Mapping[str, chain.Spec]], tuple[str, ...]]
) -> dict[str, luigi.Task]:
    """The tasks of labels(what the video needs); none until that is known."""
    plans = possible(run_digest, video)
    return stage_tasks(run_digest, video, labels(plans[0])) if len(plans) == 1 else {}
