"""Options that the tasks share, and the plan of a run made from them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import luigi

from cache.files import CacheError, readable, reporting
from cache.holds import hold
from cache.prune import record_run, sweep
from cache.store import Store
from pipeline.commands import engine
from pipeline.datasets import LAYOUTS
from pipeline.datasets.reading import FORMS, TURNS, Reading
from pipeline.errors import MENDABLE, UserError
from pipeline.plan import chain
from pipeline.plan.inputs import LacksModules, Options, cache_root, plan_run
from pipeline.plan.options import KEEP, RESULTS, SHARED
from pipeline.plan.recipe import Recipe
from pipeline.plan.settings import OPTIONS, configured, gather, override, single
from pipeline.plan.settled import served
from pipeline.plan.variants import VARIANTS


class SetParameter(luigi.Parameter):
    """--set name=value, repeated or joined with commas."""

    def _parser_kwargs(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super()._parser_kwargs(*args, **kwargs), "action": "append"}

    def parse(self, x: str | Sequence[str]) -> tuple[str, ...]:
        return self.normalize(x)

    def normalize(self, x: str | Sequence[str]) -> tuple[str, ...]:
        return (x,) if isinstance(x, str) else tuple(x)

    def serialize(self, x: Sequence[str]) -> str:
        return ",".join(x)


def parameter(name: str) -> luigi.Parameter:
    """The Luigi parameter of an option that `dyenet` takes too."""
    option = SHARED[name]
    kind = luigi.OptionalParameter if option.default is None else luigi.Parameter
    return kind(default=option.default, description=option.help)


class DatasetOptions(engine.Command):
    """Options that every task over a dataset takes."""

    dataset = luigi.Parameter(
        default=SHARED["dataset"].default, description=f"one of {', '.join(LAYOUTS)}"
    )
    root = parameter("root")
    split = parameter("split")
    videos = parameter("videos")
    profile = parameter("profile")
    weights = parameter("weights")
    rho_reid = parameter("rho_reid")
    max_iterations = parameter("max_iterations")
    set = SetParameter(default=(), description="name=value, any of docs/settings.md")
    precision = parameter("precision")
    device = parameter("device")
    masks = luigi.OptionalParameter(
        default=None, description="of a clip: its first mask, or a folder of masks named by frame"
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
        return gather(self.set, {name: getattr(self, name, None) for name in OPTIONS})

    def options(self, given: Mapping[str, str], weights: str | None = None) -> Options:
        """What was asked for, with the settings given; weights: in place of --weights."""
        return Options(
            dataset=self.dataset,
            root=self.root,
            split=self.split,
            masks=self.masks,
            videos=tuple(filter(None, self.videos.split(","))),
            weights=weights or self.weights,
            device=self.device,
            settings=override(configured(), given),
            reading=Reading(**{item.name: getattr(self, item.name) for item in fields(Reading)}),
        )

    def plan(self, given: Mapping[str, str], weights: str | None = None) -> Recipe:
        """Digest the sources and write the recipe of a run; arguments as of options()."""
        store, options = Store(cache_root()), self.options(given, weights)
        try:
            store.check_writable()
        except CacheError:
            if not _served(options, store):
                raise
        recipe = plan_run(options, store.root)
        recipe.write(store.root)
        hold(store.root, recipe.digest)
        sweep(store)
        plans = (chain.planned(store.root, recipe.digest, video) for video in recipe.videos)
        record_run(store, recipe.digest, (spec.key for plan in plans for spec in plan.values()))
        # Luigi hands out one instance for the same options; the next one asked for must see the
        # sources as they are then.
        luigi.Task.clear_instance_cache()
        return recipe


def _served(options: Options, store: Store) -> bool:
    """Whether a cache that cannot be written to holds all that the run needs of it."""
    try:
        return store.root.is_dir() and served(plan_run(options, store.root), store)
    except MENDABLE:
        return False


class RunOptions(DatasetOptions):
    """Options of a task that runs one variant."""

    variant = parameter("variant")
    keep = luigi.Parameter(
        default=KEEP["keep"].default, significant=False, description=KEEP["keep"].help
    )
    _said = False

    def folder(self, recipe: Recipe) -> Path:
        """The output folder."""
        name = f"{recipe.dataset}-{recipe.split}-{recipe.settings.run.variant}"
        return Path(self.output or f"runs/{name}").absolute()

    def say_cost_unless(self, done: bool, recipes: Sequence[Recipe]) -> bool:
        """`done`; where it is not, say once what the runs will add to the cache.

        Also whether the disk has less room than that: an estimate stops no run.
        """
        if not done and not self._said:
            self._said = True
            self._say_cost(recipes)
        return done

    def _say_cost(self, recipes: Sequence[Recipe]) -> None:
        from pipeline.plan.cost import cost
        from pipeline.run.progress import begin

        store = Store(cache_root())
        costs = cost(recipes, store)
        begin(costs)
        if not (found := costs.values()):
            return
        staying, passing = sum(c.staying for c in found), [c.passing for c in found]
        most = staying + (max(passing) if self.keep == RESULTS else sum(passing))
        said = f"cache: about {readable(most)} for {sum(c.frames for c in found)} frames"
        if self.keep == RESULTS:
            said += f", of which {readable(staying)} stay"
        print(said, flush=True)
        with reporting(store.root):
            free = shutil.disk_usage(store.root).free
        if free < most:
            print(
                f"WARNING: {store.root} has room for {readable(free)}; free space there (dyenet "
                f"prune), add --keep {RESULTS}, or choose another folder in DYENET_CACHE",
                file=sys.stderr,
            )


@dataclass(frozen=True)
class Planned:
    """Runs by name."""

    recipes: Mapping[str, Recipe]
    left_out: Mapping[str, str]
    """why a run that was wanted cannot be: its weights lack a module"""


COUNTED = {"run.retrieval": "always"}
"""the tables of the paper count the starting points of every video"""


class VariantOptions(DatasetOptions):
    """Options of a task that runs several variants."""

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
            given = {**COUNTED, **single(self.assignments()), "run.variant": variant}
            try:
                recipes[name] = self.plan(given, own.get(name, weights))
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
