"""`dyenet score` as a person types it: any folder of masks, its options, and bad folders."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import RunDataset, cli
from pipeline.commands import engine
from tests.clip import draw
from tests.tiny_run import command, write_dataset, write_mask, write_weights

Score = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of two videos, and predictions a little off."""
    monkeypatch.setenv("DYENET_CACHE", str(tmp_path / "cache"))
    write_dataset(tmp_path / "data", ("cat_01", "cat_02"))
    for video, shift in (("cat_01", 1), ("cat_02", 3)):
        (tmp_path / "masks" / video).mkdir(parents=True)
        for path in (tmp_path / "data/Annotations/480p" / video).iterdir():
            mask = np.roll(np.array(Image.open(path)), shift, axis=0)
            write_mask(tmp_path / "masks" / video / path.name, mask)
    return tmp_path


@pytest.fixture
def score(folder: Path, capsys: pytest.CaptureFixture[str]) -> Score:
    """Score the predictions; exit status and what was said."""

    def score(*more: str) -> tuple[int, str, str]:
        asked = ["score", str(folder / "masks"), "--dataset=davis17", f"--root={folder / 'data'}"]
        status = cli.main([*asked, f"--output={folder / 'out'}", *more])
        said = capsys.readouterr()
        return status, said.out, said.err

    return score


def official(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "out/global_results-val.csv")


def test_names_columns_and_digits_are_the_official_ones(folder: Path, score: Score) -> None:
    status, said, _ = score()
    assert status == 0
    assert "scored: all annotated frames but each video's first and last; mean over objects" in said
    overall = (folder / "out/global_results-val.csv").read_text().splitlines()
    assert overall[0] == "J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay"
    assert all(len(value.split(".")[1]) == 3 for value in overall[1].split(","))
    each = pd.read_csv(folder / "out/per-sequence_results-val.csv")
    assert list(each.columns) == ["Sequence", "J-Mean", "F-Mean"]
    # Object 2 is in no frame: a number below the highest counts, and empty is as it should be.
    assert list(each["Sequence"]) == [f"cat_0{v}_{i}" for v in (1, 2) for i in (1, 2, 3)]
    assert each["J-Mean"].iloc[1] == 1


def test_frames_and_average_are_options_and_said(folder: Path, score: Score) -> None:
    _, said, _ = score("--frames=all", "--average=categories")
    assert "scored: all annotated frames; mean over categories" in said
    score("--frames=later")
    assert len(pd.read_csv(folder / "out/per-sequence_results-val.csv")) == 4


def test_the_official_decay_only_when_asked(folder: Path, score: Score) -> None:
    """258 scored frames, better and better: the tool's 8 bits turn the last quarter's end to 1."""
    for kind in ("data/JPEGImages/480p", "data/Annotations/480p", "masks"):
        for path in sorted((folder / kind / "cat_01").iterdir()):
            path.unlink()
    mask = draw(0)[1]
    for j in range(260):
        name = f"cat_01/{j:05d}"
        (folder / f"data/JPEGImages/480p/{name}.jpg").touch()
        write_mask(folder / f"data/Annotations/480p/{name}.png", mask)
        write_mask(folder / f"masks/{name}.png", mask if j > 130 else np.roll(mask, 9, axis=0))
    (folder / "data/ImageSets/2017/val.txt").write_text("cat_01\n")
    _, said, _ = score()
    assert "decay as" not in said
    assert official(folder)["J-Decay"][0] < -0.3
    _, said, _ = score("--official-decay")
    assert "; decay as the official tool" in said
    assert official(folder)["J-Decay"].isna()[0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "there is no mask"),
        ("extra", "holds object 4, but the given masks have only 1, 2, 3"),
        ("size", "is 72x55, the frames are 72x56"),
        ("colour", "is a colour picture"),
        ("damaged", "cannot be decoded"),
    ],
)
def test_a_bad_folder_is_one_line_and_status_1(folder: Path, fault: str, words: str) -> None:
    path = folder / "masks/cat_02/00002.png"
    mask = np.array(Image.open(path))
    if fault == "missing":
        path.unlink()
    elif fault == "extra":
        mask[5, 5] = 4
        write_mask(path, mask)
    elif fault == "size":
        write_mask(path, mask[1:])
    elif fault == "colour":
        Image.open(path).convert("RGB").save(path)
    else:
        path.write_bytes(path.read_bytes()[:70])
    options = ["--dataset", "davis17", "--root", folder / "data", "--output", folder / "out"]
    done = command(
        "dyenet", "score", folder / "masks", *options, cache=folder / "cache", cwd=folder
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("ERROR: video cat_02, frame 00002: ")
    assert words in done.stderr and str(path) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folder / "out").exists()


def test_scoring_imports_no_more_than_it_needs(folder: Path) -> None:
    code = (
        "import sys; from pipeline import cli; cli.main(sys.argv[1:])\n"
        "print(sorted({'h5py', 'luigi', 'pandas', 'torch'} & set(sys.modules)))"
    )
    options = ["--dataset=davis17", f"--root={folder / 'data'}", f"--output={folder / 'out'}"]
    asked = [sys.executable, "-c", code, "score", str(folder / "masks"), *options]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_test_dev_gives_the_submission_folder(folder: Path, score: Score) -> None:
    """Without annotations but the first: masks, no scores, and `score` says why not."""
    for path in (folder / "data/Annotations/480p").glob("*/*.png"):
        if path.stem != "00000":
            path.unlink()
    weights = write_weights(folder / "w.safetensors")
    options = {"precision": "fp32", "max_iterations": "1", "output": str(folder / "run")}
    root = str(folder / "data")
    assert engine.build(RunDataset(dataset="davis17", root=root, weights=str(weights), **options))
    for video in ("cat_01", "cat_02"):
        frames = {path.stem for path in (folder / f"data/JPEGImages/480p/{video}").iterdir()}
        written = list((folder / "run/masks" / video).iterdir())
        assert {path.stem for path in written} == frames
        assert all(Image.open(path).mode == "P" for path in written)
    assert not list((folder / "run/scores").glob("*results*"))
    status, _, said = score()
    assert status == 1
    assert "no annotations to score against" in said and said.count("\n") == 1
