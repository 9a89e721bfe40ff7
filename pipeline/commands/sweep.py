"""A sweep over settings: one run for each combination of their values, side by side.

luigi --module pipeline SweepThreshold --rho-reid-values 0.9,0.8,0.7,0.6 --local-scheduler
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import luigi

from cache.holds import release
from pipeline.commands import engine
from pipeline.commands.dataset import Report, report_of
from pipeline.commands.options import RunOptions
from pipeline.errors import UserError
from pipeline.plan.inputs import cache_root
from pipeline.plan.recipe import Recipe
from pipeline.plan.settings import parse, parse_set, run_name

if TYPE_CHECKING:
    from pipeline.results.made import Ledger

FILES = "sweep.csv", "sweep.html"
PAGES = 1
"""version of FILES; a new number writes them anew"""


class SweptRun(NamedTuple):
    """One combination of values."""

    swept: Mapping[str, Any]
    """the settings that vary, with their values in this run"""
    recipe: Recipe


class SweepThreshold(RunOptions, luigi.Task):
    """Run a dataset with several values of rho_reid, or of any settings, and compare.

    Writes OUT/sweep.csv, a row for each combination of values and each iteration
    (pipeline.reports.sweep), and OUT/sweep.html. The run of a combination is in its own folder
    below OUT. Whatever they share is computed once.
    """

    rho_reid_values = luigi.Parameter(default="", description="for example 0.9,0.8,0.7,0.6")

    @cached_property
    @engine.command()
    def runs(self) -> dict[str, SweptRun]:
        """The runs by name, in the order of their values; planned when they are first asked for."""
        given = self.assignments()
        if self.rho_reid_values:
            given |= parse_set(f"matches.rho_reid={self.rho_reid_values}")
        several = [name for name, values in given.items() if len(values) > 1]
        if not several:
            raise UserError("nothing to sweep: give several values as --rho-reid-values 0.9,0.7")
        combined = [
            dict(zip(given, values, strict=True)) for values in itertools.product(*given.values())
        ]
        swept = [{name: parse(name, values[name]) for name in several} for values in combined]
        return {
            run_name(varied): SweptRun(varied, self.plan(values))
            for varied, values in zip(swept, combined, strict=True)
        }

    @property
    def top(self) -> Path:  # type: ignore[override]
        """Folder of the sweep."""
        folder = self.folder(next(iter(self.runs.values())).recipe)
        return folder if self.output else folder.with_name(f"{folder.name}-sweep")

    @cached_property
    @engine.command()
    def reports(self) -> list[Report]:
        """The runs, in the order of their values."""
        return [
            report_of(run.recipe, self.top / name, self.keep) for name, run in self.runs.items()
        ]

    def complete(self) -> bool:
        return self.say_cost_unless(self._done(), [run.recipe for run in self.runs.values()])

    def _done(self) -> bool:
        if not self._ledger().whole(PAGES):
            return False
        written = self.top / FILES[0]
        runs_done = all(report.complete() for report in self.reports)
        return runs_done and written.read_text(encoding="utf-8") == self.table()

    def table(self) -> str:
        """sweep.csv (pipeline.reports.sweep)."""
        from pipeline.reports import join_sweep

        folders = {self.top / name: run.swept for name, run in self.runs.items()}
        return join_sweep(folders).to_csv(index=False, lineterminator="\n")

    def run(self) -> Generator[luigi.Task, Any, None]:
        # One value after the other: runs at the same time would each propagate what they share.
        for report in self.reports:
            yield report
            # With --keep results a later value may remove what only this one still held.
            release(cache_root(), report.run_digest)
        from pipeline.pages.sweep import sweep_html
        from pipeline.results.files import write_text

        self._ledger().begin(FILES, known=FILES)
        write_text(self.top / FILES[0], self.table())
        page = sweep_html(self.top)
        self._ledger().finish(FILES, PAGES)
        print(f"sweep: {page}", flush=True)

    def _ledger(self) -> Ledger:
        """What was written of the sweep as a whole."""
        from pipeline.results.made import SWEEP, Ledger

        return Ledger(self.top, SWEEP)
