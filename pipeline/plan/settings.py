"""Settings of a run: their defaults, ranges, names and where they may be set.

Defaults live in code; a section of luigi.cfg overrides them, and the command line
overrides luigi.cfg. In each of the two a profile comes first, and single settings override
it. `python -m pipeline.plan.document` prints docs/settings.md.
"""

from __future__ import annotations

import configparser
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any

from pipeline.errors import UserError, meant, must_be
from pipeline.plan.profiles import EXTENDED, PAPER, PRINTED, PROFILES, with_changes
from pipeline.plan.variants import FULL, VARIANTS, Variant
from stages.settings import (
    Checked,
    FlowSettings,
    FramesSettings,
    MatchesSettings,
    ProposalsSettings,
    SearchSettings,
    TrackletsSettings,
    TubesSettings,
    setting,
)


@dataclass(frozen=True)
class WholeRun(Checked):
    """What concerns all stages."""

    variant: str = setting(
        FULL,
        "the full method; Re-MP from the given masks alone, with or without attention; MSK",
        choices=tuple(VARIANTS),
    )
    profile: str = setting(
        EXTENDED,
        "a set of values, replaced before single settings are: with the extensions of this "
        "project, or as in the paper (the column Paper)",
        choices=PROFILES,
    )
    precision: str = setting(
        "auto",
        "arithmetic of the networks, part of every key; auto: bf16 where the hardware has it",
        choices=("auto", "bf16", "fp32"),
    )
    retrieval: str = setting(
        "needed",
        "proposals, embeddings, search and evidence: only where the tracklets of the given masks "
        "do not hold every object in every frame, or always; the masks are the same, but of the "
        "other videos no starting points are counted (Table 2)",
        choices=("needed", "always"),
    )
    max_iterations: int = setting(
        4, "rounds of retrieval and propagation, at most (section 3.3)", low=1, high=20
    )


@dataclass(frozen=True)
class RunSettings:
    """All settings of a run; each field is a section of luigi.cfg."""

    run: WholeRun = field(default_factory=WholeRun)
    frames: FramesSettings = field(default_factory=FramesSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    proposals: ProposalsSettings = field(default_factory=ProposalsSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    matches: MatchesSettings = field(default_factory=MatchesSettings)
    tracklets: TrackletsSettings = field(default_factory=TrackletsSettings)
    tubes: TubesSettings = field(default_factory=TubesSettings)

    @property
    def variant(self) -> Variant:
        """The variant of the method."""
        return VARIANTS[self.run.variant]

    @property
    def iterations(self) -> int:
        """Iterations that this variant runs: without retrieval there is one."""
        return self.run.max_iterations if self.variant.retrieval else 1

    @property
    def on_demand(self) -> bool:
        """Whether a video is retrieved from only if its given masks do not settle every object."""
        return self.variant.retrieval and self.run.retrieval == "needed"

    @property
    def alone(self) -> RunSettings:
        """The same without retrieval."""
        return replace(self, run=replace(self.run, variant=self.variant.alone))

    @property
    def plain(self) -> bool:
        """Re-MP without region attention (Table 1)."""
        return not self.variant.attention

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain JSON values by section."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Mapping[str, Any]]) -> RunSettings:
        """The inverse of to_dict()."""
        return cls(**{s: type(section)(**stored[s]) for s, section in sections(cls()).items()})


def sections(settings: RunSettings) -> dict[str, Any]:
    """Settings objects by section name."""
    return {item.name: getattr(settings, item.name) for item in fields(settings)}


def documented() -> dict[str, Field[Any]]:
    """Every setting by its full name, such as `proposals.per_frame`."""
    return {
        f"{section}.{item.name}": item
        for section, values in sections(RunSettings()).items()
        for item in fields(values)
    }


def parse_set(text: str) -> dict[str, tuple[str, ...]]:
    """The assignments in a --set option: values by setting name.

    `a.b=1,c.d=2` sets two settings; `a.b=1,2,3` gives one setting three values, which a
    sweep takes. UserError if a name is unknown.
    """
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    for part in filter(None, (part.strip() for part in text.split(","))):
        if "=" in part:
            name, part = (side.strip() for side in part.split("=", 1))
            find(name)
            found[name] = ()
        elif not name:
            raise UserError(f"--set {text}: write name=value, such as proposals.per_frame=50")
        found[name] += (part,)
    return found


def find(name: str) -> Field[Any]:
    """A setting by its full name; UserError with the closest names if there is none."""
    known = documented()
    if name not in known:
        last = name.rsplit(".", 1)[-1]
        same = [n for n in known if n.rsplit(".", 1)[-1] == last]
        near = f"did you mean {' or '.join(same)}?" if same else meant(name, known)
        hint = near or "docs/settings.md lists all"
        raise UserError(f"{name}: no such setting; {hint}")
    return known[name]


def parse(name: str, text: str) -> Any:
    """A setting's value from text; UserError names the setting and what it takes."""
    return convert(find(name), name, text)


def convert(item: Field[Any], name: str, text: str) -> Any:
    """Text as a value of a setting's type; UserError says what it takes."""
    try:
        kind: Any = type(item.default)
        value = kind(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
        return value
    except ValueError:
        raise UserError(f"{name} = {text!r}: {unfit(item, text)}") from None


def unfit(item: Field[Any], text: str) -> str:
    """The end of a message about a value that a setting does not take."""
    choices = item.metadata["choices"]
    return must_be(text, choices) if choices else f"must be {describe(item)}"


def describe(item: Field[Any]) -> str:
    """What a setting takes: `an integer, 1 to 1000`, `one of dis, raft`."""
    meta = item.metadata
    if meta["choices"]:
        return f"one of {', '.join(meta['choices'])}"
    kind = {int: "an integer", float: "a number", str: "text"}[type(item.default)]
    low, high = meta["low"], meta["high"]
    if low is not None and high is not None:
        return f"{kind}, {low:g} to {high:g}"
    return kind if low is None else f"{kind}, at least {low:g}"


def override(settings: RunSettings, given: Mapping[str, str]) -> RunSettings:
    """Settings with some replaced, given as text by full name; a profile's before the others."""
    profile = _of_profile(given["run.profile"]) if "run.profile" in given else {}
    for name, text in {**profile, **given}.items():
        value = parse(name, text)
        section, item = name.split(".")
        try:
            changed = replace(getattr(settings, section), **{item: value})
        except ValueError:
            raise UserError(f"{name} = {text}: {unfit(find(name), text)}") from None
        settings = replace(settings, **{section: changed})
    return settings


def _of_profile(profile: str) -> dict[str, str]:
    """What a profile sets, as text by full name."""
    values = PRINTED if profile == PAPER else {name: find(name).default for name in PRINTED}
    return {name: str(value) for name, value in values.items()}


APART_FROM_PROFILES = ("run.variant", "run.profile", "run.precision")
"""settings that may differ without the profile being another"""


def described(settings: Mapping[str, Mapping[str, Any]], apart: Sequence[str] = ()) -> str:
    """The profile of a run and the settings that differ from it: `extended`, `paper, changed: ...`.

    settings: RunSettings.to_dict(), also of a run.json that lacks later ones. apart: names of
    settings that are shown elsewhere, as the swept ones of a sweep.
    """
    profile = settings.get("run", {}).get("profile", EXTENDED)
    whole = override(RunSettings(), {"run.profile": profile}).to_dict()
    found = {
        f"{section}.{name}": (settings.get(section, {}).get(name, value), value)
        for section, values in whole.items()
        for name, value in values.items()
    }
    left = {*APART_FROM_PROFILES, *apart}
    return with_changes(
        profile, {n: mine for n, (mine, value) in found.items() if n not in left and mine != value}
    )


def luigi_config() -> Any:
    """Luigi's configuration; UserError if luigi.cfg cannot be read."""
    try:
        from luigi.configuration import get_config

        return get_config()
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"luigi.cfg: cannot be read ({reason}); mend or remove it") from error


def configured() -> RunSettings:
    """The defaults with what luigi.cfg sets in the sections that are ours."""
    config = luigi_config()
    given = {
        f"{section}.{name}": value
        for section in sections(RunSettings())
        if config.has_section(section)
        for name, value in config.items(section)
        if name not in config.defaults()
    }
    try:
        return override(RunSettings(), given)
    except UserError as error:
        raise UserError(f"luigi.cfg: {error}") from None


OPTIONS = {
    "variant": "run.variant",
    "profile": "run.profile",
    "max_iterations": "run.max_iterations",
    "precision": "run.precision",
    "rho_reid": "matches.rho_reid",
}
"""settings that have a command-line option of their own"""


def gather(
    assignments: Iterable[str], options: Mapping[str, str | None]
) -> dict[str, tuple[str, ...]]:
    """Values by setting name, from every --set and from the OPTIONS that were given."""
    found: dict[str, tuple[str, ...]] = {}
    for text in assignments:
        found |= parse_set(text)
    return found | {OPTIONS[n]: (str(v),) for n, v in options.items() if v is not None}


def single(given: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Settings with one value each; UserError for a list."""
    for name, values in given.items():
        if len(values) != 1:
            raise UserError(f"{name}: takes one value here; SweepThreshold takes a list")
    return {name: values[0] for name, values in given.items()}


def run_name(swept: Mapping[str, Any]) -> str:
    """Folder of one run of a sweep, below the sweep's: `rho_reid=0.9`."""
    return ",".join(f"{name.split('.')[1]}={value}" for name, value in swept.items())
