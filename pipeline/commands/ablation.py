"""Several variants of the method over one dataset, and the paper's ablation of them.

luigi --module pipeline Ablation --local-scheduler --dataset davis17 --root DAVIS --split val
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import luigi

from cache import keys
from pipeline.commands import engine
from pipeline.commands.sweep import DatasetOptions
from pipeline.paper.published import LABELS, PER_DATASET, PER_VIDEO, TUNED
from pipeline.plan import recipe as recipes
from pipeline.plan.inputs import LacksModules
from pipeline.plan.recipe import Recipe
from pipeline.plan.settings import single
from pipeline.run.progress import Progress
from pipeline.run.stages import Report, Step

TABLES = 1
"""version of what Ablation writes; a new number writes it anew"""


@dataclass(frozen=True)
class Planned:
    """Runs by name."""

    recipes: Mapping[str, Recipe]
    left_out: Mapping[str, str]
    """why a run that was wanted cannot be: its weights lack a module"""


class VariantOptions(DatasetOptions):
    """Options of a task that runs several variants."""

    variant = None
    msk_weights = luigi.OptionalParameter(
        default=None, description="weights of MSK, which has a network of its own; as --weights"
    )

    def offline(self, *variants: str) -> dict[str, tuple[str, str]]:
        """Variant and weights by the run's name, here the variant's."""
        msk = self.msk_weights or self.weights
        return {name: (name, msk if name == "msk" else self.weights) for name in variants}

    def plan_runs(self, wanted: Mapping[str, tuple[str, str]]) -> Planned:
        """Plan runs, each a variant with its weights; what lacks a module is left out.

        UserError if none is left.
        """
        recipes: dict[str, Recipe] = {}
        left_out: dict[str, str] = {}
        for name, (variant, weights) in wanted.items():
            # plan() reads the weights from its task.
            task = copy.copy(self)
            task.weights = weights
            try:
                recipes[name] = task.plan(single(self.assignments()) | {"run.variant": variant})
            except LacksModules as error:
                left_out[name] = str(error)
        if not recipes:
            raise LacksModules(next(iter(left_out.values())))
        return Planned(recipes, left_out)


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

    title = "ablation"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from pipeline.paper.attributes import attributes, parse_sizes

        with engine.command():
            self.thresholds = parse_sizes(self.sizes)
            self.judged = attributes(Path(self.attributes)) if self.attributes else None
            wanted = self.offline(*LABELS)
            if self.online_weights:
                wanted |= {name + TUNED: (name, self.online_weights) for name in LABELS}
            self.planned = self.plan_runs(wanted)
            if engine.commanded() and self.complete():
                print(f"nothing to do: {self.top} is up to date", flush=True)

    @property
    def top(self) -> Path:
        """The output folder."""
        return Path(self.output or f"runs/{self.dataset}-{self.split}-ablation").absolute()

    def requires(self) -> dict[str, luigi.Task]:
        return {
            name: Report(recipe=recipe.digest, folder=str(self.top / name))
            for name, recipe in self.planned.recipes.items()
        }

    def complete(self) -> bool:
        try:
            made = json.loads(self._marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        written = (self.top / "ablation.html").exists() and bool(made == self._made_from())
        return written and all(task.complete() for task in self.requires().values())

    def make(self, progress: Progress) -> None:
        from pipeline.pages.ablation import Asked
        from pipeline.paper.tables import write_ablation
        from pipeline.results.scores import write_text

        for name, reason in self.planned.left_out.items():
            progress.tell(f"{name} is left out: {reason}")
        self._marker.unlink(missing_ok=True)
        asked = Asked(
            dataset=self.dataset,
            split=self.split,
            recipes=self.planned.recipes,
            left_out=self.planned.left_out,
            online=self._online(),
            sizes=self.thresholds,
            judged=self.judged,
        )
        page = write_ablation(self.top, asked, progress)
        write_text(self._marker, json.dumps(self._made_from(), sort_keys=True))
        progress.tell(str(page))

    def _online(self) -> str:
        """Kind of the online training: a folder holds weights per video."""
        return (
            PER_VIDEO if self.online_weights and Path(self.online_weights).is_dir() else PER_DATASET
        )

    @property
    def _marker(self) -> Path:
        """What the tables were made from."""
        return self.top / ".made" / "ablation.json"

    def _made_from(self) -> dict[str, Any]:
        return {
            "version": TABLES,
            "runs": {
                name: keys.key({video: recipes.keys(recipe, video) for video in recipe.videos})
                for name, recipe in self.planned.recipes.items()
            },
            "left_out": dict(self.planned.left_out),
            "online": self._online(),
            "sizes": list(self.thresholds),
            "attributes": None if self.judged is None else self.judged.to_csv(index=False),
        }
