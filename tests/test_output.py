"""The output folder: only what this program wrote is replaced, all of it is watched over."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import IO
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from pipeline import RunDataset, cli
from pipeline.commands import engine
from pipeline.errors import UserError
from pipeline.pages.compare import compare_html
from pipeline.pages.run import report_html
from pipeline.reports import read_run
from pipeline.results.apart import check_apart
from pipeline.results.claim import alone, claim, release
from pipeline.results.export import VideoResult, export_video, exported, refuse_foreign_masks
from pipeline.results.made import GRACE, sweep
from pipeline.results.tables import gathered, report_is_current, unreported
from stages.frames import open_frames
from tests.test_export import files, gather, result
from tests.test_export import run as asked
from tests.tiny_run import FRAMES, ROOT, command, environment, ran, write_dataset, write_weights

LINK = "masks/walk/00004.png"
KEYS = {"tubes(2)": "abc"}
SETTINGS = {"dataset": "davis17", "matches.rho_reid": 0.7}


def write(out: Path, *names: str) -> list[VideoResult]:
    """Export some videos and gather them."""
    videos = [result(name) for name in names]
    for video in videos:
        export_video(video, out)
    gather(out, *videos)
    return videos


def for_people(out: Path) -> dict[str, bytes]:
    """Files whose bytes are the same in every run."""
    return {n: data for n, data in files(out).items() if n.startswith(("masks/", "scores/"))}


def shown(out: Path, keys: dict[str, dict[str, str]]) -> bool:
    """Whether the report is that of these videos."""
    return report_is_current(out, asked().settings, {video: [made] for video, made in keys.items()})


def test_files_of_others_stay(tmp_path: Path) -> None:
    write(tmp_path, "walk")
    others = {"masks/walk/note.txt", "masks/walk/99999.png", "overlays/mine.mp4", "scores/my.csv"}
    others |= {"scores/my_results-val.csv", "masks/00000.png", "pictures/walk/x/00000.jpg"}
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    shorter = result("walk", 4, keys={"tubes(2)": "def"})
    export_video(shorter, tmp_path)
    gather(tmp_path, shorter)
    assert {n for n, data in files(tmp_path).items() if data == b"mine"} == others
    masks = [f"{n:05d}.png" for n in (0, 1, 2, 3, 99999)]
    assert sorted(p.name for p in (tmp_path / "masks/walk").glob("*.png")) == masks


@pytest.mark.parametrize(
    "name",
    [
        "masks/walk/00003.png",
        "overlays/walk.mp4",
        "pictures/walk/00000.jpg",
        "masks/walk/00004.png",
    ],
)
def test_a_file_of_others_is_not_written_over(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.parent.mkdir(parents=True)
    if name == LINK:
        place.symlink_to("nowhere")
    else:
        place.write_text("mine")
    with pytest.raises(UserError, match=f"{place}: is there already.*move it away"):
        export_video(result("walk"), tmp_path)
    left = {p for p in tmp_path.rglob("*") if not p.is_dir()}
    assert left == {place, tmp_path / ".made/lock"}


@pytest.mark.parametrize("name", ["run.json", "report.html", "scores/frames.csv"])
def test_a_table_of_others_is_not_written_over(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("mine")
    with pytest.raises(UserError, match=f"{place}: is there already"):
        gather(tmp_path, result("walk"))
    assert place.read_text() == "mine"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def flip_and_set_back(path: Path) -> None:
    times = path.stat()
    flip(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("harm", [Path.unlink, flip, flip_and_set_back])
@pytest.mark.parametrize(
    "name", ["masks/walk/00003.png", "overlays/walk.mp4", "pictures/walk/00000.jpg"]
)
def test_damage_to_a_videos_files_is_seen_and_mended(
    tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    write(tmp_path, "walk")
    before = (tmp_path / name).read_bytes()
    harm(tmp_path / name)
    assert not exported(tmp_path, "walk", KEYS)
    assert export_video(result("walk"), tmp_path)
    assert name.endswith(".mp4") or (tmp_path / name).read_bytes() == before
    assert exported(tmp_path, "walk", KEYS)


@pytest.mark.parametrize("harm", [Path.unlink, flip, flip_and_set_back])
@pytest.mark.parametrize(
    "name", ["run.json", "report.html", "scores/starts.csv", "scores/global_results-val.csv"]
)
def test_damage_to_tables_is_seen_and_mended(
    tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    write(tmp_path, "walk", "run")
    before = (tmp_path / name).read_bytes()
    assert shown(tmp_path, {"walk": KEYS})
    harm(tmp_path / name)
    assert not shown(tmp_path, {"walk": KEYS})
    gather(tmp_path, result("walk"))
    assert (tmp_path / name).read_bytes() == before
    assert shown(tmp_path, {"walk": KEYS, "run": KEYS})
    assert not shown(tmp_path, {"walk": {"tubes(2)": "def"}})
    assert not report_is_current(tmp_path, asked().defaults, {"walk": [KEYS]})


def test_a_report_that_another_run_is_writing_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, "walk")
    other = result("run")
    export_video(other, tmp_path)
    with ThreadPoolExecutor() as pool:
        with gathered(tmp_path, [other], asked()):
            waiting = pool.submit(shown, tmp_path, {"walk": KEYS})
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
            report_html(tmp_path)
        assert waiting.result(timeout=60)


def test_of_two_that_export_one_video_the_first_wins(tmp_path: Path) -> None:
    write(tmp_path, "walk")
    ledger, aside = tmp_path / ".made/walk.json", tmp_path / "aside"
    with ThreadPoolExecutor() as pool:
        with alone(tmp_path):
            ledger.rename(aside)
            second = pool.submit(export_video, result("walk"), tmp_path)
            while not list(tmp_path.glob(".made/drafts/*/pictures/walk/00008.jpg")):
                assert not second.done(), second.result()
            aside.rename(ledger)
        assert second.result() is False


def test_a_copy_of_the_folder_is_whole(tmp_path: Path) -> None:
    write(tmp_path / "a", "walk")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    assert exported(tmp_path / "b", "walk", KEYS)
    assert shown(tmp_path / "b", {"walk": KEYS})


def test_records_that_are_damaged_or_gone_are_written_anew(tmp_path: Path) -> None:
    write(tmp_path, "walk", "run")
    before, records = for_people(tmp_path), sorted((tmp_path / ".made").glob("*"))
    rng = random.Random(0)
    for _ in range(40):
        record = rng.choice([path for path in records if path.is_file() and path.stat().st_size])
        data = bytearray(record.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        record.write_bytes(data)
        write(tmp_path, "walk", "run")
        assert for_people(tmp_path) == before
        assert exported(tmp_path, "walk", KEYS) and shown(tmp_path, {"run": KEYS})
    shutil.rmtree(tmp_path / ".made")
    write(tmp_path, "walk", "run")
    assert for_people(tmp_path) == before


def test_a_record_leads_to_nothing_outside_the_folder(tmp_path: Path) -> None:
    from pipeline.results.made import write_record

    out, other = tmp_path / "out", tmp_path / "other"
    write(out, "walk")
    other.write_text("mine")
    for name in ("../other", str(other), "masks/../../other"):
        record = {"made_from": None, "files": {name: None}}
        for path in ("walk.json", "report"):
            write_record(out / ".made" / path, record)
        write(out, "walk")
        assert other.read_text() == "mine"


def test_the_folder_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    write(tmp_path, "walk", "run")
    shutil.rmtree(tmp_path / ".made")
    for video in ("walk", "run"):
        record = {"export": 1, "keys": KEYS}
        (tmp_path / ".made").mkdir(exist_ok=True)
        (tmp_path / ".made" / f"{video}.json").write_text(json.dumps(record))
    shorter = result("walk", 4)
    assert export_video(shorter, tmp_path)
    assert len(list((tmp_path / "masks/walk").iterdir())) == 4
    gather(tmp_path, shorter)
    assert len(list((tmp_path / "masks/run").iterdir())) == 9


def test_a_folder_gathers_videos_whoever_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "once", "bee", "ant", "cow")
    for name in ("cow", "ant", "bee"):
        write(tmp_path / "each", name)
    assert for_people(tmp_path / "once") == for_people(tmp_path / "each")
    assert (tmp_path / "each/run.json").read_bytes() == (tmp_path / "once/run.json").read_bytes()
    assert "<h3>bee" in (tmp_path / "each/report.html").read_text()


def test_what_a_killed_run_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    write(tmp_path, "walk")
    before = files(tmp_path)
    drafts = [
        tmp_path / ".made/drafts/0123456789abcdef/masks/walk/00000.png",
        tmp_path / "scores/frames.csv.0123456789abcdef.tmp",
        tmp_path / ".made/walk.rows.0123456789abcdef.tmp",
        tmp_path / "masks/.4711.walk/00000.png",
        tmp_path / "overlays/.4711.walk.mp4",
    ]
    mine = [tmp_path / name for name in ("masks/.4711.other/0.png", "scores/a.tmp", ".0815.walk")]

    def leave(path: Path, age: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        for place in (path, *(p for p in path.parents if p.is_relative_to(tmp_path))):
            os.utime(place, (time.time() - age, time.time() - age))

    for path in (*drafts, *mine):
        leave(path, GRACE / 2)
    sweep(tmp_path, ["walk"])
    assert all(path.exists() for path in (*drafts, *mine))
    for path in (*drafts, *mine):
        leave(path, GRACE * 2)
    sweep(tmp_path, ["walk"])
    assert files(tmp_path) == before | {str(p.relative_to(tmp_path)): b"" for p in mine}
    assert not (tmp_path / "masks/.4711.walk").exists()
    assert not list((tmp_path / ".made/drafts").iterdir())


HOLD = """
import sys
from pathlib import Path
from pipeline.results.claim import claim
claim(Path(sys.argv[1]), {"dataset": "davis17", "matches.rho_reid": 0.7}, {}, ["walk"])
print("held", flush=True)
sys.stdin.read()
"""


def test_runs_with_other_settings_wait_for_the_end_of_the_first(tmp_path: Path) -> None:
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert held.stdout is not None and held.stdin is not None
    assert held.stdout.readline() == b"held\n"
    other = SETTINGS | {"matches.rho_reid": 0.9}
    with pytest.raises(UserError, match=r"at work there \(matches.rho_reid: 0.7 there, 0.9 here\)"):
        claim(tmp_path, other, {}, ["walk"])
    claim(tmp_path, SETTINGS, {}, ["run"])
    release(tmp_path)
    held.stdin.close()
    assert held.wait() == 0
    held.stdout.close()
    claim(tmp_path, other, {}, ["walk"])
    release(tmp_path)


EXPORT = """
import sys
from pathlib import Path
from pipeline.results.export import export_video
from tests.test_export import result
sys.stdin.readline()
export_video(result("walk"), Path(sys.argv[1]))
"""


def test_processes_that_export_one_video_at_once_all_end_well(tmp_path: Path) -> None:
    several = [
        subprocess.Popen([sys.executable, "-c", EXPORT, tmp_path], cwd=ROOT, stdin=subprocess.PIPE)
        for _ in range(4)
    ]
    time.sleep(3)
    for process in several:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait() for process in several] == [0] * 4
    assert exported(tmp_path, "walk", KEYS)
    assert len(list((tmp_path / "masks/walk").iterdir())) == 9


def test_settings_are_not_mixed_in_a_folder(tmp_path: Path) -> None:
    claim(tmp_path, SETTINGS, {}, ["walk", "run"])
    write(tmp_path, "walk", "run")
    other = SETTINGS | {"tubes.edges": 3}
    with pytest.raises(UserError, match=r"holds run, made .*tubes.edges: 0 there, 3 here\)"):
        claim(tmp_path, other, {"tubes.edges": 0}, ["walk"])
    claim(tmp_path, SETTINGS | {"tubes.edges": 0}, {"tubes.edges": 0}, ["walk"])
    claim(tmp_path, other, {"tubes.edges": 0}, ["walk", "run", "more"])
    release(tmp_path)
    gather(tmp_path, result("walk"))
    assert set(read_run(tmp_path)["videos"]) == {"walk"}
    assert unreported(tmp_path) == ["run"]
    (tmp_path / ".made/settings").unlink()
    recorded = {"dataset": "davis17", "split": "val", "matches.rho_reid": 0.8}
    with pytest.raises(UserError, match=r"holds run, .*rho_reid: 0.8 there, 0.9 here"):
        claim(tmp_path, recorded | {"matches.rho_reid": 0.9}, {"matches.templates": 20}, ["walk"])


def as_nfs(file: IO[bytes], kind: int) -> None:
    """How NFS does flock()."""
    fcntl.lockf(file, kind)


def without_locks(file: IO[bytes], kind: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("flock", [as_nfs, without_locks])
def test_folders_are_claimed_where_locks_are_others_or_refused(
    tmp_path: Path, flock: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", flock)
    claim(tmp_path, SETTINGS, {}, ["walk"])
    write(tmp_path, "walk")
    release(tmp_path)
    claim(tmp_path, SETTINGS | {"matches.rho_reid": 0.9}, {}, ["walk"])
    release(tmp_path)
    assert exported(tmp_path, "walk", KEYS)


@pytest.mark.parametrize(
    ("out", "source"),
    [
        ("", "masks/walk"),
        ("", "masks"),
        ("", "masks/walk/00000.png"),
        ("", "overlays/walk.mp4"),
        ("", "run.json"),
        ("frames", "frames"),
        ("link", "masks"),
        ("cache/runs", "cache"),
        ("", "scores/w.safetensors"),
    ],
)
def test_results_do_not_go_over_or_into_a_source(tmp_path: Path, out: str, source: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"written over or into the masks .*; give another"):
        check_apart(tmp_path / out, ["walk"], {tmp_path / source: "the masks"})


@pytest.mark.parametrize("source", ["clip.mp4", "masks/other", "frames", "first.png", "cache"])
def test_results_may_lie_beside_a_source(tmp_path: Path, source: str) -> None:
    check_apart(tmp_path, ["walk"], {tmp_path / source: "the clip"})
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/walk").symlink_to(tmp_path / source)
    with pytest.raises(UserError, match="written over or into"):
        check_apart(tmp_path, ["walk"], {tmp_path / source: "the clip"})


NASTY = [
    '"><script>alert(1)</script>',
    "'onmouseover='alert(1)",
    "</title><img src=x onerror=alert(1)>",
    "a#b?c&d=%41;é",
    "{{ 7 * 7 }}",
]


class Elements(HTMLParser):
    """Every element with its attributes, and the text between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_in_reports_are_text(tmp_path: Path) -> None:
    # A slash cannot be part of a name; this division sign is as near as one comes.
    names = [name.replace("/", "\N{DIVISION SLASH}") for name in NASTY]
    for run, shown in (("a", names), ("b", ["plain", *names])):
        write(tmp_path / run, *shown)
        export_video(result(shown[0], 9, masks=[np.zeros((48, 65), "u1")] * 9), tmp_path / run)
    allowed = {tag for tag, _ in Elements(report(tmp_path / "plain", "plain")).found}
    for page in (tmp_path / "a/report.html", compare_html(tmp_path / "a", tmp_path / "b")):
        read = Elements(page)
        assert all(name in read.text for name in names)
        assert not [attrs for _, attrs in read.found if any(a.startswith("on") for a in attrs)]
        sources = [attrs["src"] or "" for tag, attrs in read.found if tag == "img"]
        assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
        if page.name == "report.html":
            assert {tag for tag, _ in read.found} == allowed
            films = [attrs["href"] or "" for tag, attrs in read.found if tag == "a"]
            films = [unquote(at) for at in films if not at.startswith("#")]
            assert sorted(films) == sorted(f"overlays/{name}.mp4" for name in names)
            assert all((tmp_path / "a" / film).is_file() for film in films)


def report(out: Path, *names: str) -> Path:
    write(out, *names)
    return out / "report.html"


def damage(rng: random.Random, data: bytes) -> bytes:
    """A file as a fault may leave it."""
    at = rng.randrange(len(data))
    return [
        data[:at],
        data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
        data[:at] + rng.randbytes(20) + data[at:],
        data.replace(rng.choice([b"0", b"1", b",", b'"', b"walk"]), rng.choice([b"", b"x", b"-7"])),
        b"",
    ][rng.randrange(5)]


@pytest.mark.parametrize("watched", [True, False])
def test_report_on_damaged_tables_is_one_line(
    tmp_path: Path, watched: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the folder lacks its records, as one of an earlier version does."""
    out = tmp_path / "out"
    write(out, "walk", "run")
    if not watched:
        shutil.rmtree(out / ".made")
    whole, rng = files(out), random.Random(1)
    names = [n for n in whole if n == "run.json" or (n.startswith("scores/") and "_res" not in n)]
    refused = 0
    for _ in range(120):
        name = rng.choice(names)
        data = damage(rng, whole[name])
        (out / name).write_bytes(data)
        status = cli.main(["report", str(out), "--tables", "csv"])
        said = capsys.readouterr().err
        assert (status, said.count("\n")) == (1, 1) if said else status == 0
        assert not said or (said.startswith("ERROR: ") and str(out / name) in said)
        assert said or data == whole[name] or not watched
        refused += bool(said)
        (out / name).write_bytes(whole[name])
    assert refused > 50
    assert cli.main(["report", str(out)]) == 0


class Data:
    """A dataset, weights and a cache; a run of seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"

    def options(self, out: Path, videos: str = "", **changed: object) -> dict[str, str]:
        usual = {
            "dataset": "davis17",
            "root": self.folder / "data",
            "weights": self.folder / "w.safetensors",
            "precision": "fp32",
            "variant": "remp",
            "output": out,
            "videos": videos,
        }
        return {name: str(value) for name, value in {**usual, **changed}.items()}

    def start(self, out: Path, videos: str, **changed: object) -> subprocess.Popen[str]:
        options = self.options(out, videos, **changed).items()
        flags = [part for n, v in options for part in (f"--{n.replace('_', '-')}", v)]
        luigi = [sys.executable, "-m", "luigi", "--module", "pipeline", "RunDataset"]
        return subprocess.Popen(
            [*luigi, "--local-scheduler", *flags],
            env=environment(self.cache),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("output")
    write_dataset(folder / "data")
    write_weights(folder / "w.safetensors")
    return Data(folder)


@pytest.fixture
def run(
    data: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run in this process; what it said."""
    monkeypatch.setenv("DYENET_CACHE", str(data.cache))

    def run(*given: object, **changed: object) -> str:
        assert engine.build(RunDataset(**data.options(*given, **changed)))  # type: ignore[arg-type]
        return capsys.readouterr().out

    return run


def test_videos_one_after_the_other_and_at_once(
    data: Data, run: Callable[..., str], tmp_path: Path
) -> None:
    run(tmp_path / "once")
    once = for_people(tmp_path / "once")
    assert len(once) == 2 * FRAMES + 7
    run(tmp_path / "each", "bee")
    said = run(tmp_path / "each", "ant")
    assert f"{tmp_path / 'each'} also holds bee; the report covers them" in said
    assert for_people(tmp_path / "each") == once
    assert ran(run(tmp_path / "each")) == {}

    both = [data.start(tmp_path / "two", video) for video in ("ant", "bee")]
    ends = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert [err for _, err in ends] == ["", ""]
    assert for_people(tmp_path / "two") == once


def test_two_runs_with_different_settings_at_once(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = data.start(out, "ant", set="tracklets.abort_area=20")
    while not (out / ".made/settings").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    time.sleep(0.1)  # it holds the lock of the records for a moment more
    first.send_signal(signal.SIGSTOP)
    second = data.start(out, "ant")
    _, said = second.communicate(timeout=300)
    first.send_signal(signal.SIGCONT)
    assert second.returncode != 0
    assert said.startswith(f"ERROR: {out}: a run with other settings is at work there (tracklets.")
    assert said.count("\n") == 1
    assert first.communicate(timeout=300)[1] == ""
    assert first.returncode == 0
    third = data.start(out, "bee")
    assert "holds ant, made with other settings" in third.communicate(timeout=300)[1]
    assert third.returncode != 0


def test_a_rerun_mends_the_output(data: Data, run: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out)
    before = for_people(out)
    for name, tasks in (
        ("masks/ant/00002.png", {"ant": ["export"], "": ["report"]}),
        ("overlays/bee.mp4", {"bee": ["export"], "": ["report"]}),
        ("scores/frames.csv", {"": ["report"]}),
        ("report.html", {"": ["report"]}),
        ("run.json", {"": ["report"]}),
    ):
        for harm in (flip, Path.unlink):
            harm(out / name)
            found = ran(run(out))
            assert {v: t for v, t in found.items() if v} == {v: t for v, t in tasks.items() if v}
            assert for_people(out) == before
            assert ran(run(out)) == {}


def test_given_masks_are_never_written_over(data: Data, tmp_path: Path) -> None:
    root = tmp_path / "own"
    frames = data.folder / "data/JPEGImages/480p/ant"
    given = data.folder / "data/Annotations/480p/ant"
    shutil.copytree(frames, root / "ant")
    shutil.copytree(given, root / "masks/ant")
    before = files(root)
    usual = {"dataset": "folder", "root": root, "split": "all"}
    refused = data.start(root, "", **usual)
    _, said = refused.communicate(timeout=300)
    assert refused.returncode != 0
    assert said.startswith("ERROR: ") and said.count("\n") == 1
    assert str(root / "masks/ant") in said and "the masks of video ant" in said
    fast = ["--weights", data.folder / "w.safetensors", "--precision=fp32", "--variant=remp"]
    shutil.copy(given / "00000.png", root / "masks/bee.png")
    shutil.copytree(frames, root / "bee")
    before = files(root)
    for clip, masks, out in (
        ("ant", "masks/ant", "."),
        ("ant", "masks/ant/00000.png", "ant"),
        ("bee", "masks/bee.png", "."),
    ):
        done = command(
            "dyenet", "segment", clip, masks, "-o", out, *fast, cache=data.cache, cwd=root
        )
        assert done.returncode == 1
        assert done.stderr.startswith("ERROR: ") and done.stderr.count("\n") == 1
    assert files(root) == before


def test_a_mask_of_a_folder_of_videos_is_not_joined_by_results(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "walk.mp4").touch()
    refuse_foreign_masks(tmp_path)
    write(tmp_path, "walk")
    refuse_foreign_masks(tmp_path)
    (tmp_path / "masks/note.png").touch()
    refuse_foreign_masks(tmp_path)
    (tmp_path / "note").mkdir()
    with pytest.raises(UserError, match=r"masks/note.png: is a mask of .*/note, and results"):
        refuse_foreign_masks(tmp_path)


def test_results_beside_the_clip(data: Data, tmp_path: Path) -> None:
    shutil.copytree(data.folder / "data/JPEGImages/480p/ant", tmp_path / "ant")
    shutil.copy(data.folder / "data/Annotations/480p/ant/00000.png", tmp_path / "first.png")
    fast = ["--weights", data.folder / "w.safetensors", "--precision=fp32", "--variant=remp"]
    segment = ["segment", "ant", "first.png", "-o", ".", *fast]
    done = command("dyenet", *segment, cache=data.cache, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(open_frames(tmp_path / "overlays/ant.mp4", "ant").names) == FRAMES
    assert len(pd.read_csv(tmp_path / "scores/starts.csv")) > 0
    assert report_html(tmp_path).exists()
