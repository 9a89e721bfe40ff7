"""What can go wrong with a disk, a process or a person's patience, caused for real."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache.files import GRACE_S, CacheError, DamagedArtifact
from cache.keys import key
from cache.prune import prune, sweep
from cache.schemas import SCHEMAS
from cache.store import Store
from cache.writer import Writer
from tests.test_cache_schemas import example, fill, store_example

ROOT = Path(__file__).parents[1]
FRAME = np.random.default_rng(0).standard_normal((64, 60, 107)).astype(np.float16)
"""0.8 MB that hardly compress"""


def flip(path: Path, data: bytes, bit: int) -> None:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)


def read_all(store: Store, stage: str, made: str) -> dict[str, Any]:
    with store.read(stage, "demo", "bear", made) as reader:
        return reader.arrays()


def chunks(path: Path) -> list[tuple[int, int]]:
    """First byte and size of every chunk of a file."""
    with h5py.File(path, "r", locking=False) as file:
        infos = [
            d.id.get_chunk_info(n) for d in file.values() for n in range(d.id.get_num_chunks())
        ]
    return [(info.byte_offset, info.size) for info in infos]


@pytest.mark.parametrize("stage", SCHEMAS)
def test_every_flipped_bit_of_the_data_is_found(stage: str, tmp_path: Path) -> None:
    store, rng = Store(tmp_path), np.random.default_rng(1)
    made, _ = store_example(store, stage)
    path = store.path(stage, "demo", "bear", made)
    good, places = path.read_bytes(), chunks(path)
    for _ in range(40):
        start, size = places[rng.integers(len(places))]
        flip(path, good, 8 * start + int(rng.integers(8 * size)))
        with pytest.raises(DamagedArtifact):
            read_all(store, stage, made)
        assert not store.exists(stage, "demo", "bear", made)


@pytest.mark.parametrize("stage", ["frames", "tubes"])
def test_a_flipped_bit_anywhere_is_found_or_harmless(stage: str, tmp_path: Path) -> None:
    """Also in HDF5's own structures and in the attributes."""
    store, rng = Store(tmp_path), np.random.default_rng(2)
    made, values = store_example(store, stage)
    path = store.path(stage, "demo", "bear", made)
    good = path.read_bytes()
    found = 0
    for bit in rng.choice(8 * len(good), 400, replace=False):
        flip(path, good, int(bit))
        try:
            for name, value in read_all(store, stage, made).items():
                np.testing.assert_array_equal(value, values[name])
        except DamagedArtifact:
            found += 1
    assert found > 100


def test_damage_found_late_is_reported_too(tmp_path: Path) -> None:
    """The file opens well; the frame that is read at last is bad."""
    store = Store(tmp_path)
    made, _ = store_example(store, "features")
    path = store.path("features", "demo", "bear", made)
    start, size = max(chunks(path))
    flip(path, path.read_bytes(), 8 * start + 4 * size)
    with store.read("features", "demo", "bear", made) as reader:
        reader["coarse"][0]
        with pytest.raises(DamagedArtifact) as caught:
            reader.arrays()
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    assert "renamed to" in message and "computes it anew" in message
    assert Path(f"{path}.bad").exists() and not path.exists()
    store_example(store, "features")
    read_all(store, "features", made)


def test_wrong_indices_are_the_callers_fault(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, _ = store_example(store, "features")
    with store.read("features", "demo", "bear", made) as reader:
        for wrong in (99, "x", (0, 0, 0, 0, 0)):
            with pytest.raises((IndexError, TypeError, ValueError)):
                reader["coarse"][wrong]
        with pytest.raises(KeyError):
            reader["fino"]
    assert store.exists("features", "demo", "bear", made)


@pytest.mark.parametrize("stage", SCHEMAS)
def test_every_truncation_is_found(stage: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, _ = store_example(store, stage)
    path = store.path(stage, "demo", "bear", made)
    good = path.read_bytes()
    for size in (0, 1, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(DamagedArtifact):
            read_all(store, stage, made)


def test_a_file_under_another_key_is_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, _ = store_example(store, "scores")
    other = "f" * 32
    path = store.path("scores", "demo", "bear", made)
    path.rename(store.path("scores", "demo", "bear", other))
    with pytest.raises(DamagedArtifact, match="another key"):
        read_all(store, "scores", other)


def test_a_foreign_file_is_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.path("scores", "demo", "bear", "0" * 32)
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file["J"] = np.zeros(3)
    with pytest.raises(DamagedArtifact, match="incomplete"):
        read_all(store, "scores", "0" * 32)


def test_a_file_replaced_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """Another process found the damage first and has computed the file anew."""
    store = Store(tmp_path)
    made, values = store_example(store, "features")
    path = store.path("features", "demo", "bear", made)
    start, size = max(chunks(path))
    flip(path, path.read_bytes(), 8 * start + 4 * size)
    with store.read("features", "demo", "bear", made) as reader:
        path.rename(tmp_path / "elsewhere")
        store_example(store, "features")
        with pytest.raises(DamagedArtifact):
            reader.arrays()
    np.testing.assert_array_equal(read_all(store, "features", made)["fine"], values["fine"])


@pytest.mark.parametrize("stage", ["features", "matches"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, OSError, GeneratorExit])
def test_an_exception_leaves_nothing(stage: str, kind: type[BaseException], tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(kind), Store(tmp_path).write(stage, "demo", "bear", {}) as writer:
        fill(writer, stage, example(stage))
        raise kind
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert threading.active_count() == threads


def writing(root: Path) -> subprocess.Popen[str]:
    """A process that writes features without end and says when it is under way."""
    code = (
        "import sys, itertools\n"
        "from cache.store import Store\n"
        "from tests.test_cache_faults import FRAME\n"
        "with Store(sys.argv[1]).write('features', 'demo', 'bear', {}) as writer:\n"
        "    for t in itertools.count():\n"
        "        writer.append('coarse', FRAME)\n"
        "        if t == 8: print('under way', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None and process.stdout.readline() == "under way\n"
    return process


def test_a_killed_writer_leaves_no_final_file(tmp_path: Path) -> None:
    process = writing(tmp_path)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    store = Store(tmp_path)
    assert not store.exists("features", "demo", "bear", key({}))
    (orphan,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert orphan.suffix == ".tmp"
    assert prune(store, delete=True) == []
    assert [p.path for p in prune(store, min_age_s=0, delete=True)] == [orphan]
    assert not orphan.exists()


def test_the_next_writer_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    process = writing(tmp_path)
    process.kill()
    process.wait()
    (orphan,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    record = tmp_path / "runs" / "one" / "two.json.0123.tmp"
    record.parent.mkdir(parents=True)
    record.touch()
    store = Store(tmp_path)
    store_example(store, "features", seed=1)
    sweep(store)
    assert orphan.exists() and record.exists()
    for path in (orphan, record):
        then = time.time() - GRACE_S - 1
        os.utime(path, (then, then))
    store_example(store, "features", seed=2)
    sweep(store)
    assert not orphan.exists() and not record.exists()
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 2


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    process = writing(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait() != 0
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def _race(root: Path, rounds: int, gate: Barrier, seed: int) -> None:
    for n in range(rounds):
        stage = ("features", "proposals")[n % 2]
        gate.wait(60)
        with Store(root).write(stage, "demo", "bear", {"round": n}) as writer:
            fill(writer, stage, example(stage, seed))


@pytest.mark.parametrize("rounds", [8, pytest.param(50, marks=pytest.mark.faults)])
def test_the_first_of_two_writers_wins(rounds: int, tmp_path: Path) -> None:
    """Each process writes other values, so a mixed file would show."""
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(2)
    racers = [context.Process(target=_race, args=(tmp_path, rounds, gate, n)) for n in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
        assert racer.exitcode == 0
    for n in range(rounds):
        stage = ("features", "proposals")[n % 2]
        found = read_all(Store(tmp_path), stage, key({"round": n}))
        candidates = [example(stage, seed) for seed in range(2)]
        assert any(all(np.array_equal(found[k], c[k]) for k in found) for c in candidates)
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == rounds


def test_the_second_writer_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, _ = store_example(store, "tubes")
    path = store.path("tubes", "demo", "bear", made)
    before = path.stat()
    store_example(store, "tubes")
    assert path.stat().st_ino == before.st_ino and path.stat().st_mtime_ns == before.st_mtime_ns


FILL = """
import resource, sys
from cache import writer
from cache.files import CacheError
from cache.store import Store
from cache.writer import Writer
from tests.test_cache_faults import FRAME
from tests.test_cache_schemas import example, fill
limit, stage = int(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with Store(sys.argv[1]).write(stage, "demo", "bear", {}) as out:
        if stage == "features":
            for _ in range(90):
                out.append("coarse", FRAME)
        else:
            fill(out, stage, example(stage))
except CacheError as error:
    print(error)
"""


def fill_up(root: Path, limit: int, stage: str) -> str:
    """Write in a process whose files may not grow beyond `limit` bytes; its output."""
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(root), str(limit), stage],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


LIMITS = [("features", 60 << 20), ("matches", 1000)]
MORE = [("features", n << 20) for n in (0, 3, 39, 41, 50, 70, 80)] + [("tubes", 0), ("matches", 0)]


@pytest.mark.parametrize(
    ("stage", "limit"), LIMITS + [pytest.param(*m, marks=pytest.mark.faults) for m in MORE]
)
def test_a_write_that_fails_is_one_clear_line(stage: str, limit: int, tmp_path: Path) -> None:
    """Wherever it fails, HDF5 neither leaves a file nor takes the process down."""
    message = fill_up(tmp_path, limit, stage)
    assert message.count("\n") == 1
    assert str(tmp_path) in message
    assert "[cache] root" in message and "DYENET_CACHE" in message and "prune" in message
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "size=60m")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "ro")


def test_a_full_disk_is_one_clear_line(small_disk: Path) -> None:
    store = Store(small_disk)
    store.check_writable()
    with (
        pytest.raises(CacheError, match=r"No space left.*dyenet prune.*DYENET_CACHE"),
        store.write("features", "demo", "bear", {}) as writer,
    ):
        for _ in range(200):
            writer.append("coarse", FRAME)
    assert not [p for p in small_disk.rglob("*") if p.is_file()]
    (small_disk / "ballast").write_bytes(bytes(30 << 20))
    with pytest.raises(CacheError, match="No space left"):
        store.check_writable()


def test_a_read_only_disk_is_one_clear_line(read_only_disk: Path) -> None:
    for root in (read_only_disk, read_only_disk / "below"):
        store = Store(root)
        with pytest.raises(CacheError, match=r"Read-only.*\[cache\] root.*DYENET_CACHE"):
            store.check_writable()
        with (
            pytest.raises(CacheError, match="Read-only"),
            store.write("features", "demo", "bear", {}),
        ):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(CacheError, match="Permission denied"):
        Store(tmp_path).check_writable()


def test_a_root_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(CacheError, match=r"root: File exists.*DYENET_CACHE"):
        Store(tmp_path / "root").check_writable()
    with pytest.raises(CacheError, match=r"Not a directory.*DYENET_CACHE"):
        Store(tmp_path / "root" / "below").check_writable()


def test_check_writable_leaves_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "new" / "root").check_writable()
    assert list((tmp_path / "new" / "root").iterdir()) == []


def test_a_damaged_file_that_cannot_be_renamed_is_still_reported(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, _ = store_example(store, "scores")
    path = store.path("scores", "demo", "bear", made)
    path.write_bytes(path.read_bytes()[:200])
    Path(f"{path}.bad").mkdir()
    with pytest.raises(DamagedArtifact, match="remove it, since it cannot be renamed"):
        read_all(store, "scores", made)


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_is_flat_in_the_number_of_frames(tmp_path: Path) -> None:
    store = Store(tmp_path)
    frames = 160
    with store.write("features", "demo", "bear", {}) as writer:
        for t in range(frames):
            writer.append("coarse", FRAME)
            if t == 20:
                before = resident()
        grown = resident() - before
    with store.read("features", "demo", "bear", key({})) as reader:
        for t in range(frames):
            reader["coarse"][t]
            if t == 60:
                before = resident()
        read = resident() - before
    assert frames * FRAME.nbytes > 120 << 20
    assert grown < 16 << 20
    assert read < 16 << 20


def test_writing_runs_beside_the_computation(tmp_path: Path) -> None:
    with Store(tmp_path).write("features", "demo", "bear", {}) as writer:
        writer.append("coarse", FRAME)
        deadline = time.monotonic() + 10
        while not len(writer._growing["coarse"].dataset):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_error_in_the_background_reaches_the_caller(tmp_path: Path) -> None:
    """The dataset vanishes under the writer's feet."""
    writer = Writer(SCHEMAS["tubes"], tmp_path / "a.h5", tmp_path / "a.tmp")
    writer.append("masks", np.zeros((24, 30), np.uint8))
    writer._growing["masks"].dataset = None
    with pytest.raises(AttributeError):
        for _ in range(20):
            writer.append("masks", np.zeros((24, 30), np.uint8))
            time.sleep(0.01)
    writer.abandon()
