"""Pruning takes what no kept run reached, and only that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cache import memo
from cache.files import CacheError
from cache.memo import BoxMemo, TrackletMemo
from cache.prune import prune, record_run, usage
from cache.store import Store
from tests.test_cache_schemas import store_example

ROOT = Path(__file__).parents[1]
BOX, MASK = np.zeros(4, np.float32), np.zeros((8, 8), np.uint8)
TRACKLET = {"first": 0, "ended": (True, True), "boxes": BOX[None], "masks": MASK[None]}


def age(root: Path, seconds: float) -> None:
    """Make every file of the artifacts older."""
    for path in root.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


def names(store: Store, found: list) -> set[str]:
    return {str(item.path.relative_to(store.root)).split("/")[0] for item in found}


def test_mark_and_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = [store_example(store, stage, seed=1)[0] for stage in ("flow", "tubes")]
    lost = [store_example(store, stage, seed=2)[0] for stage in ("flow", "scores")]
    memos = []
    for recipe in ({"run": 1}, {"run": 2}):
        tracklets = TrackletMemo(store, "demo", "bear", recipe)
        tracklets.put(0, 1, BOX, MASK, TRACKLET)
        with BoxMemo(memo.MASK, store, "demo", "bear", recipe) as masks:
            masks.put(0, BOX, MASK)
        memos.append(tracklets.reached | masks.reached)
    record_run(store, "one", kept, memos[0])
    age(tmp_path, 7200)
    found = prune(store)
    assert {item.reason for item in found} == {"reached by no kept run"}
    assert {item.path for item in found} == {
        store.path("flow", "demo", "bear", lost[0]),
        store.path("scores", "demo", "bear", lost[1]),
        *(p for p in (tmp_path / "memo").rglob("*.h5") if p.name[:16] not in _short(memos[0])),
    }
    assert len(found) == 4
    assert all(item.path.exists() and item.bytes == item.path.stat().st_size for item in found)
    assert prune(store, delete=True) == found
    assert not any(item.path.exists() for item in found)
    assert prune(store) == []
    assert store.exists("tubes", "demo", "bear", kept[1])
    assert TrackletMemo(store, "demo", "bear", {"run": 1}).get(0, 1, BOX, MASK)
    with BoxMemo(memo.MASK, store, "demo", "bear", {"run": 1}) as masks:
        assert masks.get(0, BOX) is not None


def _short(keys: set[str]) -> set[str]:
    return {key[:16] for key in keys}


def test_the_young_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store_example(store, "flow")
    assert prune(store) == []
    assert len(prune(store, min_age_s=0)) == 1


def test_only_some_stages(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for stage in ("features", "flow", "scores"):
        store_example(store, stage)
    assert names(store, prune(store, stages=["features"], min_age_s=0)) == {"features"}
    with pytest.raises(CacheError, match="no such stage: feature"):
        prune(store, stages=["feature"])


def test_newest_runs_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for n, stage in enumerate(("flow", "scores", "matches")):
        record_run(store, stage, [store_example(store, stage, seed=n)[0]])
        time.sleep(0.01)
    assert prune(store, min_age_s=0) == []
    found = prune(store, min_age_s=0, keep_runs=1, delete=True)
    assert names(store, found) == {"flow", "scores", "runs"}
    assert [p.parent.name for p in (tmp_path / "runs").rglob("*.json")] == ["matches"]


def test_a_size_limit_takes_the_least_recently_used_first(tmp_path: Path) -> None:
    """Of files used at the same time features go first; how old a file is does not matter."""
    store = Store(tmp_path)
    tubes, scores, features = (
        store_example(store, stage)[0] for stage in ("tubes", "scores", "features")
    )
    record_run(store, "old", [tubes])
    time.sleep(0.01)
    record_run(store, "new", [scores, features])
    age(tmp_path / "scores", 7200)
    sizes = {stage: use.bytes for stage, use in usage(store).items()}
    total = sum(sizes.values())

    def gone(limit: int, **more: object) -> set[str]:
        found = prune(store, min_age_s=0, max_bytes=limit, **more)
        assert {item.reason for item in found} <= {"over the size limit"}
        return names(store, found)

    assert gone(total) == set()
    assert gone(total - 1) == {"tubes"}
    assert gone(sizes["scores"]) == {"tubes", "features"}
    assert gone(0, stages=["scores"]) == {"scores"}
    time.sleep(0.01)
    record_run(store, "old", [tubes])
    assert gone(total - 1) == {"features"}


def test_files_of_others_stay(tmp_path: Path) -> None:
    """A root that also holds files that this program did not write."""
    store = Store(tmp_path)
    store_example(store, "flow")
    others = [tmp_path / "flow/demo/bear" / name for name in ("notes.txt", "mine.h5", "a.h5.bad")]
    for path in others:
        path.write_text("mine")
    prune(store, min_age_s=0, max_bytes=0, delete=True)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == sorted(others)


def test_orphans_and_damaged_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, _ = store_example(store, "flow")
    record_run(store, "one", [made])
    path = store.path("flow", "demo", "bear", made)
    Path(f"{path}.0123.tmp").write_bytes(b"abc")
    Path(f"{path}.bad").write_bytes(b"abcd")
    (tmp_path / "runs" / "one" / "two.json.0123.tmp").write_bytes(b"a")
    assert prune(store) == []
    age(tmp_path, 7200)
    found = prune(store, delete=True)
    assert [(item.bytes, item.reason) for item in sorted(found, key=lambda i: i.bytes)] == [
        (1, "orphaned temporary file"),
        (3, "orphaned temporary file"),
        (4, "damaged"),
    ]
    assert path.exists() and prune(store) == []


def test_a_run_may_be_recorded_in_parts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = [store_example(store, stage)[0] for stage in ("flow", "scores")]
    for key in made:
        record_run(store, "one", [key])
    assert prune(store, min_age_s=0) == []


def test_an_unreadable_record_stops_pruning(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record_run(store, "one", [])
    (path,) = (tmp_path / "runs" / "one").iterdir()
    for text in ("{", '{"keys": [], "time": 1}'):
        path.write_text(text)
        with pytest.raises(CacheError, match=rf"{path.name} is damaged, and set aside"):
            prune(store)


def test_processes_that_record_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """Four processes with 20 calls each, all on the record of one run."""
    code = (
        "import sys; from cache.prune import record_run; from cache.store import Store\n"
        "store, n = Store(sys.argv[1]), int(sys.argv[2])\n"
        "for k in range(20): record_run(store, 'one', [], [f'{n:016d}{k:016d}'[::-1]])\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)], cwd=ROOT)
        for n in range(4)
    ]
    assert [process.wait() for process in running] == [0] * 4
    wanted = {f"{n:016d}{k:016d}"[::-1] for n in range(4) for k in range(20)}
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("*.json")]
    assert {key for record in records for key in record["memo_keys"]} == wanted
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_same_keys_again_are_one_record_of_a_later_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    times = []
    for keys in (["b", "a"], ["a", "b", "a"]):
        record_run(store, "one", keys)
        (path,) = (tmp_path / "runs" / "one").iterdir()
        times.append(json.loads(path.read_text())["time"])
        time.sleep(0.01)
    assert times[1] > times[0]


def test_a_record_of_an_older_version_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, new, lost = (store_example(store, "flow", seed=n)[0] for n in range(3))
    record_run(store, "other", [lost])
    runs = tmp_path / "runs"
    written = {"time": time.time() + 5, "keys": [old], "memo_keys": []}
    (runs / "one.json").write_text(json.dumps(written))
    record_run(store, "one", [new])
    assert prune(store, min_age_s=0) == []
    # both records of one run are as new as the newer of them
    found = prune(store, min_age_s=0, keep_runs=1, delete=True)
    assert {item.path for item in found if item.path.suffix == ".h5"} == {
        store.path("flow", "demo", "bear", lost)
    }
    assert {
        path.stem if path.parent == runs else path.parent.name for path in runs.rglob("*.json")
    } == {"one"}
    prune(store, min_age_s=0, keep_runs=0, delete=True)
    assert not list(runs.rglob("*.json"))


def test_usage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not any(use.files for use in usage(store).values())
    for seed in range(3):
        store_example(store, "flow", seed)
    assert usage(store)["flow"].files == 3
    sizes = [path.stat().st_size for path in (tmp_path / "flow").rglob("*.h5")]
    assert usage(store)["flow"].bytes == sum(sizes)
