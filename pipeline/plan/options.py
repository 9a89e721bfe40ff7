"""Options that `luigi` and `dyenet` share: their names, defaults and help, written once."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, NoReturn

from pipeline.errors import meant, one_of
from pipeline.plan.profiles import EXTENDED, PROFILES
from pipeline.plan.variants import FULL, VARIANTS


@dataclass(frozen=True)
class Option:
    """One option of a command line; without a default it may be left out."""

    help: str
    default: str | None = None


class Parser(argparse.ArgumentParser):
    """One that answers what it does not know in one line, with the nearest word."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # A subcommand would leave what it does not know to the parser that calls it.
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown[0].partition("=")[0]))
        return found, unknown

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{word}: one word too many"
        return f"{word}: no such option; {meant(word, self._option_string_actions)}".rstrip("; ")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value}: {one_of(value, action.choices)}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"ERROR: {message} ({self.prog} --help lists all)\n")


DATASET = {
    "dataset": Option("a dataset, by the name that RunDataset gives it", "demo"),
    "root": Option("folder of the dataset"),
    "split": Option("split of the dataset", "val"),
}
"""which dataset"""
VIDEOS = {"videos": Option("only these videos: a,b", "")}
RUN = {
    "variant": Option(f"one of {', '.join(VARIANTS)}; default {FULL}"),
    "profile": Option(f"settings by name: {' or '.join(PROFILES)}; default {EXTENDED}"),
    "weights": Option(
        "compact, a .safetensors file, or a folder of <video>.safetensors", "compact"
    ),
    "rho_reid": Option("similarity above which a proposal is kept; default 0.7"),
    "max_iterations": Option("rounds of retrieval and propagation; default 4"),
    "precision": Option("auto, bf16 or fp32; default auto"),
    "device": Option("auto, cpu or cuda", "auto"),
}
"""how it is run"""
ALL, RESULTS = "all", "results"
KEEP = {
    "keep": Option(
        "all, or results: features, flow and boxes of a video leave the cache once it is exported",
        ALL,
    )
}
"""what a run leaves in the cache"""
SHARED = DATASET | VIDEOS | RUN
