"""Profiles: what the paper's one sets, what overrides it, and who says which one a run has."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from pipeline import DrawAttention, DrawComparison, SweepThreshold, TrainDyeNet, cli
from pipeline.commands import engine
from pipeline.commands.training import FinetuneOnFirstFrames
from pipeline.errors import UserError
from pipeline.pages.ablation import shortened
from pipeline.pages.compare import compare_html
from pipeline.pages.page import until_settled
from pipeline.paper.published import likeness
from pipeline.plan.profiles import PRINTED
from pipeline.plan.settings import RunSettings, described, find, override
from pipeline.reports import PER_ITERATION
from tests.tiny_run import command, write_dataset, write_weights
from training.settings import TrainSettings, compact, online

PAPER = override(RunSettings(), {"run.profile": "paper"})

# --- what it sets ----------------------------------------------------------------------


def test_the_papers_settings() -> None:
    """Section by section: nothing of the extensions, and the paper's values where it has some."""
    assert (PAPER.search.windows, PAPER.matches.evidence, PAPER.tubes.edges) == (0, 0, 0)
    assert (PAPER.matches.rho_reid, PAPER.matches.starts) == (0.7, "all")
    assert [list(PAPER.matches.offering(k)) for k in (1, 2, 4)] == [[], [1], [1, 2, 3]]
    assert PAPER.tubes.rival == PAPER.tubes.contradiction
    assert PAPER.tracklets.overlap == 0
    assert PAPER.frames.height == 0
    assert PAPER.iterations == find("run.max_iterations").metadata["high"]


def test_what_says_as_in_the_paper_is_in_the_profile() -> None:
    """Settings whose own sentence names a value of the paper."""
    sections = asdict(RunSettings())
    names = {f"{s}.{name}" for s, values in sections.items() for name in values}
    said = {n for n in names if "as in the paper" in find(n).metadata["text"]} - {"run.profile"}
    assert len(said) == 8 and said <= set(PRINTED)


def test_extended_is_the_default() -> None:
    assert override(RunSettings(), {"run.profile": "extended"}) == RunSettings()
    assert override(PAPER, {"run.profile": "extended"}) == RunSettings()


def test_single_settings_override_a_profile_in_any_order() -> None:
    for order in (1, -1):
        given = {"tubes.edges": "2", "run.profile": "paper"}
        found = override(RunSettings(), dict(list(given.items())[::order]))
        assert found.tubes.edges == 2 and found.search.windows == 0
    with pytest.raises(UserError, match=r"run\.profile = papr: must be one of extended, paper"):
        override(RunSettings(), {"run.profile": "papr"})


def test_described() -> None:
    assert described(PAPER.to_dict()) == "paper"
    other = override(PAPER, {"matches.rho_reid": "0.9", "run.variant": "remp"}).to_dict()
    assert described(other) == "paper, changed: matches.rho_reid=0.9"
    assert described(other, ["matches.rho_reid"]) == "paper"
    old = RunSettings().to_dict()
    del old["run"]["profile"], old["matches"]["starts"]
    old["tubes"]["edges"] = 0.0
    assert described(old) == "extended, changed: tubes.edges=0.0"


# --- a page beside the paper's figures ---------------------------------------------------


def test_likeness() -> None:
    val = ("davis17", "val")
    assert likeness(*val, 30, val).endswith("davis17 val, as those of this run are.")
    assert "with its 30 videos, those of this run of 3 of them" in likeness(*val, 3, val)
    assert "of demo val: figures over different videos" in likeness("demo", "val", 3, val)


def test_iterations_that_change_nothing_are_not_shown() -> None:
    table = pd.DataFrame(1.0, range(5), list(PER_ITERATION))
    table["iteration"] = [1, 2, 3, 4, 5]
    table["precision"] = float("nan")
    assert until_settled(table) == [1]
    table.loc[2:, "G"] = 2.0
    assert until_settled(table) == [1, 2, 3]
    table.loc[4:, "G"] = 1.0
    assert until_settled(table) == [1, 2, 3, 4, 5]


def test_table_2_of_a_page_is_shortened_likewise() -> None:
    rows = [
        ("paper", 0.9, "3+", 1.0),
        *(("run", 0.95, k, g) for k, g in zip("1234", (1, 1, 2, 2), strict=True)),
    ]
    form = pd.DataFrame(rows, columns=["Source", "rho_reid", "Iteration", "G-mean"])
    page = shortened(form)
    assert page["Iteration"].tolist() == ["3+", "1", "2", "3"]
    assert page["rho_reid"].tolist() == ["0.9", "0.95", "0.95", "0.95"]


# --- the commands ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and weights."""
    folder = tmp_path_factory.mktemp("profile")
    write_dataset(folder / "data", ("ant",))
    write_weights(folder / "w.safetensors")
    return folder


@pytest.fixture
def options(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Parameters of a run of seconds."""
    monkeypatch.setenv("DYENET_CACHE", str(folder / "cache"))
    return {
        "dataset": "davis17",
        "root": str(folder / "data"),
        "weights": str(folder / "w.safetensors"),
        "precision": "fp32",
    }


def flags(options: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def test_luigi_cfg_then_profile_then_set(folder: Path, options: dict[str, str]) -> None:
    place = folder / "configured"
    place.mkdir()

    def profile(config: str, *more: str) -> str:
        (place / "luigi.cfg").write_text(config)
        # The last line of tests/tiny.cfg is frames.height = 0, as the paper has it.
        done = command("dyenet", "status", *flags(options), *more, cache=place / "cache", cwd=place)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[0]

    edges = "[tubes]\nedges = 1\n"
    assert profile(edges).startswith("profile: extended, changed: ")
    assert "tubes.edges=1.0" in profile(edges)
    assert profile(edges, "--profile=extended") == "profile: extended"
    assert profile(edges, "--profile=paper") == "profile: paper"
    changed = "profile: paper, changed: tubes.edges=2.0"
    assert profile(edges, "--profile=paper", "--set=tubes.edges=2") == changed
    in_file = edges + "[run]\nprofile = paper\n"
    assert profile(in_file) == "profile: paper, changed: tubes.edges=1.0"
    assert profile(in_file, "--max-iterations=3").startswith(
        "profile: paper, changed: run.max_iterations=3, tubes.edges=1.0"
    )


def test_a_run_records_its_profile(folder: Path, options: dict[str, str]) -> None:
    out = {name: folder / name for name in ("paper", "extended")}
    for name, place in out.items():
        arguments = *flags(options), f"--profile={name}", f"--output={place}"
        done = command(
            "luigi",
            "RunDataset",
            "--local-scheduler",
            *arguments,
            cache=folder / "cache",
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads((place / "run.json").read_text())["settings"]["run"]["profile"] == name
        page = (place / "report.html").read_text()
        assert f"profile {name}" in page and "with its 30 videos, those of this run of 1" in page
    both = compare_html(out["paper"], out["extended"]).read_text()
    assert "profile paper" in both and "profile extended" in both
    recipes = [json.loads(p.read_text()) for p in (folder / "cache/recipes").iterdir()]
    assert {r["settings"]["run"]["profile"] for r in recipes} == {"paper", "extended"}


def test_another_profile_with_the_same_masks_is_another_report(
    folder: Path, options: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """MSK reads none of what the two differ in but frames.height."""
    shared = options | {"variant": "msk", "set": "frames.height=0", "output": str(folder / "msk")}
    for name in ("extended", "paper"):
        done = command(
            "luigi",
            "RunDataset",
            "--local-scheduler",
            *flags(shared | {"profile": name}),
            cache=folder / "cache",
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        run = json.loads((folder / "msk" / "run.json").read_text())
        assert run["settings"]["run"]["profile"] == name
    assert "nothing to do" not in done.stdout


def test_a_sweep_says_what_its_axis_is(folder: Path, options: dict[str, str]) -> None:
    for name, axis in (("paper", "cosine"), ("extended", "cosine + 0.6 x evidence")):
        place = folder / f"sweep {name}"
        given = options | {"profile": name, "output": str(place), "max_iterations": "2"}
        assert engine.build(SweepThreshold(**given, rho_reid_values="0.9,0.7"))
        page = (place / "sweep.html").read_text()
        assert f">matches.rho_reid: {axis}</th>" in page
        assert f"Settings: profile {name}, changed: run.max_iterations=2" in page
        assert ("Its rho_reid is a cosine, here" in page) == (name == "extended")


def test_a_sweep_over_profiles(folder: Path, options: dict[str, str]) -> None:
    sweep = SweepThreshold(**options, set="run.profile=paper,extended")
    found = {n: run.recipe.settings.matches.evidence for n, run in sweep.runs.items()}
    assert found == {"profile=paper": 0.0, "profile=extended": 0.6}


def test_figures_take_a_profile(folder: Path, options: dict[str, str]) -> None:
    # Untrained, an object would end at once.
    more = "tracklets.abort_ratio=0,tracklets.abort_area=0,run.max_iterations=2"
    given = options | {"profile": "paper", "set": more}
    for task in (DrawAttention, DrawComparison):
        out = folder / task.__name__
        assert engine.build(task(**given, output=str(out)))
        assert len(list(out.glob("*.png"))) == 1


def test_segment_takes_a_profile(folder: Path, options: dict[str, str]) -> None:
    out, mask = folder / "clip", folder / "data/Annotations/480p/ant/00000.png"
    more = ["--profile=paper", "--precision=fp32", f"--weights={options['weights']}"]
    clip = folder / "data/JPEGImages/480p/ant"
    assert cli.main(["segment", str(clip), str(mask), "-o", str(out), *more]) == 0
    assert json.loads((out / "run.json").read_text())["settings"] == {
        **PAPER.to_dict(),
        "run": {**PAPER.to_dict()["run"], "precision": "fp32"},
    }


# --- training ----------------------------------------------------------------------------


def test_the_papers_recipe() -> None:
    """Section 3.3 and 4: 24k iterations of 8 x 4 images, SGD, and the data as it is."""
    task = TrainDyeNet(data="", output="x.safetensors", profile="paper")
    s = task.settings
    assert (s.iterations, s.clips, s.frames, s.optimiser) == (24_000, 8, 4, "sgd")
    assert (s.momentum, s.decay, s.rate, s.drop) == (0.9, 5e-4, 1e-3, 8_000)
    assert (s.stills, s.composites, s.degrade, s.scale, s.learn) == (0, 0, 0, 1, "attention")
    assert s.trunk == "train"
    tuned = FinetuneOnFirstFrames(dataset="demo", output="x.safetensors", profile="paper").settings
    assert (tuned.iterations, tuned.motion, tuned.composites, tuned.trunk) == (2_000, 0, 0, "train")


def test_the_default_recipes_are_as_they_were() -> None:
    small = {"data": "", "output": "x.safetensors", "architecture": "compact"}
    assert TrainDyeNet(**small).settings == compact()
    assert TrainDyeNet(data="", output="x.safetensors").settings == TrainSettings()
    assert FinetuneOnFirstFrames(dataset="demo", output="x.safetensors").settings == online()


def test_a_training_run_names_its_profile(tmp_path: Path) -> None:
    given = {"data": "", "output": str(tmp_path / "x.safetensors"), "profile": "paper"}
    task = TrainDyeNet(**given, set="clips=2")
    assert task.asked()["profile"] == "paper, changed: clips=2"
    # A run of before profiles goes on.
    task.folder.mkdir()
    stored = {name: value for name, value in task.asked().items() if name != "profile"}
    (task.folder / "run.json").write_text(json.dumps(stored))
    TrainDyeNet(**given, set="clips=2")
    with pytest.raises(UserError, match="holds a run with other options"):
        TrainDyeNet(**given, set="clips=3")


@pytest.mark.training
def test_the_papers_recipe_trains(folder: Path) -> None:
    from models.weights import read_header

    short = "iterations=2,clips=1,frames=2,height=56,queue=8,checkpoint=1,boxes=2"
    data = f"--data=davis17:{folder / 'data'}:val"
    for arguments in (
        ("TrainDyeNet", "--architecture=tiny", data, "--output=joint.safetensors"),
        (
            "FinetuneOnFirstFrames",
            "--weights=joint.safetensors",
            "--dataset=davis17",
            f"--root={folder / 'data'}",
            "--output=tuned.safetensors",
        ),
    ):
        options = "--profile=paper", f"--set={short}", "--local-scheduler"
        done = command("luigi", *arguments, *options, cache=folder / "cache", cwd=folder)
        assert done.returncode == 0, done.stderr
        card = read_header(folder / arguments[-1].partition("=")[2])
        assert {"trunk", "mask", "reid", "remp"} <= set(card["modules"])
        assert card["training"]["profile"].startswith("paper, changed: iterations=2")
