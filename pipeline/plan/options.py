"""Options that `luigi` and `dyenet` share: their names, defaults and help, written once."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.plan.profiles import EXTENDED, PROFILES
from pipeline.plan.variants import FULL, VARIANTS


@dataclass(frozen=True)
class Option:
    """One option of a command line; without a default it may be left out."""

    help: str
    default: str | None = None


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
