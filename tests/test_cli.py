"""The command `dyenet`, and what the luigi command says where options are wrong."""

from __future__ import annotations

import re
import shutil
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
from luigi.cmdline_parser import CmdlineParser
from PIL import Image

from pipeline import RunDataset, cli, commands
from pipeline.commands.examples import EXAMPLES
from pipeline.plan import machine
from pipeline.plan.options import DATASET, KEEP, RUN, VIDEOS
from tests.clip import draw
from tests.tiny_run import FRAMES, command, write_dataset, write_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and weights."""
    folder = tmp_path_factory.mktemp("cli")
    write_dataset(folder / "data", ("ant",))
    write_weights(folder / "w.safetensors")
    return folder


@pytest.fixture
def dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that name them."""
    monkeypatch.setenv("DYENET_CACHE", str(folder / "cache"))
    return ["--dataset", "davis17", "--root", str(folder / "data")]


@pytest.fixture
def fast(folder: Path) -> list[str]:
    """Options of a quick run."""
    return ["--weights", str(folder / "w.safetensors"), "--precision=fp32", "--max-iterations=1"]


def test_segment_a_folder_of_frames(folder: Path, fast: list[str]) -> None:
    frames = folder / "data/JPEGImages/480p/ant"
    mask = folder / "data/Annotations/480p/ant/00000.png"
    out = folder / "folder"
    done = command(
        "dyenet", "segment", frames, mask, "-o", out, *fast, cache=folder / "cache", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(list((out / "masks/ant").glob("*.png"))) == FRAMES
    with Image.open(out / "masks/ant/00000.png") as first, Image.open(mask) as given:
        assert (np.array(first) == np.array(given)).all()
        assert first.mode == "P"
    assert (out / "overlays/ant.mp4").stat().st_size
    said = command("dyenet", "status", frames, mask, *fast, cache=folder / "cache", cwd=folder)
    assert "\nant\n" in said.stdout and "missing" not in said.stdout


def test_status_resolves_precision_by_the_device_as_a_run_does(
    dataset: list[str],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, flags = folder / "driver", folder / "cpuinfo"
    driver.touch()
    flags.write_text("flags: sse")
    monkeypatch.setattr(machine, "NVIDIA", driver)
    monkeypatch.setattr(machine, "CPU", flags)
    usual = [*dataset, "--weights", str(folder / "w.safetensors"), "--max-iterations=1"]
    for device, precision in (("cpu", "fp32"), ("cuda", "bf16"), ("auto", "bf16")):
        seen = cli.recipe_of(cli.parser().parse_args(["status", *usual, f"--device={device}"]))
        assert seen.settings.run.precision == precision
    assert cli.main(["status", *usual, "--device=tpu"]) == 1
    assert "--device tpu: must be one of auto, cpu, cuda" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run", "segment", "status", "score"])
def test_options_are_those_of_run_dataset(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    mine = {
        "run": DATASET | VIDEOS | RUN | KEEP,
        "segment": RUN | KEEP,
        "status": DATASET | VIDEOS | RUN,
        "score": DATASET,
    }[name]
    parameters = dict(RunDataset.get_params())
    for option, about in mine.items():
        assert f"--{option.replace('_', '-')} " in said and about.help in said
        if option != "dataset":  # Luigi's help names them all
            assert parameters[option].description == about.help
        assert parameters[option].task_value("RunDataset", option) == about.default


def test_segment_a_video_with_a_later_mask(
    folder: Path, dataset: list[str], fast: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    clip, masks, out = folder / "film.mp4", folder / "film masks", folder / "video"
    film = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 10, (72, 56))
    for j in range(FRAMES):
        film.write(np.ascontiguousarray(draw(j)[0][..., ::-1]))
    film.release()
    masks.mkdir()
    for j in (0, 2):
        index = draw(j)[1]
        index[index != (1 if j == 0 else 3)] = 0
        Image.fromarray(index).save(masks / f"{j:05d}.png")
    assert cli.main(["segment", str(clip), str(masks), "-o", str(out), *fast]) == 0
    assert f"results: {out}" in capsys.readouterr().out
    with Image.open(out / "masks/film/00002.png") as mask:
        assert 3 in np.array(mask)
    shutil.copy(masks / "00002.png", masks / "00009.png")
    assert cli.main(["segment", str(clip), str(masks), "-o", str(out), *fast]) == 1


def test_status_says_why(
    dataset: list[str], fast: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", *dataset, *fast]) == 0
    assert "missing: not computed yet" in capsys.readouterr().out
    done = command(
        "luigi",
        "RunDataset",
        "--local-scheduler",
        *dataset,
        *fast,
        "--output",
        folder / "out",
        cache=folder / "cache",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    cli.main(["status", *dataset, *fast])
    assert "missing" not in capsys.readouterr().out
    assert cli.main(["run", *dataset, "--split", "vall"]) == 1
    assert capsys.readouterr().err.endswith("did you mean val?\n")
    assert cli.main(["run", *dataset, "--videos", "bee"]) == 1
    assert capsys.readouterr().err.endswith("has no such video; there is ant\n")
    assert cli.main(["status", *dataset, "--videos", "ants"]) == 1
    assert capsys.readouterr().err.endswith("has no such video; did you mean ant?\n")
    before = (folder / "out/run.json").stat().st_mtime_ns
    assert cli.main(["run", *dataset, *fast, "--output", str(folder / "out")]) == 0
    assert capsys.readouterr().out == f"results: {folder / 'out'}\n"
    assert (folder / "out/run.json").stat().st_mtime_ns == before
    cli.main(["status", *dataset, *fast, "--set", "proposals.nms=0.5"])
    profile, _, *rest = capsys.readouterr().out.splitlines()
    assert profile.startswith("profile: extended, changed: ") and "proposals.nms=0.5" in profile
    lines = dict(line.split(maxsplit=1) for line in rest)
    assert lines["features"] == "cached"
    assert lines["proposals"] == "missing: nms 0.7 -> 0.5"
    assert lines["embeddings"] == "missing: follows proposals"


def test_score_report_and_artifacts(
    dataset: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out"
    truth = folder / "data/Annotations/480p"
    assert cli.main(["score", str(truth), *dataset, "--output", str(folder / "score")]) == 0
    assert "G 100.0" in capsys.readouterr().out
    assert (folder / "score" / "global_results-val.csv").exists()
    assert cli.main(["report", str(out)]) == 0
    assert str(out / "report.html") in capsys.readouterr().out
    assert cli.main(["report", str(out), str(out), "--tables", "csv"]) == 0
    assert str(out / "compare-out.html") in capsys.readouterr().out
    assert (out / "tables" / "results.csv").exists()
    assert cli.main(["artifacts"]) == 0
    assert "features" in capsys.readouterr().out
    assert cli.main(["artifacts", "features"]) == 0
    assert "features/davis17/ant/" in capsys.readouterr().out


def test_prune_is_dry_unless_told(
    dataset: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = set((folder / "cache").rglob("*.h5"))
    every = ["prune", "--min-age=0", "--keep-runs=0", "--stages=features"]
    assert cli.main(every) == 0
    assert "--delete removes them" in capsys.readouterr().out
    assert set((folder / "cache").rglob("*.h5")) == files
    assert cli.main([*every, "--delete"]) == 0
    assert not list((folder / "cache/features").rglob("*.h5"))
    assert list((folder / "cache/tubes").rglob("*.h5"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "/nowhere"], "no run to report on"),
        (["segment", "/nowhere", "/nowhere.png", "-o", "/nowhere/out"], "no such clip"),
        (["artifacts", "feature"], "no such stage; did you mean features?"),
        (["prune", "--stages", "feature"], "no such stage; did you mean features?"),
        (["status", "--set", "proposal.nsm=1"], "did you mean proposals.nms?"),
        (["status", "--variant", "DyNet"], "remp-no-attention, msk; did you mean dyenet?"),
        (["status", "--dataset", "DAVIS_17"], "did you mean davis17?"),
        (["status", "--set", "x=1"], "no such setting"),
        (["status", "/nowhere.mp4"], "/nowhere.mp4: give its first mask too"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], dataset: list[str]
) -> None:
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmnet"], "segmnet: did you mean segment?"),
        (["status", "--wieghts", "x"], "--wieghts: no such option; did you mean --weights?"),
        (["run", "--box=1"], "--box: no such option"),
        (["verify", "all"], "all: one word too many"),
        (["score", "x", "--output=y", "--average", "object"], "object: did you mean objects?"),
    ],
)
def test_typos_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in said and "--help lists all)" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RunDatset"], "RunDatset: no such task; did you mean RunDataset?"),
        (["Foo"], "Foo: no such task; there is Ablation, ComputeFlow, "),
        (["RunDataset", "--datset=x"], "--datset: no such option; did you mean --dataset?"),
        (["TrainMSK", "--profile", "papr"], "must be one of extended, paper; did you mean paper?"),
    ],
)
def test_typos_of_luigis_command_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        CmdlineParser(["--module", "pipeline", "--local-scheduler", *arguments])
    said = capsys.readouterr().err or str(ended.value)
    assert message in said
    assert said.strip().count("\n") == 0


def test_examples_of_the_help_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli.parser()
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    named = re.findall(r"^    ([a-z][a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE)
    assert set(named) == set(cli.EXAMPLES)
    for name, example in cli.EXAMPLES.items():
        assert example.split()[0] == name
        assert callable(parser.parse_args(example.split()).command)
    assert set(EXAMPLES) == set(commands.__all__)
    for task, options in EXAMPLES.items():
        asked = CmdlineParser(["--module", "pipeline", task, "--local-scheduler", *options.split()])
        assert asked.known_args.root_task == task
    with pytest.raises(SystemExit):
        CmdlineParser(["--module", "pipeline", "RunDataset", "--help"])
    assert EXAMPLES["RunDataset"] in " ".join(capsys.readouterr().out.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"dyenet {metadata.version('dyenet')}\n"


@pytest.mark.parametrize("content", [b"garbled [[[\n", b"[cache\n", b"\xff\xfe[cache]\n"])
def test_a_garbled_luigi_cfg_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "luigi.cfg").write_bytes(content)
    done = command("dyenet", "status", cache=tmp_path / "cache", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: luigi.cfg: cannot be read (")
    assert done.stderr.count("\n") == 1


def test_luigi_cfg_and_command_line(folder: Path, dataset: list[str], fast: list[str]) -> None:
    place = folder / "configured"
    place.mkdir()
    (place / "luigi.cfg").write_text("[matches]\nrho_reid = 3\n")

    def run(*more: object) -> str:
        done = command(
            "luigi",
            "RunDataset",
            "--local-scheduler",
            *dataset,
            *fast,
            "--output",
            folder / "out",
            *more,
            cache=folder / "cache",
            cwd=place,
        )
        return done.stderr

    assert run() == "ERROR: luigi.cfg: matches.rho_reid = 3: must be a number, -1 to 2\n"
    (place / "luigi.cfg").write_text("[matches]\nrho_reed = 0.5\n")
    assert "luigi.cfg: matches.rho_reed: no such setting; did you mean matches.rho_reid" in run()
    (place / "luigi.cfg").write_text("[matches]\nrho_reid = 0.5\n")
    assert "matches.rho_reid = 3" in run("--rho-reid", 3)
