"""Figs. 4 and 5 of the paper for any video, as PNG files.

luigi --module pipeline DrawAttention --local-scheduler --videos bear ...   (Fig. 4)
luigi --module pipeline DrawComparison --local-scheduler --videos bear ...  (Fig. 5)
luigi --module pipeline DrawComparison --local-scheduler \\
    --dataset clip --root clip.mp4 --masks first-mask.png

They take RunDataset's options and share its artifacts: what a run has computed is drawn
at once. A file remembers what it was drawn from and is drawn anew when that changes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import luigi
import numpy as np
import numpy.typing as npt

from cache import keys
from cache.files import write_file
from pipeline import engine
from pipeline import recipe as recipes
from pipeline.errors import UserError
from pipeline.overlays import picture
from pipeline.progress import Progress
from pipeline.published import LABELS
from pipeline.runs import cache_root
from pipeline.tasks import Step, stage_tasks
from pipeline.variants import VariantOptions
from stages.boxmask import paste
from stages.types import Box, Image, IndexMask, Tracklet

if TYPE_CHECKING:
    from pipeline.jobs import Job

VERSION = 1
"""of the pictures; a new number draws them anew"""
KEY = "dyenet"
"""text chunk of a PNG that holds what it was drawn from"""
CELL = 320
"""px: width of a picture in a comparison"""
ROI = 160
"""px: the longer side of a RoI in the attention's figure"""
GAP, HEAD, FONT = 6, 26, 15
"""px: between pictures, the line of headings, letters"""
PAGE = (255, 255, 255)
INK = (30, 30, 30)
HEAT = 0.7
"""share of the heat map over the grey picture"""


class Drawing(Step):
    """One PNG of one video; `recipes_of` are the variants' recipes."""

    video = luigi.Parameter(description="name of the video")
    recipes_of = luigi.DictParameter(description="digest of the recipe by variant")
    folder = luigi.Parameter(description="folder of the PNG")
    columns = luigi.IntParameter(description="frames drawn")

    kind: ClassVar[str]

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"{self.video} {self.kind}"

    @property
    def path(self) -> Path:
        """The PNG."""
        return Path(self.folder) / f"{self.kind}-{self.video}.png"

    def labels(self, variant: str) -> tuple[str, ...]:
        """Labels of the artifacts that the drawing reads of a variant."""
        raise TypeError(f"{type(self).__name__} reads nothing")

    def requires(self) -> dict[str, luigi.Task]:
        return {
            f"{variant} {name}": task
            for variant, digest in self.recipes_of.items()
            for name, task in stage_tasks(digest, self.video, self.labels(variant)).items()
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
            variant: recipes.planned(cache_root(), digest, self.video)
            for variant, digest in self.recipes_of.items()
        }
        read = {
            variant: {name: plan[name].key for name in self.labels(variant)}
            for variant, plan in plans.items()
        }
        return keys.key({"version": VERSION, "drawn": self.about(), "read": read})

    def about(self) -> dict[str, Any]:
        """What it shows."""
        return {"kind": self.kind, "columns": self.columns}

    def make(self, progress: Progress) -> None:
        from pipeline.jobs import Job

        with ExitStack() as stack:
            jobs = {
                variant: stack.enter_context(
                    Job(cache_root(), digest, self.video, progress, self.labels(variant)[0])
                )
                for variant, digest in self.recipes_of.items()
            }
            image = self.draw(jobs)
        save(self.path, image, self.made_from())
        progress.tell(str(self.path))

    def draw(self, jobs: dict[str, Job]) -> Image:
        """The picture; jobs by variant."""
        raise TypeError(f"{type(self).__name__} draws nothing")


class Comparison(Drawing):
    """Fig. 5: the masks of every variant in the same frames."""

    kind = "comparison"

    def labels(self, variant: str) -> tuple[str, ...]:
        plan = recipes.planned(cache_root(), self.recipes_of[variant], self.video)
        return (recipes.final(plan),)

    def draw(self, jobs: dict[str, Job]) -> Image:
        job = next(iter(jobs.values()))
        frames = job.frames()
        chosen = spread(0, len(frames) - 1, self.columns)
        images = {j: frames[j] for j in chosen}
        rows: list[list[Image]] = []
        names: list[str] = []
        truth = job.annotations(frames.size)
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
            names.append(LABELS[variant])
            rows.append([picture(images[j], masks[j], CELL) for j in chosen])
        return grid(rows, names, [f"frame {frames.names[j]}" for j in chosen])


class Attention(Drawing):
    """Fig. 4: Re-MP's attention over the RoI, and the masks without and with it."""

    object = luigi.IntParameter(description="object drawn")

    kind = "attention"

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.kind}-{self.video}-{self.object}.png"

    def about(self) -> dict[str, Any]:
        return {**super().about(), "object": self.object}

    def labels(self, variant: str) -> tuple[str, ...]:
        more = ("frames", "features", "flow") if variant == "remp" else ("frames",)
        return ("tracklets(1)", *more)

    def draw(self, jobs: dict[str, Job]) -> Image:
        from stages.attention import attention
        from stages.tracklets import Propagation

        job = jobs["remp"]
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
        drawn = {"Re-MP": tracklet}
        if "remp-no-attention" in jobs:
            drawn = {"Re-MP, no attention": self._tracklet(jobs["remp-no-attention"]), **drawn}
        frames = job.working_frames()
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


class FigureOptions(VariantOptions):
    """Options of the figures."""

    columns = luigi.IntParameter(default=6, description="frames drawn, at equal interval")

    def plan_figure(self, *variants: str) -> dict[str, Any]:
        """Parameters of a Drawing, by the variants that the weights allow."""
        if self.columns < 1:
            raise UserError(f"--columns {self.columns}: must be at least 1")
        planned = self.plan_runs(self.offline(*variants))
        for name, reason in planned.left_out.items():
            print(f"{name} is left out: {reason}", flush=True)
        self.shown = list(next(iter(planned.recipes.values())).videos)
        folder = Path(self.output or f"runs/{self.dataset}-{self.split}-figures").absolute()
        digests = {name: recipe.digest for name, recipe in planned.recipes.items()}
        return {"recipes_of": digests, "folder": str(folder), "columns": self.columns}


class DrawComparison(FigureOptions, luigi.WrapperTask):
    """Fig. 5: MSK, Re-MP without and with attention and DyeNet side by side; a PNG a video."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with engine.command():
            self.drawn = self.plan_figure(*LABELS)

    def requires(self) -> list[luigi.Task]:
        return [Comparison(video=video, **self.drawn) for video in self.shown]


class DrawAttention(FigureOptions, luigi.WrapperTask):
    """Fig. 4: the attention over an object's RoI, and its masks with and without it."""

    object = luigi.IntParameter(default=1, description="object drawn, by its number")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with engine.command():
            self.drawn = self.plan_figure("remp-no-attention", "remp")
            if "remp" not in self.drawn["recipes_of"]:
                raise UserError(
                    f"--weights {self.weights}: holds no remp, whose attention is drawn"
                )

    def requires(self) -> list[luigi.Task]:
        return [Attention(video=v, object=self.object, **self.drawn) for v in self.shown]


# --- drawing -----------------------------------------------------------------------


def spread(first: int, last: int, count: int) -> list[int]:
    """At most `count` frames at equal interval, the first and the last among them."""
    return sorted({round(n) for n in np.linspace(first, last, count)})


def in_frame(tracklet: Tracklet, j: int, size: tuple[int, int]) -> IndexMask:
    """A tracklet's mask in frame j as an index mask (H, W); empty where it has ended."""
    mask = np.zeros(size, np.uint8)
    if tracklet.covers(j):
        n = j - tracklet.first
        y, x, p = paste(tracklet.boxes[n], tracklet.masks[n], size)
        mask[y : y + p.shape[0], x : x + p.shape[1]][p > 0.5] = tracklet.start.object_id
    return mask


def crop(array: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8]:
    """A part of a frame (H, W, ...), zero outside the frame; box rounded to whole pixels."""
    x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
    part = np.zeros((max(1, y1 - y0), max(1, x1 - x0), *array.shape[2:]), np.uint8)
    top, left = max(y0, 0), max(x0, 0)
    inside = array[top : max(y1, top), left : max(x1, left)]
    part[top - y0 :, left - x0 :][: inside.shape[0], : inside.shape[1]] = inside
    return part


def heat(image: Image, a: npt.NDArray[np.float32]) -> Image:
    """a (m, m) as colours, its least dark and its most yellow, over the image in grey."""
    import cv2

    scaled = np.rint(255 * (a - a.min()) / max(float(np.ptp(a)), 1e-6)).astype(np.uint8)
    size = image.shape[1], image.shape[0]
    large = cv2.resize(scaled, size, interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(large, cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mixed = cv2.addWeighted(np.ascontiguousarray(colours), HEAT, grey, 1 - HEAT, 0)
    return np.asarray(mixed, np.uint8)


def grid(rows: Sequence[Sequence[Image]], names: Sequence[str], heads: Sequence[str]) -> Image:
    """Pictures in rows and columns on a white page, with a name a row and a heading a column."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    heights = [max(cell.shape[0] for cell in row) for row in rows]
    font = ImageFont.load_default(FONT)
    needed = [max(cell.shape[1] for cell in column) for column in zip(*rows, strict=True)]
    widths = [max(w, int(font.getlength(h)) + GAP) for w, h in zip(needed, heads, strict=True)]
    side = max(int(font.getlength(name)) for name in names) + 2 * GAP
    size = side + sum(widths) + GAP * len(widths), HEAD + sum(heights) + GAP * len(heights)
    page = Pillow.new("RGB", size, PAGE)
    draw = ImageDraw.Draw(page)
    x = side
    for head, width in zip(heads, widths, strict=True):
        draw.text((x, GAP), head, INK, font)
        x += width + GAP
    y = HEAD
    for name, row, height in zip(names, rows, heights, strict=True):
        draw.text((GAP, y + height // 2), name, INK, font, anchor="lm")
        x = side
        for cell, width in zip(row, widths, strict=True):
            page.paste(Pillow.fromarray(cell), (x, y))
            x += width + GAP
        y += height + GAP
    return np.asarray(page)


def save(path: Path, image: Image, made_from: str) -> None:
    """Write a PNG that remembers what it was drawn from, whole or not at all."""
    from PIL import Image as Pillow
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text(KEY, made_from)
    data = io.BytesIO()
    Pillow.fromarray(image).save(data, "PNG", pnginfo=about)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data.getvalue())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
