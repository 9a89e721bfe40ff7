"""Settings of every stage: frozen, typed, with ranges and a sentence each.

A stage receives its own settings object and nothing else; every field enters that
stage's key. What the paper says of a setting, also where the default is another, is in
pipeline/plan/profiles.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from stages.flow_methods import METHODS


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    later: bool = False,
) -> Any:
    """A dataclass field with its documentation: sentence, range or choices.

    later: it came when artifacts without it were there already (Checked.keyed).
    """
    about = {"text": text, "low": low, "high": high, "choices": choices, "later": later}
    return field(default=default, metadata=about)


class Checked:
    """Validates every field of a settings dataclass against its documented range."""

    def keyed(self) -> dict[str, Any]:
        """The settings as a key holds them.

        A later one only where it is not its default, so that artifacts of before keep their keys.
        """
        values = {item: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]
        return {
            item.name: value
            for item, value in values.items()
            if not item.metadata["later"] or value != item.default
        }

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            meta = item.metadata
            if meta["choices"] and value not in meta["choices"]:
                raise ValueError(
                    f"{item.name} = {value!r}: must be one of {', '.join(meta['choices'])}"
                )
            if meta["low"] is not None and value < meta["low"]:
                raise ValueError(f"{item.name} = {value}: must be at least {meta['low']}")
            if meta["high"] is not None and value > meta["high"]:
                raise ValueError(f"{item.name} = {value}: must be at most {meta['high']}")


@dataclass(frozen=True)
class FramesSettings(Checked):
    """What the networks see of the frames; masks come out in the frames' own size."""

    height: int = setting(
        480,
        "shorter side in px to which frames are scaled for the networks, up or down; 0: not at all",
        low=0,
        high=4320,
    )
    megapixels: int = setting(
        100,
        "million pixels of a frame or mask, at most; a larger one is refused by its header",
        low=1,
        high=1000,
        later=True,
    )


@dataclass(frozen=True)
class FlowSettings(Checked):
    """Optical flow (section 3.2; the paper uses FlowNet 2.0 and allows others)."""

    method: str = setting("dis", "flow estimator", choices=tuple(METHODS))
    preset: str = setting("medium", "DIS preset", choices=("ultrafast", "fast", "medium"))


@dataclass(frozen=True)
class ProposalsSettings(Checked):
    """Region proposals (section 3.1)."""

    per_frame: int = setting(100, "proposals kept a frame (M)", low=1, high=1000)
    nms: float = setting(0.7, "IoU above which the lower proposal is dropped", low=0.0, high=1.0)


@dataclass(frozen=True)
class SearchSettings(Checked):
    """Template search, an extension (stages/search.py)."""

    windows: int = setting(
        3,
        "windows a frame and object that look like its given mask and join the proposals, at "
        "most; 0: none, as in the paper",
        low=0,
        high=100,
    )


@dataclass(frozen=True)
class MatchesSettings(Checked):
    """Re-identification (section 3.1) and the stop rule (section 3.3)."""

    rho_reid: float = setting(0.7, "similarity above which a proposal is kept", low=-1.0, high=2.0)
    evidence: float = setting(
        0.6,
        "weight of evidence in similarity, added to the cosine (stages/evidence.py); 0: the cosine "
        "alone, as in the paper",
        low=0.0,
        high=10.0,
    )
    templates: int = setting(
        20, "templates added an object and iteration, at most", low=0, high=1000
    )
    template_gap: int = setting(
        3, "frames between two added templates of an object", low=1, high=1_000_000
    )
    template_set: str = setting(
        "chosen",
        "templates besides the given masks: chosen anew from the masks of the iteration before, or "
        "a set that only grows, as in the paper",
        choices=("chosen", "growing"),
        later=True,
    )
    starts: str = setting(
        "best",
        "proposals over rho_reid that become starting points: the best of each object and frame "
        "without a given mask, or all, as in the paper",
        choices=("best", "all"),
        later=True,
    )

    def offering(self, iteration: int) -> range:
        """Iterations whose tubes offer templates to an iteration, from 1."""
        first = 1 if self.template_set == "growing" else max(1, iteration - 1)
        return range(first, iteration)


@dataclass(frozen=True)
class TrackletsSettings(Checked):
    """Recurrent mask propagation (section 3.2)."""

    skip_iou: float = setting(
        0.7, "a starting point this similar to an accepted mask is skipped", low=0.0, high=1.0
    )
    abort_ratio: float = setting(
        0.1, "propagation ends below this share of the starting area", low=0.0, high=1.0
    )
    abort_area: float = setting(
        16.0, "propagation ends below this area in px", low=0.0, high=1_000_000_000.0
    )
    cuts: float = setting(
        0.26,
        "likeness of two frames below which there is a cut between them, where propagation ends "
        "(stages/cuts.py); 0: none, as in the paper",
        low=0.0,
        high=1.0,
        later=True,
    )
    lost: str = setting(
        "search",
        "an object that optical flow loses: searched for near by, with what is remembered of it "
        "(stages/relocate.py), or left, as in the paper",
        choices=("search", "left"),
        later=True,
    )
    overlap: int = setting(
        3,
        "frames that a retrieved starting point is propagated beyond the gap that it could fill "
        "(stages/gaps.py); 0: to its end, as in the paper",
        low=0,
        high=1_000_000_000,
        later=True,
    )


@dataclass(frozen=True)
class TubesSettings(Checked):
    """Linking (section 3.2) and the offer of templates (section 3.3)."""

    contradiction: float = setting(
        0.5, "IoU with its own object's tube below which a tracklet is dropped", low=0.0, high=1.0
    )
    rival: float = setting(
        0.15, "IoU with another object's tube above which a tracklet is dropped", low=0.0, high=1.0
    )
    edges: float = setting(
        1.5,
        "reach of the filter that makes masks follow the colours of the frame, in cells of a box "
        "mask (stages/edges.py); 0: none, as in the paper",
        low=0.0,
        high=10.0,
    )
    template_confidence: float = setting(
        0.8, "mean foreground probability from which a mask is offered", low=0.0, high=1.0
    )
