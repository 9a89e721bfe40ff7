"""The paper's ablation: every variant of the method over one dataset.

luigi --module pipeline Ablation --local-scheduler --dataset davis17 --root DAVIS --split val
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi

from cache import keys
from pipeline.commands import engine
from pipeline.commands.dataset import Report, report_of
from pipeline.commands.options import Planned, VariantOptions
from pipeline.errors import UserError
from pipeline.paper.published import PER_DATASET, PER_VIDEO, TUNED
from pipeline.plan import chain
from pipeline.plan.inputs import cache_root
from pipeline.plan.recipe import Recipe
from pipeline.plan.variants import BUILT_UP, VARIANTS
from pipeline.run.progress import Progress
from pipeline.run.step import Step
from pipeline.run.video import VideoFiles

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.paper.server import Scores
    from pipeline.paper.tables import Asked
    from pipeline.results.made import Ledger

TABLES = 3
"""version of what Ablation writes; a new number writes it anew"""


class Ablation(VariantOptions, Step):
    """Run every variant that the weights allow; write Tables 1 to 5 and Fig. 6.

    What is in OUT, and how to read it: pipeline/paper/tables.py.
    """

    online_weights = luigi.OptionalParameter(
        default=None,
        description="weights after online training: a file (per dataset) or a folder (per video)",
    )
    sizes = luigi.Parameter(
        default="0.02,0.05",
        description="shares of the frame from which a first mask is medium, and large (Fig. 6)",
    )
    attributes = luigi.OptionalParameter(
        default=None, description="CSV of video,object,occlusion,pose (Fig. 6)"
    )

    server_scores = luigi.OptionalParameter(
        default=None,
        description="CSV of run,J-Mean,F-Mean,J&F-Mean that the benchmark's server returned",
    )

    title = "ablation"
    _said = False

    @cached_property
    @engine.command()
    def planned(self) -> Planned:
        """The runs; planned when they are first asked for."""
        wanted = self.offline(*BUILT_UP)
        if self.online_weights:
            wanted |= {name + TUNED: (name, self.online_weights) for name in BUILT_UP}
        return only_tuned(self.plan_runs(wanted))

    @cached_property
    @engine.command()
    def thresholds(self) -> tuple[float, float]:
        """--sizes."""
        from pipeline.paper.attributes import parse_sizes

        return parse_sizes(self.sizes)

    @cached_property
    @engine.command()
    def judged(self) -> pd.DataFrame | None:
        """The table of --attributes."""
        from pipeline.paper.attributes import attributes

        return attributes(Path(self.attributes)) if self.attributes else None

    @cached_property
    @engine.command()
    def server(self) -> Mapping[str, Scores]:
        """The scores of --server-scores."""
        from pipeline.paper.server import server_scores

        if not self.server_scores:
            return {}
        self._check_unscored()
        return server_scores(Path(self.server_scores), self.planned.recipes)

    @cached_property
    @engine.command()
    def reports(self) -> dict[str, Report]:
        """The report of each run."""
        recipes = self.planned.recipes.items()
        return {name: report_of(recipe, self.top / name) for name, recipe in recipes}

    def _check_unscored(self) -> None:
        """UserError if the runs are scored here."""
        recipe = next(iter(self.planned.recipes.values()))
        if any(video.annotations for video in recipe.videos.values()):
            raise UserError(
                f"--server-scores {self.server_scores}: split {self.split} of {self.dataset} has "
                "annotations, by which its runs are scored; leave the option out"
            )

    @property
    def top(self) -> Path:  # type: ignore[override]
        return Path(self.output or f"runs/{self.dataset}-{self.split}-ablation").absolute()

    def requires(self) -> dict[str, luigi.Task]:
        return dict(self.reports)

    def complete(self) -> bool:
        # It reads all options, so that a wrong one is said before anything is computed.
        written = self._ledger().whole(self._made_from())
        done = written and all(task.complete() for task in self.requires().values())
        if not done and not self._said:
            self._said = True
            for name, reason in self.planned.left_out.items():
                print(f"{name} is left out: {reason}", flush=True)
        return done

    def make(self, progress: Progress) -> None:
        from pipeline.pages.ablation import ablation_html
        from pipeline.paper.tables import FILES, Asked, write_ablation

        files = [*FILES, "ablation.html"]
        self._ledger().begin(files, known=files)
        asked = Asked(
            dataset=self.dataset,
            split=self.split,
            recipes=self.planned.recipes,
            left_out=self.planned.left_out,
            online=self._online(),
            sizes=self.thresholds,
            judged=self.judged,
            server=self.server,
        )
        found = instance_table(self.top, asked, progress)
        page = ablation_html(self.top, asked, write_ablation(self.top, asked, found))
        self._ledger().finish(files, self._made_from())
        progress.tell(str(page))

    def _online(self) -> str:
        """Kind of the online training: a folder holds weights per video."""
        return (
            PER_VIDEO if self.online_weights and Path(self.online_weights).is_dir() else PER_DATASET
        )

    def _ledger(self) -> Ledger:
        """What was written of the ablation as a whole."""
        from pipeline.results.made import ABLATION, Ledger

        return Ledger(self.top, ABLATION)

    def _made_from(self) -> dict[str, Any]:
        return {
            "version": TABLES,
            "runs": {
                name: keys.key({video: chain.keys(recipe, video) for video in recipe.videos})
                for name, recipe in self.planned.recipes.items()
            },
            "left_out": dict(self.planned.left_out),
            "online": self._online(),
            "sizes": list(self.thresholds),
            "server": {name: list(scores) for name, scores in self.server.items()},
            "attributes": None if self.judged is None else self.judged.to_csv(index=False),
        }


def only_tuned(planned: Planned) -> Planned:
    """Without the runs after online training whose networks it left as they were."""
    left_out = dict(planned.left_out)
    for variant in BUILT_UP:
        before, after = (planned.recipes.get(name) for name in (variant, variant + TUNED))
        if before and after and (untouched := _untouched(variant, before, after)):
            left_out[variant + TUNED] = untouched
    recipes = {name: recipe for name, recipe in planned.recipes.items() if name not in left_out}
    return Planned(recipes, left_out)


def _untouched(variant: str, before: Recipe, after: Recipe) -> str | None:
    """Why a run is none after online training: a video whose networks are those of before."""
    modules = VARIANTS[variant].modules
    for name, video in after.videos.items():
        if all(video.modules[m] == before.videos[name].modules[m] for m in modules):
            unchanged = f"online training left {', '.join(modules)} unchanged"
            return f"weights {video.weights}: {unchanged}; with learn=all it trains every network"
    return None


def instance_table(out: Path, asked: Asked, progress: Progress) -> pd.DataFrame:
    """INSTANCES of all videos; boxes from the masks of the best run, which lies below `out`."""
    import pandas as pd

    from pipeline.paper.tables import INSTANCES

    name = ([name for name in asked.recipes if name.endswith(TUNED)] or [*asked.recipes])[-1]
    recipe = asked.recipes[name]
    rows: list[tuple[Any, ...]] = []
    for video in progress.follow(recipe.videos, len(recipe.videos)):
        files = VideoFiles(cache_root(), recipe.digest, video)
        rows += _instances(files, out / name / "masks" / video, asked.sizes)
    table = pd.DataFrame(rows, columns=list(INSTANCES)[:5])
    judged = {} if asked.judged is None else asked.judged.to_dict("records")
    known = {(row["video"], row["object"]): row for row in judged}
    places = list(zip(table["video"], table["object"], strict=True))
    for name, unknown in (("occlusion", ""), ("pose", pd.NA)):
        table[name] = [known.get(place, {}).get(name, unknown) for place in places]
    return table.astype(INSTANCES)


def _instances(
    files: VideoFiles, masks: Path, sizes: tuple[float, float]
) -> Iterator[tuple[str, int, float, str, bool]]:
    """The first five columns of INSTANCES of a video; masks: the folder of its prediction."""
    from pipeline.paper.attributes import box_areas, scale_varies, size_class
    from pipeline.results.files import masks_in
    from stages.boxmask import object_ids
    from stages.frames import read_index_mask

    size = files.frames().size
    first: dict[int, float] = {}
    for _, mask in sorted(files.first_masks(size).items()):
        for i in object_ids(mask):
            first.setdefault(i, float((mask == i).mean()))
    predicted = (read_index_mask(path, size, files.video, path.stem) for path in masks_in(masks))
    areas = box_areas(predicted, sorted(first))
    for i, share in sorted(first.items()):
        yield files.video, i, share, size_class(share, sizes), scale_varies(areas[i])
