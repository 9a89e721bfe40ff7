"""Options that the tasks share, and the plan of a run made from them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import luigi

from cache.files import CacheError
from cache.prune import record_run
from cache.store import Store
from pipeline.datasets import LAYOUTS
from pipeline.datasets.reading import FORMS, TURNS, Reading
from pipeline.errors import UserError
from pipeline.plan import chain
from pipeline.plan.inputs import LacksModules, Options, cache_root, plan_run
from pipeline.plan.profiles import EXTENDED, PROFILES
from pipeline.plan.recipe import Recipe
from pipeline.plan.settings import OPTIONS, configured, gather, override, single
from pipeline.plan.variants import FULL, VARIANTS


class Assignments(tuple[str, ...]):
    """What --set was given.

    Luigi cannot hash it, so it never hands out an old instance of a task whose sources may
    have changed since.
    """

    __hash__ = None  # type: ignore[assignment]


class SetParameter(luigi.Parameter):
    """--set name=value, repeated or joined with commas."""

    def _parser_kwargs(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super()._parser_kwargs(*args, **kwargs), "action": "append"}

    def parse(self, x: str | Sequence[str]) -> Assignments:
        return self.normalize(x)

    def normalize(self, x: str | Sequence[str]) -> Assignments:
        return Assignments([x] if isinstance(x, str) else x)

    def serialize(self, x: Sequence[str]) -> str:
        return ",".join(x)


class DatasetOptions:
    """Options that every task over a dataset takes."""

    dataset = luigi.Parameter(default="demo", description=f"one of {', '.join(LAYOUTS)}")
    root = luigi.OptionalParameter(default=None, description="folder of the dataset")
    split = luigi.Parameter(default="val", description="split of the dataset")
    videos = luigi.Parameter(default="", description="only these videos: a,b")
    variant = luigi.OptionalParameter(
        default=None, description=f"one of {', '.join(VARIANTS)}; default {FULL}"
    )
    profile = luigi.OptionalParameter(
        default=None, description=f"settings by name: {' or '.join(PROFILES)}; default {EXTENDED}"
    )
    weights = luigi.Parameter(
        default="compact",
        description="compact, a .safetensors file, or a folder of <video>.safetensors",
    )
    rho_reid = luigi.OptionalParameter(default=None, description="default 0.7")
    max_iterations = luigi.OptionalParameter(default=None, description="default 4")
    set = SetParameter(default=Assignments(), description="name=value, any of docs/settings.md")
    precision = luigi.OptionalParameter(
        default=None, description="auto, bf16 or fp32; default auto"
    )
    device = luigi.Parameter(default="auto", description="auto, cpu or cuda")
    masks = luigi.OptionalParameter(
        default=None, description="with --dataset clip: the first mask, or a folder of masks"
    )
    mask_from = luigi.OptionalParameter(
        default=None,
        description=f"of one's own videos: what in a mask shows the objects, {', '.join(FORMS)}",
    )
    mask_turn = luigi.OptionalParameter(
        default=None, description=f"masks lie as frames with a turn are {' or '.join(TURNS)}"
    )
    start = luigi.OptionalIntParameter(default=None, description="first frame, counted from 0")
    end = luigi.OptionalIntParameter(default=None, description="last frame")
    every = luigi.OptionalIntParameter(default=None, description="of so many frames one")
    fps = luigi.OptionalFloatParameter(
        default=None, description="of a video file, so many frames a second"
    )
    output = luigi.OptionalParameter(
        default=None, description="default runs/<dataset>-<split>-<variant>"
    )

    def assignments(self) -> dict[str, tuple[str, ...]]:
        """Settings given to the task, each with its values."""
        return gather(self.set, {name: getattr(self, name) for name in OPTIONS})

    def plan(self, given: Mapping[str, str]) -> Recipe:
        """Digest the sources and write the recipe of a run with the settings given."""
        store = Store(cache_root())
        try:
            store.check_writable()
        except CacheError:
            if not self._served(given, store):
                raise
        recipe = self._recipe(given, store.root)
        recipe.write(store.root)
        reached = (key for video in recipe.videos for key in chain.keys(recipe, video).values())
        record_run(store, recipe.digest, reached)
        return recipe

    def _served(self, given: Mapping[str, str], store: Store) -> bool:
        """Whether a cache that cannot be written to holds all that the run needs of it."""
        try:
            return store.root.is_dir() and chain.served(self._recipe(given, store.root), store)
        except UserError:
            return False

    def _recipe(self, given: Mapping[str, str], root: Path) -> Recipe:
        options = Options(
            dataset=self.dataset,
            root=self.root,
            split=self.split,
            masks=self.masks,
            videos=tuple(filter(None, self.videos.split(","))),
            weights=self.weights,
            device=self.device,
            settings=override(configured(), given),
            reading=Reading(**{item.name: getattr(self, item.name) for item in fields(Reading)}),
        )
        return plan_run(options, root)

    def folder(self, recipe: Recipe) -> Path:
        """The output folder."""
        name = f"{recipe.dataset}-{recipe.split}-{recipe.settings.run.variant}"
        return Path(self.output or f"runs/{name}").absolute()


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

    weights_for = luigi.Parameter(
        default="", description="weights of single runs: remp-no-attention=FILE,msk-online=FILE"
    )

    def offline(self, *variants: str) -> dict[str, tuple[str, str]]:
        """Variant and weights by the run's name, here the variant's."""
        baseline = self.msk_weights or self.weights
        return {
            name: (name, baseline if VARIANTS[name].baseline else self.weights) for name in variants
        }

    def plan_runs(self, wanted: Mapping[str, tuple[str, str]]) -> Planned:
        """Plan runs, each a variant with its weights; what lacks a module is left out.

        UserError if none is left, or --weights-for names another run.
        """
        recipes: dict[str, Recipe] = {}
        left_out: dict[str, str] = {}
        own = self._own_weights(wanted)
        for name, (variant, weights) in wanted.items():
            # plan() reads the weights from its task.
            task = copy.copy(self)
            task.weights = own.get(name, weights)
            try:
                recipes[name] = task.plan(single(self.assignments()) | {"run.variant": variant})
            except LacksModules as error:
                left_out[name] = str(error)
        if not recipes:
            raise LacksModules(next(iter(left_out.values())))
        return Planned(recipes, left_out)

    def _own_weights(self, runs: Collection[str]) -> dict[str, str]:
        """--weights-for by run."""
        own: dict[str, str] = {}
        for part in filter(None, self.weights_for.split(",")):
            name, _, weights = part.partition("=")
            if name not in runs or not weights:
                raise UserError(f"--weights-for {part}: give RUN=FILE; runs are {', '.join(runs)}")
            own[name] = weights
        return own
