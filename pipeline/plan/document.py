"""Prints docs/settings.md: `python -m pipeline.plan.document > docs/settings.md`."""

from __future__ import annotations

from dataclasses import fields

from pipeline.plan.profiles import PRINTED
from pipeline.plan.settings import RunSettings, describe, find, sections
from training.settings import TrainSettings, compact, online, paper, paper_online


def render() -> str:
    """docs/settings.md: every setting with its default, range and meaning."""
    lines = [
        "# Settings",
        "",
        "Made by `python -m pipeline.plan.document > docs/settings.md`.",
        "",
        "Give a setting as `--set section.name=value` (repeat it, or join several with commas),",
        "or as `name=value` in that section of luigi.cfg. The command line overrides luigi.cfg,",
        "and luigi.cfg overrides the defaults below. `SweepThreshold` also takes a list:",
        "`--set tracklets.skip_iou=0.5,0.7,0.9`.",
        "",
        "The column Paper holds what the paper says of a setting, bold where the default is",
        "another. `--profile paper` sets all of these, and `--set` beside it replaces single ones;",
        "`--profile extended` sets their defaults. A profile on the command line overrides",
        "luigi.cfg; in luigi.cfg, as `profile` in section `[run]`, the other lines override it.",
        "What else differs from the paper: [design.md](design.md#deviations).",
        "",
    ]
    for section, values in sections(RunSettings()).items():
        lines += [f"## [{section}]", "", _first_line(type(values)), ""]
        lines += ["| Setting | Default | Paper | Takes | Meaning |", "|---|---|---|---|---|"]
        lines += [
            f"| `{section}.{item.name}` | {item.default} | {_printed(f'{section}.{item.name}')} "
            f"| {describe(item)} | {item.metadata['text']} |"
            for item in fields(values)
        ]
        lines.append("")
    return "\n".join([*lines, *_training()]) + "\n"


def _printed(name: str) -> str:
    """The paper's value of a setting, bold where it is not the default."""
    if name not in PRINTED:
        return ""
    value = PRINTED[name]
    return str(value) if value == find(name).default else f"**{value}**"


def _training() -> list[str]:
    """Settings of training, with the recipes next to one another."""
    recipes = (TrainSettings(), compact(), online(), paper(), paper_online())
    return [
        "## Training",
        "",
        "Give one to a training task as `--set name=value` ([training.md](training.md)).",
        "`offline` is the recipe of the offline tasks, `compact` theirs with `--architecture",
        "compact` or `base`, `online` that of `FinetuneOnFirstFrames`; the last two are those of",
        "`--profile paper`, offline and online.",
        "",
        "| Setting | offline | compact | online | paper | paper, online | Takes | Meaning |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| `{item.name}` | {' | '.join(str(getattr(r, item.name)) for r in recipes)} "
            f"| {describe(item)} | {item.metadata['text']} |"
            for item in fields(TrainSettings)
        ),
    ]


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    print(render(), end="")
