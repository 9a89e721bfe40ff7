"""The chain of artifacts that a video needs, and the key of each.

The key of an artifact is a digest of all that its bytes depend on and of nothing else: device,
batch and wave size, worker count and paths stay outside.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import cache.keys
from cache.store import Store
from pipeline.plan.recipe import Recipe, read
from pipeline.plan.settings import RunSettings


@dataclass(frozen=True)
class Spec:
    """One artifact of a video: all that its bytes depend on, and what it reads."""

    stage: str
    iteration: int
    """from 1; 0 for a stage that runs once"""
    content: Mapping[str, Any]
    reads: tuple[str, ...]
    """labels of the artifacts that its task reads"""
    modules: tuple[str, ...]
    """networks that its task runs"""

    @cached_property
    def key(self) -> str:
        """What the artifact is found by."""
        return cache.keys.key(self.content)


@lru_cache(maxsize=4096)
def planned(cache_root: Path, run_digest: str, video: str) -> Mapping[str, Spec]:
    """artifacts_of() by the recipe's short digest."""
    return artifacts_of(read(cache_root, run_digest), video)


def final(plan: Mapping[str, Spec]) -> str:
    """Label of the masks that a run ends with."""
    return [name for name, spec in plan.items() if spec.stage in ("tubes", "msk")][-1]


def export_keys(plan: Mapping[str, Spec]) -> dict[str, str]:
    """Key, by label, of all that a video's exported files are made from."""
    name = final(plan)
    return {name: plan[name].key}


def report_labels(plan: Mapping[str, Spec]) -> tuple[str, ...]:
    """Labels of what a report reads of a video."""
    tracklets = [name for name, spec in plan.items() if spec.stage == "tracklets"]
    every = [name for name, spec in plan.items() if spec.stage in ("matches", "scores")]
    return (final(plan), *tracklets[-1:], *every)


def served(recipe: Recipe, store: Store) -> bool:
    """Whether the cache holds all that a report reads: nothing is to be computed or written."""
    return all(
        store.exists(plan[name].stage, recipe.dataset, video, plan[name].key)
        for video in recipe.videos
        for plan in [artifacts_of(recipe, video)]
        for name in report_labels(plan)
    )


def label(stage: str, iteration: int = 0) -> str:
    """`tubes(2)`, or the stage alone where it runs once."""
    return f"{stage}({iteration})" if iteration else stage


def keys(recipe: Recipe, video: str) -> dict[str, str]:
    """Key of every artifact of a video by label (docs/design.md, What flows)."""
    return {name: spec.key for name, spec in artifacts_of(recipe, video).items()}


def artifacts_of(recipe: Recipe, video: str) -> dict[str, Spec]:
    """Every artifact of a video by label, in the order in which they are made.

    The table of docs/design.md (What flows) says the same in words.
    """
    settings = recipe.settings
    chain = Chain(recipe, video)
    chain.add("frames", sources=["images", "first_masks", "annotations"])
    chain.add(
        "flow",
        settings=settings.frames.keyed() | asdict(settings.flow),
        sources=["images"],
        numerics=flow_numerics(settings.flow.method),
        also=["frames"],
    )
    if settings.variant.baseline:
        chain.add(
            "msk",
            inputs=["flow"],
            sources=["images", "first_masks"],
            modules=["msk"],
            also=["frames"],
        )
        chain.score("msk", [])
    else:
        _add_dyenet(chain, settings)
    return chain.specs


def _add_dyenet(chain: Chain, settings: RunSettings) -> None:
    """Re-ID and Re-MP in turn; without retrieval, Re-MP from the given masks alone."""
    retrieval, remp = settings.variant.retrieval, settings.variant.remp
    chain.add(
        "features",
        settings=settings.frames.keyed(),
        sources=["images"],
        modules=["trunk"],
        also=["frames"],
    )
    if retrieval:
        chain.add(
            "proposals",
            settings=asdict(settings.proposals),
            inputs=["features"],
            modules=["rpn"],
            also=["frames"],
        )
        chain.add("embeddings", inputs=["features", "proposals"], modules=["reid"])
        chain.add(
            "search",
            settings=asdict(settings.search),
            inputs=["features"],
            sources=["first_masks"],
            modules=["reid"],
            also=["frames"],
        )
        chain.add(
            "evidence",
            inputs=["features", "proposals", "embeddings", "search"],
            sources=["first_masks"],
            modules=["mask", "reid", remp],
            also=["frames"],
        )
    boxes = ["proposals", "embeddings", "search", "evidence"] if retrieval else []
    for k in range(1, settings.iterations + 1):
        before = [label("tubes", k - 1), label("tracklets", k - 1)] if k > 1 else []
        converged = [label("matches", i) for i in range(max(1, k - 1), k + 1)]
        skip = {"skip_iou": settings.tracklets.skip_iou}
        chain.add(
            "matches",
            k,
            settings={**settings.matches.keyed(), **skip} if retrieval else {},
            inputs=["features", *boxes, *before],
            sources=["first_masks"],
            modules=["mask", "reid"] if retrieval else [remp],
            also=[
                "frames",
                *converged[:-1],
                *(label("tubes", i) for i in settings.matches.offering(k)),
            ],
        )
        chain.add(
            "tracklets",
            k,
            settings=asdict(settings.tracklets),
            inputs=[label("matches", k), *before[1:], "features", "flow"],
            modules=[remp],
        )
        chain.add(
            "tubes",
            k,
            settings=asdict(settings.tubes),
            inputs=[label("tracklets", k)],
            sources=["first_masks"],
            also=["frames", *converged, *before[:1]],
        )
        chain.score(label("tubes", k), [label("matches", i) for i in range(1, k + 1)])


class Chain:
    """Collects the artifacts of one video."""

    def __init__(self, recipe: Recipe, video: str) -> None:
        self.dataset = recipe.dataset
        self.precision = recipe.settings.run.precision
        self.video = recipe.videos[video]
        self.specs: dict[str, Spec] = {}

    def add(
        self,
        stage: str,
        iteration: int = 0,
        *,
        settings: Mapping[str, Any] | None = None,
        inputs: Sequence[str] = (),
        sources: Sequence[str] = (),
        modules: Sequence[str] = (),
        numerics: Mapping[str, Any] | None = None,
        also: Sequence[str] = (),
    ) -> None:
        """Add an artifact; `also` is read besides, but already in the key by other parts."""
        content = {
            "stage": stage,
            "iteration": iteration,
            "version": version(stage),
            "schema": schema_version(stage),
            "settings": settings or {},
            "inputs": {name: self.specs[name].key for name in inputs},
            "sources": {name: getattr(self.video, name) for name in sources},
            "weights": {name: self.video.modules[name] for name in modules},
            "numerics": numerics or ({"precision": self.precision} if modules else {}),
        }
        reads = tuple(dict.fromkeys([*inputs, *also]))
        spec = Spec(stage, iteration, content, reads, tuple(modules))
        self.specs[label(stage, iteration)] = spec

    def score(self, masks: str, matches: Sequence[str]) -> None:
        """Scores of one iteration, where there are annotations; matches: of those so far."""
        k = max(1, len(matches))
        if self.video.annotations is not None:
            self.add(
                "scores",
                k,
                settings={"dataset": self.dataset},
                inputs=[masks],
                sources=["first_masks", "annotations"],
                also=[*matches, *([label("scores", k - 1)] if k > 1 else [])],
            )


@functools.cache
def version(stage: str) -> int:
    """VERSION of a stage's module, read without running it (it would import torch)."""
    source = Path(__file__).parents[2] / "stages" / f"{stage}.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSION":
            return int(ast.literal_eval(node.value))
    raise ValueError(f"{source.name} has no VERSION")


@functools.cache
def schema_version(stage: str) -> int:
    """Version of an artifact's table."""
    from cache.schemas import SCHEMAS

    return SCHEMAS[stage].version


@functools.cache
def flow_numerics(method: str) -> dict[str, str]:
    """What flow depends on besides its settings: DIS differs between versions of OpenCV."""
    if method == "dis":
        import cv2

        return {"opencv": cv2.__version__}
    from importlib.metadata import version as installed

    return {"torchvision": installed("torchvision")}
