"""Prints docs/settings.md: `python -m pipeline.plan.document > docs/settings.md`."""

from __future__ import annotations

from dataclasses import fields

from pipeline.plan.settings import RunSettings, describe, sections
from training.settings import TrainSettings, compact, online


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
        "`--set tracklets.skip_iou=0.5,0.7,0.9`. Where the paper gives a value it is the default.",
        "",
    ]
    for section, values in sections(RunSettings()).items():
        lines += [f"## [{section}]", "", _first_line(type(values)), ""]
        lines += ["| Setting | Default | Takes | Meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{section}.{item.name}` | {item.default} | {describe(item)} "
            f"| {item.metadata['text']} |"
            for item in fields(values)
        ]
        lines.append("")
    return "\n".join([*lines, *_training()]) + "\n"


def _training() -> list[str]:
    """Settings of training, with the three recipes next to one another."""
    recipes = (TrainSettings(), compact(), online())
    return [
        "## Training",
        "",
        "Give one to a training task as `--set name=value` ([training.md](training.md)).",
        "`paper` is the recipe of section 3.3, `compact` that of `--architecture compact`,",
        "`online` that of `FinetuneOnFirstFrames`.",
        "",
        "| Setting | paper | compact | online | Takes | Meaning |",
        "|---|---|---|---|---|---|",
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
