"""What a person starts: a whole dataset, or a sweep over settings.

luigi --module pipeline RunDataset --local-scheduler
luigi --module pipeline SweepThreshold --rho-reid-values 0.9,0.8,0.7,0.6 --local-scheduler
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import luigi

from cache.prune import record_run
from cache.store import Store
from pipeline.commands import engine
from pipeline.errors import UserError
from pipeline.plan import inputs as runs
from pipeline.plan import recipe as recipes
from pipeline.plan.inputs import Options, cache_root
from pipeline.plan.recipe import Recipe
from pipeline.plan.settings import (
    OPTIONS,
    configured,
    gather,
    override,
    parse,
    parse_set,
    run_name,
    single,
)
from pipeline.run.stages import Report


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

    dataset = luigi.Parameter(
        default="demo",
        description="demo, davis16, davis17, segtrackv2, youtube-objects or folder",
    )
    root = luigi.OptionalParameter(default=None, description="folder of the dataset")
    split = luigi.Parameter(default="val", description="split of the dataset")
    videos = luigi.Parameter(default="", description="only these videos: a,b")
    variant = luigi.OptionalParameter(
        default=None, description="dyenet, remp, remp-no-attention or msk; default dyenet"
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
    output = luigi.OptionalParameter(
        default=None, description="default runs/<dataset>-<split>-<variant>"
    )

    def assignments(self) -> dict[str, tuple[str, ...]]:
        """Settings given to the task, each with its values."""
        return gather(self.set, {name: getattr(self, name) for name in OPTIONS})

    def plan(self, given: Mapping[str, str]) -> Recipe:
        """Digest the sources and write the recipe of a run with the settings given."""
        root = cache_root()
        Store(root).check_writable()
        options = Options(
            dataset=self.dataset,
            root=self.root,
            split=self.split,
            masks=self.masks,
            videos=tuple(filter(None, self.videos.split(","))),
            weights=self.weights,
            device=self.device,
            settings=override(configured(), given),
        )
        recipe = runs.plan(options, root)
        recipe.write(root)
        reached = (key for video in recipe.videos for key in recipes.keys(recipe, video).values())
        record_run(Store(root), recipe.digest, reached)
        return recipe

    def folder(self, recipe: Recipe) -> Path:
        """The output folder."""
        name = f"{recipe.dataset}-{recipe.split}-{recipe.settings.run.variant}"
        return Path(self.output or f"runs/{name}").absolute()


class RunDataset(DatasetOptions, luigi.WrapperTask):
    """Segment every video of a split, score it and write the report."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with engine.command():
            self.recipe = self.plan(single(self.assignments()))
            if engine.commanded() and self.complete():
                print(f"nothing to do: {self.folder(self.recipe)} is up to date", flush=True)

    def requires(self) -> dict[str, luigi.Task]:
        folder = str(self.folder(self.recipe))
        return {"report": Report(recipe=self.recipe.digest, folder=folder)}


class SweepThreshold(DatasetOptions, luigi.Task):
    """Run a dataset with several values of rho_reid, or of any settings, and compare.

    Writes OUT/sweep.csv, a row for each combination of values and each iteration
    (pipeline.reports.sweep), and OUT/sweep.html. The run of a combination is in its own folder
    below OUT. Whatever they share is computed once.
    """

    rho_reid_values = luigi.Parameter(default="", description="for example 0.9,0.8,0.7,0.6")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with engine.command():
            given = self.assignments()
            if self.rho_reid_values:
                given |= parse_set(f"matches.rho_reid={self.rho_reid_values}")
            self.swept = [name for name, values in given.items() if len(values) > 1]
            if not self.swept:
                raise UserError(
                    "nothing to sweep: give several values as --rho-reid-values 0.9,0.7"
                )
            combined = itertools.product(*given.values())
            settings = [dict(zip(given, values, strict=True)) for values in combined]
            self.values = {run_name(swept): swept for swept in map(self._swept, settings)}
            self.recipes = {run_name(self._swept(values)): self.plan(values) for values in settings}
            if engine.commanded() and self.complete():
                print(f"nothing to do: {self.top} is up to date", flush=True)

    def _swept(self, values: Mapping[str, str]) -> dict[str, Any]:
        """The settings that vary, with their values in one run."""
        return {name: parse(name, values[name]) for name in self.swept}

    @property
    def top(self) -> Path:
        """Folder of the sweep."""
        folder = self.folder(next(iter(self.recipes.values())))
        return folder if self.output else folder.with_name(f"{folder.name}-sweep")

    @property
    def reports(self) -> list[Report]:
        """The runs, in the order of their values."""
        return [
            Report(recipe=recipe.digest, folder=str(self.top / name))
            for name, recipe in self.recipes.items()
        ]

    def complete(self) -> bool:
        written = self.top / "sweep.csv"
        if not (written.exists() and (self.top / "sweep.html").exists()):
            return False
        runs_done = all(report.complete() for report in self.reports)
        return runs_done and written.read_text(encoding="utf-8") == self.table()

    def table(self) -> str:
        """sweep.csv (pipeline.reports.sweep)."""
        from pipeline.reports import join_sweep

        folders = {self.top / name: swept for name, swept in self.values.items()}
        return join_sweep(folders).to_csv(index=False, lineterminator="\n")

    def run(self) -> Generator[Report, Any, None]:
        # One value after the other: runs at the same time would each propagate what they share.
        for report in self.reports:  # noqa: UP028 - Luigi sends to the generator
            yield report
        from pipeline.pages.sweep import sweep_html
        from pipeline.results.scores import write_text

        write_text(self.top / "sweep.csv", self.table())
        print(f"sweep: {sweep_html(self.top)}", flush=True)
