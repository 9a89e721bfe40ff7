"""A sweep over settings: one run for each combination of their values, side by side.

luigi --module pipeline SweepThreshold --rho-reid-values 0.9,0.8,0.7,0.6 --local-scheduler
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import luigi

from cache.holds import release
from pipeline.commands import engine
from pipeline.commands.dataset import Report
from pipeline.commands.options import DatasetOptions, KeepOption
from pipeline.errors import UserError
from pipeline.plan.inputs import cache_root
from pipeline.plan.settings import parse, parse_set, run_name


class SweepThreshold(KeepOption, DatasetOptions, luigi.Task):
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
            if engine.commanded():
                if self.complete():
                    print(f"nothing to do: {self.top} is up to date", flush=True)
                else:
                    self.tell_cost(list(self.recipes.values()))

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
            Report(run_digest=recipe.digest, folder=str(self.top / name), keep=self.keep)
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
        for report in self.reports:
            yield report
            # With --keep results a later value may remove what only this one still held.
            release(cache_root(), report.run_digest)
        from pipeline.pages.sweep import sweep_html
        from pipeline.results.files import write_text

        write_text(self.top / "sweep.csv", self.table())
        print(f"sweep: {sweep_html(self.top)}", flush=True)
