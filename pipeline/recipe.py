"""Recipes and keys: what a run was asked for, and the name of every artifact it makes.

A recipe is written to `<cache root>/recipes/<digest>.json` before anything is scheduled,
so that a worker on another machine can rebuild any task from a short digest. The key of
an artifact is a digest of all that its bytes depend on and of nothing else: device,
batch and wave size, worker count and paths stay outside.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import cache.keys
from cache.files import write_file
from pipeline.errors import UserError
from pipeline.settings import RunSettings

NEEDS: dict[str, tuple[str, ...]] = {
    "dyenet": ("trunk", "rpn", "mask", "reid", "remp"),
    "remp": ("trunk", "remp"),
    "remp-no-attention": ("trunk", "remp_plain"),
    "msk": ("msk",),
}
"""modules of the weights file that each variant runs"""


@dataclass(frozen=True)
class VideoRecipe:
    """What one video is made from."""

    images: str
    """digest of the names and bytes of the frames"""
    first_masks: str
    annotations: str | None
    weights: str
    """path; enters no key"""
    modules: Mapping[str, str]
    """digest of each module in the weights file"""


@dataclass(frozen=True)
class Recipe:
    """Everything a run was asked for."""

    dataset: str
    root: str | None
    split: str
    masks: str | None
    """file or folder of the first masks where the layout does not fix it"""
    device: str
    settings: RunSettings
    videos: Mapping[str, VideoRecipe]

    @cached_property
    def digest(self) -> str:
        """Short digest by which tasks name their recipe."""
        return cache.keys.short(cache.keys.key(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def write(self, cache_root: Path) -> None:
        """Put the recipe where every worker finds it; whole or not at all."""
        path = _path(cache_root, self.digest)
        if path.exists():
            return
        try:
            write_file(path, json.dumps(self.to_dict(), indent=1, sort_keys=True).encode())
        except OSError as error:
            raise UserError(
                f"cache root {cache_root}: cannot write to it ({error.strerror}); give another "
                "folder in DYENET_CACHE or as [cache] root in luigi.cfg"
            ) from error


@lru_cache(maxsize=32)
def read(cache_root: Path, recipe: str) -> Recipe:
    """A recipe by its short digest; UserError if the cache root holds none."""
    try:
        stored = json.loads(_path(cache_root, recipe).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cache root {cache_root}: holds no recipe {recipe} ({error})") from error
    stored["settings"] = RunSettings.from_dict(stored["settings"])
    stored["videos"] = {name: VideoRecipe(**video) for name, video in stored["videos"].items()}
    return Recipe(**stored)


def _path(cache_root: Path, recipe: str) -> Path:
    return cache_root / "recipes" / f"{recipe}.json"


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
def planned(cache_root: Path, recipe: str, video: str) -> Mapping[str, Spec]:
    """plan() by the recipe's short digest."""
    return plan(read(cache_root, recipe), video)


def final(plan: Mapping[str, Spec]) -> str:
    """Label of the masks that a run ends with."""
    return [name for name, spec in plan.items() if spec.stage in ("tubes", "msk")][-1]


def shown(plan: Mapping[str, Spec]) -> dict[str, str]:
    """Key, by label, of all that a video's exported files are made from."""
    name = final(plan)
    return {name: plan[name].key}


def reported(plan: Mapping[str, Spec]) -> tuple[str, ...]:
    """Labels of what a report reads of a video."""
    tracklets = [name for name, spec in plan.items() if spec.stage == "tracklets"]
    every = [name for name, spec in plan.items() if spec.stage in ("matches", "scores")]
    return (final(plan), *tracklets[-1:], *every)


def label(stage: str, iteration: int = 0) -> str:
    """`tubes(2)`, or the stage alone where it runs once."""
    return f"{stage}({iteration})" if iteration else stage


def keys(recipe: Recipe, video: str) -> dict[str, str]:
    """Key of every artifact of a video by label (docs/design.md, Keys)."""
    return {name: spec.key for name, spec in plan(recipe, video).items()}


def plan(recipe: Recipe, video: str) -> dict[str, Spec]:
    """Every artifact of a video by label, in the order in which they are made.

    This is section 2 of docs/design.md: what each stage reads and what enters its key.
    """
    settings = recipe.settings
    chain = Chain(recipe, video)
    chain.add("frames", sources=["images", "first_masks", "annotations"])
    chain.add(
        "flow",
        settings=asdict(settings.frames) | asdict(settings.flow),
        sources=["images"],
        numerics=flow_numerics(settings.flow.method),
        also=["frames"],
    )
    if settings.run.variant == "msk":
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
    retrieval = settings.run.variant == "dyenet"
    remp = "remp_plain" if settings.plain else "remp"
    chain.add(
        "features",
        settings=asdict(settings.frames),
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
    source = Path(__file__).parents[1] / "stages" / f"{stage}.py"
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
