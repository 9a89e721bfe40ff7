"""Figs. 4, 5 and 7 of the paper for any video, as PNG files.

luigi --module pipeline DrawAttention --local-scheduler --videos bear ...   (Fig. 4)
luigi --module pipeline DrawComparison --local-scheduler --videos bear ...  (Fig. 5)
luigi --module pipeline DrawComparison --local-scheduler \\
    --dataset clip --root clip.mp4 --masks first-mask.png
luigi --module pipeline DrawExamples --local-scheduler --videos bear,camel ...   (Fig. 7)

They take RunDataset's options and share its artifacts: what a run has computed is drawn
at once. A file remembers what it was drawn from and is drawn anew when that changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import luigi
import numpy as np

from cache import keys
from pipeline.commands import engine
from pipeline.commands.options import VariantOptions
from pipeline.errors import UserError
from pipeline.paper.figures import CELL, KEY, ROI, crop, grid, heat, in_frame, save, spread
from pipeline.plan import chain
from pipeline.plan.inputs import cache_root
from pipeline.plan.recipe import Recipe
from pipeline.plan.variants import BUILT_UP, FULL, PROPAGATION, VARIANTS
from pipeline.results.overlays import picture
from pipeline.run.progress import Progress
from pipeline.run.stages import stage_tasks
from pipeline.run.step import Step
from stages.types import Image, Tracklet

if TYPE_CHECKING:
    from pipeline.run.job import Job

VERSION = 1
"""of the pictures; a new number draws them anew"""


class Drawing(Step):
    """One PNG, drawn from runs that have a name each."""

    run_digests = luigi.DictParameter(description="digest of the recipe by name of the run")
    folder = luigi.Parameter(description="folder of the PNG")
    columns = luigi.IntParameter(description="frames drawn")

    kind: ClassVar[str]

    @property
    def path(self) -> Path:
        """The PNG."""
        raise TypeError(f"{type(self).__name__} has no place")

    def video_of(self, name: str) -> str:
        """The video that is read of a run."""
        raise TypeError(f"{type(self).__name__} reads no video")

    def labels(self, name: str) -> tuple[str, ...]:
        """Labels of the artifacts that the drawing reads of a run: the final masks."""
        plan = chain.planned(cache_root(), self.run_digests[name], self.video_of(name))
        return (chain.final(plan),)

    def modules(self, name: str) -> tuple[str, ...]:
        """Networks that the drawing itself runs, of a run."""
        return ()

    def requires(self) -> dict[str, luigi.Task]:
        return {
            f"{name} {label}": task
            for name, digest in self.run_digests.items()
            for label, task in stage_tasks(digest, self.video_of(name), self.labels(name)).items()
        }

    def complete(self) -> bool:
        from PIL import Image as Pillow

        try:
            with Pillow.open(self.path) as file:
                return bool(file.info.get(KEY) == self.made_from())
        except OSError:
            return False

    def made_from(self) -> str:
        """Digest of all that the picture depends on."""
        plans = {
            name: chain.planned(cache_root(), digest, self.video_of(name))
            for name, digest in self.run_digests.items()
        }
        read = {
            name: {label: plan[label].key for label in self.labels(name)}
            for name, plan in plans.items()
        }
        return keys.key({"version": VERSION, "drawn": self.about(), "read": read})

    def about(self) -> dict[str, Any]:
        """What it shows."""
        return {"kind": self.kind, "columns": self.columns}

    def make(self, progress: Progress) -> None:
        from pipeline.run.job import Job

        with ExitStack() as stack:
            jobs = {
                name: stack.enter_context(
                    Job(
                        cache_root(),
                        digest,
                        self.video_of(name),
                        progress,
                        networks_for=self.modules(name),
                    )
                )
                for name, digest in self.run_digests.items()
            }
            image = self.draw(jobs)
        save(self.path, image, self.made_from())
        progress.tell(str(self.path))

    def draw(self, jobs: dict[str, Job]) -> Image:
        """The picture; jobs by name of the run."""
        raise TypeError(f"{type(self).__name__} draws nothing")


class VariantDrawing(Drawing):
    """A PNG of one video; the runs are named after their variants."""

    video = luigi.Parameter(description="name of the video")

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"{self.video} {self.kind}"

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.kind}-{self.video}.png"

    def video_of(self, name: str) -> str:
        return str(self.video)


class Comparison(VariantDrawing):
    """Fig. 5: the masks of every variant in the same frames."""

    kind = "comparison"

    def draw(self, jobs: dict[str, Job]) -> Image:
        job = next(iter(jobs.values()))
        frames = job.files.frames()
        chosen = spread(0, len(frames) - 1, self.columns)
        images = {j: frames[j] for j in chosen}
        rows: list[list[Image]] = []
        names: list[str] = []
        truth = job.files.annotations(frames.size)
        drawn = [truth(j) for j in chosen]
        if any(mask is not None for mask in drawn):
            names.append("Annotation")
            rows.append(
                [
                    picture(images[j], np.zeros(frames.size, np.uint8) if m is None else m, CELL)
                    for j, m in zip(chosen, drawn, strict=True)
                ]
            )
        for variant, other in jobs.items():
            masks = other.open(self.labels(variant)[0])["masks"]
            names.append(VARIANTS[variant].label)
            rows.append([picture(images[j], masks[j], CELL) for j in chosen])
        return grid(rows, names, [f"frame {frames.names[j]}" for j in chosen])


class Attention(VariantDrawing):
    """Fig. 4: Re-MP's attention over the RoI, and the masks without and with it."""

    object = luigi.IntParameter(description="object drawn")

    kind = "attention"

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.kind}-{self.video}-{self.object}.png"

    def about(self) -> dict[str, Any]:
        return {**super().about(), "object": self.object}

    def labels(self, name: str) -> tuple[str, ...]:
        more = ("features", "flow") if VARIANTS[name].attention else ()
        return ("tracklets(1)", "frames", *more)

    def modules(self, name: str) -> tuple[str, ...]:
        return (VARIANTS[name].remp,) if VARIANTS[name].attention else ()

    def draw(self, jobs: dict[str, Job]) -> Image:
        from stages.attention import attention
        from stages.tracklets import Propagation

        attending = next(variant for variant in jobs if VARIANTS[variant].attention)
        job = jobs[attending]
        start = self._tracklet(job).start
        settings = job.recipe.settings.tracklets
        given = [t.start for t in job.tracklets(1) if t.start.given]
        propagation = Propagation(job.features(), job.flow(), job.networks, settings)
        tracklet, maps = attention(propagation, start, given)
        if not maps:
            raise UserError(
                f"video {self.video}, object {self.object}: its propagation ends where it starts, "
                "so there is no attention to draw; choose another --object"
            )
        drawn = {
            VARIANTS[variant].label: tracklet if variant == attending else self._tracklet(other)
            for variant, other in jobs.items()
        }
        frames = job.files.working_frames()
        chosen = spread(start.frame + 1, start.frame + len(maps), self.columns)
        rows: dict[str, list[Image]] = {name: [] for name in ("RoI", "Attention", *drawn)}
        heads = []
        for j in chosen:
            a, box = maps[j - start.frame - 1], tracklet.boxes[j - tracklet.first]
            image = crop(frames[j], box)
            width = max(1, round(ROI * image.shape[1] / max(image.shape[:2])))
            rows["RoI"].append(picture(image, np.zeros(image.shape[:2], np.uint8), width))
            rows["Attention"].append(heat(rows["RoI"][-1], a))
            for name, t in drawn.items():
                mask = crop(in_frame(t, j, frames.size), box)
                rows[name].append(picture(image, mask, width))
            heads.append(f"{frames.names[j]}, a {a.min():.1f} to {a.max():.1f}")
        return grid(list(rows.values()), list(rows), heads)

    def _tracklet(self, job: Job) -> Tracklet:
        """What the object's given mask became; UserError if there is no such object."""
        found = {t.start.object_id: t for t in reversed(job.tracklets(1))}
        if self.object not in found:
            raise UserError(
                f"--object {self.object}: the masks given for video {self.video} hold only "
                f"{', '.join(map(str, sorted(found)))}"
            )
        return found[self.object]


class Examples(Drawing):
    """Fig. 7: a row for each video, first its given masks, then those of DyeNet.

    The runs are named after their videos. All rows have as many frames as the shortest video
    has, if that is fewer than the columns asked for.
    """

    videos = luigi.ListParameter(description="names of the videos, in the order of their rows")

    kind = title = "examples"

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.kind}.png"

    def about(self) -> dict[str, Any]:
        return {**super().about(), "videos": list(self.videos)}

    def video_of(self, name: str) -> str:
        return name

    def draw(self, jobs: dict[str, Job]) -> Image:
        frames = {video: jobs[video].files.frames() for video in self.videos}
        given = {v: jobs[v].files.first_masks(images.size) for v, images in frames.items()}
        columns = min(self.columns, *(len(frames[v]) - min(given[v]) for v in frames))
        rows = []
        for video, images in frames.items():
            masks = jobs[video].open(self.labels(video)[0])["masks"]
            chosen = spread(min(given[video]), len(images) - 1, columns)
            drawn = {j: given[video][j] if j in given[video] else masks[j] for j in chosen}
            rows.append([picture(images[j], mask, CELL) for j, mask in drawn.items()])
        return grid(rows, list(frames), ["given masks"] + [""] * (columns - 1))


class FigureOptions(VariantOptions):
    """Options of the figures."""

    columns = engine.Integer(default=6, description="frames drawn, at equal interval")

    variants: ClassVar[Sequence[str]]
    """names of those that are drawn where the weights allow it"""

    @cached_property
    @engine.command()
    def recipes(self) -> Mapping[str, Recipe]:
        """The runs by variant; planned when they are first asked for."""
        if self.columns < 1:
            raise UserError(f"--columns {self.columns}: must be at least 1")
        planned = self.plan_runs(self.offline(*self.variants))
        for name, reason in planned.left_out.items():
            print(f"{name} is left out: {reason}", flush=True)
        return planned.recipes

    @property
    def top(self) -> Path:  # type: ignore[override]
        return Path(self.output or f"runs/{self.dataset}-{self.split}-figures").absolute()

    def drawings(self, kind: type[VariantDrawing], **more: Any) -> list[luigi.Task]:
        """A task a video."""
        digests = {name: recipe.digest for name, recipe in self.recipes.items()}
        shared = {"run_digests": digests, "folder": str(self.top), "columns": self.columns, **more}
        return [kind(video=video, **shared) for video in next(iter(self.recipes.values())).videos]


class DrawComparison(FigureOptions, luigi.WrapperTask):
    """Fig. 5: MSK, Re-MP without and with attention and DyeNet side by side; a PNG a video."""

    variants = BUILT_UP

    def requires(self) -> list[luigi.Task]:
        return self.drawings(Comparison)


class DrawExamples(FigureOptions, luigi.WrapperTask):
    """Fig. 7: videos in rows, the frames of each at equal interval with DyeNet's masks; a PNG."""

    variants = (FULL,)

    def requires(self) -> list[luigi.Task]:
        recipe = self.recipes[FULL]
        videos = list(recipe.videos)
        runs = dict.fromkeys(videos, recipe.digest)
        place = {"folder": str(self.top), "columns": self.columns}
        return [Examples(videos=videos, run_digests=runs, **place)]


class DrawAttention(FigureOptions, luigi.WrapperTask):
    """Fig. 4: the attention over an object's RoI, and its masks with and without it."""

    object = engine.Integer(default=1, description="object drawn, by its number")

    variants = PROPAGATION

    @engine.command()
    def requires(self) -> list[luigi.Task]:
        if not any(VARIANTS[name].attention for name in self.recipes):
            raise UserError(f"--weights {self.weights}: holds no remp, whose attention is drawn")
        return self.drawings(Attention, object=self.object)
