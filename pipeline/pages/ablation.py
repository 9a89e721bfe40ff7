"""OUT/ablation.html: Tables 1 to 5 and Figs. 5 and 6 of a dataset on one page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.pages.page import picture, similarity, write_page
from pipeline.paper.published import likeness
from pipeline.paper.tables import Asked, Written
from pipeline.plan.settings import described
from pipeline.plan.variants import BUILT_UP, VARIANTS
from pipeline.reports import results
from pipeline.results.overlays import colour

BAR, GAP, HEIGHT = 15, 22, 180
"""px: width of a bar, space between groups, height of 100 percent"""
LEVEL, LETTER = 24, 8
"""px: least width of a group, width of a letter of an attribute's name"""


@dataclass(frozen=True)
class Bar:
    """G of one variant in one category."""

    x: float
    height: float
    colour: str
    title: str


@dataclass(frozen=True)
class Group:
    """A category's bars."""

    attribute: str
    """empty unless the group is the first of its attribute"""
    level: str
    instances: int
    left: float
    right: float
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Chart:
    """Fig. 6 in px; 100 percent is at y = 0, nothing at y = HEIGHT."""

    width: float
    groups: Sequence[Group]
    legend: Mapping[str, str]
    """colour by label"""


def ablation_html(out: Path, asked: Asked, written: Written) -> Path:
    """Write OUT/ablation.html, one file that needs no other, and return its path."""
    found = written.instances
    recipe = next(iter(asked.recipes.values()))
    settings = recipe.settings.to_dict()
    forms = {**written.forms, 2: shortened(written.forms[2])}
    return write_page(
        out / "ablation.html",
        "ablation.html",
        asked=asked,
        profile=described(settings),
        similarity=similarity(settings),
        likeness=partial(likeness, asked.dataset, asked.split, len(recipe.videos)),
        forms={n: form.to_dict("split") for n, form in forms.items()},
        found=len(found),
        occlusion_known=int((found["occlusion"] != "").sum()),
        pose_known=int(found["pose"].notna().sum()),
        chart=chart(written.figure),
        height=HEIGHT,
        bar=BAR,
        strips=strips(written.stages),
    )


def shortened(form: pd.DataFrame) -> pd.DataFrame:
    """Table 2 without the run's last iterations that repeat the one before; rho_reid in full."""
    figures, last = form.drop(columns="Iteration"), len(form)
    while last > 1 and figures.iloc[last - 1].equals(figures.iloc[last - 2]):
        last -= 1
    return form[:last].assign(rho_reid=form["rho_reid"].map("{:g}".format))


def chart(table: pd.DataFrame) -> Chart | None:
    """Fig. 6, of the categories that hold instances; None without a score."""
    table = table[table["G"].notna()]
    if not len(table):
        return None
    variants = [name for name in BUILT_UP if name in set(table["variant"])]
    colours = {name: colour(n) for n, name in enumerate(BUILT_UP, 1)}
    groups: list[Group] = []
    x, free, last = 0.0, 0.0, ""
    for place, part in table.groupby(["attribute", "level"], sort=False):
        attribute, level = map(str, place)
        new = attribute != last
        x = max(x + 2 * GAP, free) if new else x + GAP
        if new:
            # The next attribute begins right of this one's name, also where its levels are few.
            free, last = x + LETTER * len(attribute) + GAP, attribute
        right = x + max(LEVEL, len(variants) * BAR)
        left = (x + right - len(variants) * BAR) / 2
        g = dict(zip(part["variant"], part["G"], strict=True))
        bars = [
            Bar(left + n * BAR, HEIGHT * g[v], colours[v], f"{VARIANTS[v].label}: {100 * g[v]:.1f}")
            for n, v in enumerate(variants)
            if v in g
        ]
        count = int(part["instances"].iloc[0])
        groups.append(Group(attribute if new else "", level, count, x, right, bars))
        x = right
    return Chart(max(x + GAP, free), groups, {VARIANTS[v].label: colours[v] for v in variants})


@dataclass(frozen=True)
class Strip:
    """Frames of one variant."""

    label: str
    g: float
    """of this video"""
    pictures: Sequence[str]
    """addresses that hold them"""


def strips(stages: Mapping[str, Path]) -> tuple[str, Sequence[Strip]] | None:
    """Fig. 5: the video whose G differs most between the variants, and its strips.

    None where there are no scores, or nothing to compare.
    """
    means = {name: results(run).groupby("video")["G"].mean() for name, run in stages.items()}
    table = pd.DataFrame(means)
    if len(stages) < 2 or not len(table):
        return None
    video = str((table.max(axis=1) - table.min(axis=1)).idxmax())
    found = []
    for name, run in stages.items():
        paths = sorted((run / "pictures" / video).glob("*.jpg"))
        g = float(means[name].get(video, math.nan))
        found.append(Strip(VARIANTS[name].label, g, [picture(path.read_bytes()) for path in paths]))
    return video, found
