"""The chain of artifacts that a video needs, and the key of each.

The key of an artifact is a digest of all that its bytes depend on and of nothing else: device,
batch and wave size, worker count and paths stay outside.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import cache.keys
from pipeline.plan.recipe import Recipe, VideoRecipe, read
from pipeline.plan.settings import RunSettings
from pipeline.plan.variants import Variant
from stages.flow_methods import METHODS

# --- the stages --------------------------------------------------------------------


@dataclass(frozen=True)
class Of:
    """Artifacts of a stage that runs in every iteration, as a row of iteration k names them."""

    stage: str
    iterations: Callable[[int, RunSettings], range]
    """which are meant, by k"""


def now(stage: str) -> Of:
    """Of the same iteration."""
    return Of(stage, lambda k, _: range(k, k + 1))


def before(stage: str) -> Of:
    """Of the iteration before; the first has none."""
    return Of(stage, lambda k, _: range(max(1, k - 1), k))


def so_far(stage: str) -> Of:
    """Of this iteration and all before it."""
    return Of(stage, lambda k, _: range(1, k + 1))


OFFERING = Of("tubes", lambda k, settings: settings.matches.offering(k))
"""tubes whose boxes become templates (section 3.3)"""
REMP = attrgetter("remp")
"""the Re-MP module of the variant"""
DATASET = "dataset"
"""the dataset's name, among settings"""
BOXES = ("proposals", "embeddings", "search", "evidence")
"""what retrieval chooses from"""
PASSING = ("features", "flow", *BOXES)
"""what a run needs no more once the masks of a video are final"""
SECONDS = {
    "features": 0.8,
    "flow": 0.35,
    "tracklets": 0.2,
    "msk": 0.2,
    "search": 0.1,
    "evidence": 0.2,
    "proposals": 0.09,
    "embeddings": 0.09,
    "tubes": 0.03,
    "matches": 0.02,
    "scores": 0.02,
}
"""a frame of 480p by stage, on one core: what matters is their proportion, for the time left"""


@dataclass(frozen=True)
class StageRow:
    """A stage: what its artifacts are made from, which is their key, and what else it reads."""

    stage: str
    settings: tuple[str, ...] = ()
    """sections of the run's settings, single settings of them, or DATASET"""
    inputs: tuple[str | Of, ...] = ()
    """artifacts that it is made from"""
    sources: tuple[str, ...] = ()
    """fields of VideoRecipe"""
    modules: tuple[str | Callable[[Variant], str], ...] = ()
    """networks that it runs, by name or by the variant"""
    also: tuple[str | Of, ...] = ()
    """artifacts that it reads besides: other parts of the key follow from them, or fix them"""
    numerics: Callable[[RunSettings], Mapping[str, Any]] = lambda settings: {}
    """what its arithmetic depends on; the precision where it runs a network"""
    when: Callable[[Variant], bool] = lambda variant: True
    """variants that have it"""
    scored: bool = False
    """whether it needs annotations of the video"""


RETRIEVAL = attrgetter("retrieval")
GIVEN_ONLY = attrgetter("given_only")
BASELINE = attrgetter("baseline")


def not_baseline(variant: Variant) -> bool:
    """Whether a variant runs networks of ours."""
    return not variant.baseline


ONCE = (
    StageRow("frames", sources=("images", "first_masks", "annotations")),
    StageRow(
        "flow",
        settings=("frames", "flow"),
        sources=("images",),
        numerics=lambda settings: METHODS[settings.flow.method].libraries(),
        also=("frames",),
    ),
    StageRow(
        "msk",
        inputs=("flow",),
        sources=("images", "first_masks"),
        modules=("msk",),
        also=("frames",),
        when=BASELINE,
    ),
    StageRow(
        "features",
        settings=("frames",),
        sources=("images",),
        modules=("trunk",),
        also=("frames",),
        when=not_baseline,
    ),
    StageRow(
        "proposals",
        settings=("proposals",),
        inputs=("features",),
        modules=("rpn",),
        also=("frames",),
        when=RETRIEVAL,
    ),
    StageRow("embeddings", inputs=("features", "proposals"), modules=("reid",), when=RETRIEVAL),
    StageRow(
        "search",
        settings=("search",),
        inputs=("features",),
        sources=("first_masks",),
        modules=("reid",),
        also=("frames",),
        when=RETRIEVAL,
    ),
    StageRow(
        "evidence",
        inputs=("features", "proposals", "embeddings", "search"),
        sources=("first_masks",),
        modules=("mask", "reid", REMP),
        also=("frames",),
        when=RETRIEVAL,
    ),
)
"""stages that run once a video"""
EVERY_ITERATION = (
    StageRow(
        "matches",
        settings=("matches", "tracklets.skip_iou", "tracklets.cuts"),
        inputs=("features", *BOXES, before("tubes"), before("tracklets")),
        sources=("first_masks",),
        modules=("mask", "reid"),
        also=("frames", before("matches"), OFFERING),
        when=RETRIEVAL,
    ),
    StageRow(
        "matches",
        inputs=("features",),
        sources=("first_masks",),
        modules=(REMP,),
        also=("frames",),
        when=GIVEN_ONLY,
    ),
    StageRow(
        "tracklets",
        settings=("tracklets",),
        inputs=(now("matches"), before("tracklets"), "features", "flow"),
        modules=(REMP,),
        when=not_baseline,
    ),
    StageRow(
        "tubes",
        settings=("tubes",),
        inputs=(now("tracklets"),),
        sources=("first_masks",),
        also=("frames", before("matches"), now("matches"), before("tubes")),
        when=not_baseline,
    ),
    StageRow(
        "scores",
        settings=(DATASET,),
        inputs=(now("tubes"),),
        sources=("first_masks", "annotations"),
        also=(so_far("matches"), before("scores")),
        when=not_baseline,
        scored=True,
    ),
    StageRow(
        "scores",
        settings=(DATASET,),
        inputs=("msk",),
        sources=("first_masks", "annotations"),
        when=BASELINE,
        scored=True,
    ),
)
"""stages that run in every iteration: retrieval and propagation in turn; without retrieval there
is one iteration, from the given masks alone"""


# --- the chain of a video ------------------------------------------------------------


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
    given: bool = False
    """whether it is of the given masks alone, before it is known if there is more to find"""

    @cached_property
    def key(self) -> str:
        """What the artifact is found by."""
        return cache.keys.key(self.content)


@lru_cache(maxsize=1 << 14)
def planned(cache_root: Path, run_digest: str, video: str) -> Mapping[str, Spec]:
    """artifacts_of() by the recipe's short digest; 33 kB each, kept for all videos of a run."""
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
    mine = {name: spec for name, spec in plan.items() if spec.given == plan[final(plan)].given}
    tracklets = [name for name, spec in mine.items() if spec.stage == "tracklets"]
    every = [name for name, spec in mine.items() if spec.stage in ("matches", "scores")]
    return (final(plan), *tracklets[-1:], *every)


def label(stage: str, iteration: int = 0, given: bool = False) -> str:
    """`tubes(2)`, `tubes(given)` of the given masks alone, or the stage where it runs once."""
    if given:
        return f"{stage}(given)"
    return f"{stage}({iteration})" if iteration else stage


FIRST = label("tracklets", given=True)
DECIDING = ("frames", FIRST)
"""tell whether the given masks settle every object of a video"""


def needed(plan: Mapping[str, Spec], settled: bool) -> dict[str, Spec]:
    """Of all artifacts that a video may need, those of a run that goes by retrieval or not.

    settled: whether the given masks settle every object (pipeline.plan.settled).
    """
    if settled:
        once = {name for name, spec in plan.items() if not spec.iteration} - {*BOXES}
        return {name: spec for name, spec in plan.items() if spec.given or name in once}
    deciding = {FIRST, *plan[FIRST].reads} if FIRST in plan else set()
    return {name: spec for name, spec in plan.items() if not spec.given or name in deciding}


def keys(recipe: Recipe, video: str) -> dict[str, str]:
    """Key of every artifact that a video may need by label (docs/design.md, What flows)."""
    return keys_of(artifacts_of(recipe, video))


def keys_of(plan: Mapping[str, Spec]) -> dict[str, str]:
    """Key of every artifact of a plan by label."""
    return {name: spec.key for name, spec in plan.items()}


def artifacts_of(recipe: Recipe, video: str) -> dict[str, Spec]:
    """Every artifact that a video may need by label, in the order in which they are made."""
    if not recipe.settings.on_demand:
        return _chain(recipe, video)
    alone = _chain(replace(recipe, settings=recipe.settings.alone), video)
    names = {name: label(spec.stage, given=bool(spec.iteration)) for name, spec in alone.items()}
    first = {
        names[name]: replace(
            spec, given=bool(spec.iteration), reads=tuple(names[read] for read in spec.reads)
        )
        for name, spec in alone.items()
    }
    return first | _chain(recipe, video)


def _chain(recipe: Recipe, video: str) -> dict[str, Spec]:
    """The artifacts of a video whose run is not cut short."""
    specs: dict[str, Spec] = {}
    for row, k in _order(recipe.settings, recipe.videos[video]):
        specs[label(row.stage, k)] = _spec(recipe, video, row, k, specs)
    return specs


def _order(settings: RunSettings, video: VideoRecipe) -> Iterator[tuple[StageRow, int]]:
    """The rows that a video's run has, each with its iteration."""
    rounds = [(0, ONCE), *((k, EVERY_ITERATION) for k in range(1, settings.iterations + 1))]
    for k, rows in rounds:
        for row in rows:
            if row.when(settings.variant) and not (row.scored and video.annotations is None):
                yield row, k


def _spec(recipe: Recipe, video: str, row: StageRow, k: int, made: Mapping[str, Spec]) -> Spec:
    """The artifact of a row in iteration k; made: what is before it, by label."""
    settings, files = recipe.settings, recipe.videos[video]
    inputs, also = (list(_labels(names, k, settings)) for names in (row.inputs, row.also))
    modules = [name(settings.variant) if callable(name) else name for name in row.modules]
    precision = {"precision": settings.run.precision} if modules else {}
    content = {
        "stage": row.stage,
        "iteration": k,
        "version": version(row.stage),
        "schema": schema_version(row.stage),
        "settings": _settings(recipe, row.settings),
        "inputs": {name: made[name].key for name in inputs},
        "sources": {name: getattr(files, name) for name in row.sources},
        "weights": {name: files.modules[name] for name in modules},
        "numerics": row.numerics(settings) or precision,
    }
    return Spec(row.stage, k, content, tuple(dict.fromkeys([*inputs, *also])), tuple(modules))


def _labels(names: Sequence[str | Of], k: int, settings: RunSettings) -> Iterator[str]:
    """Labels of what a row of iteration k names."""
    for name in names:
        if isinstance(name, str):
            yield name
        else:
            yield from (label(name.stage, i) for i in name.iterations(k, settings))


def _settings(recipe: Recipe, names: Sequence[str]) -> dict[str, Any]:
    """What a row names of the settings, as a key holds it."""
    found: dict[str, Any] = {}
    for name in names:
        section, _, item = name.partition(".")
        if section == DATASET:
            found[DATASET] = recipe.dataset
        else:
            values = getattr(recipe.settings, section).keyed()
            found |= {name: values[name] for name in values if item in ("", name)}
    return found


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
