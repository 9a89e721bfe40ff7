"""Digests are remembered while a file is the same, and never longer."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from cache import digests
from cache.digests import FileDigests


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds later, so that files just written count as settled."""
    clock = time.time_ns
    monkeypatch.setattr(digests.time, "time_ns", lambda: clock() + 10_000_000_000)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really read."""
    seen: list[Path] = []
    read = digests._read
    monkeypatch.setattr(digests, "_read", lambda path: seen.append(path) or read(path))
    return seen


def expected(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@pytest.mark.usefixtures("now")
def test_an_unchanged_file_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    for _ in range(3):
        with FileDigests(tmp_path / "root") as memo:
            assert memo.digest(path) == memo.digest(str(path)) == expected(b"abc")
    assert reads == [path]


CHANGES = {
    "content": lambda path: path.write_bytes(b"abd"),
    "size": lambda path: path.write_bytes(b"abcd"),
    "another file": lambda path: (
        path.with_name("b").write_bytes(b"xyz"),
        path.with_name("b").replace(path),
    ),
    "content, mtime set back": lambda path: (
        (was := path.stat()),
        path.write_bytes(b"abd"),
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns)),
    ),
}


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_read_again(change: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    with FileDigests(tmp_path / "root") as memo:
        memo.digest(path)
    time.sleep(0.02)
    CHANGES[change](path)
    assert FileDigests(tmp_path / "root").digest(path) == expected(path.read_bytes())


def test_a_file_written_just_now_is_not_remembered(tmp_path: Path, reads: list[Path]) -> None:
    """It could change again within the same tick of its clock."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    memo = FileDigests(tmp_path / "root")
    memo.digest(path)
    memo.save()
    memo.digest(path)
    assert len(reads) == 2
    assert not (tmp_path / "root").exists()


@pytest.mark.usefixtures("now")
def test_a_no_change_run_over_2000_frames_is_fast(tmp_path: Path, reads: list[Path]) -> None:
    paths = [tmp_path / f"video{n % 20}" / f"{n:05}.jpg" for n in range(2000)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(path.name.encode())
    with FileDigests(tmp_path / "root") as memo:
        for path in paths:
            memo.digest(path)
    reads.clear()
    started = time.process_time()
    with FileDigests(tmp_path / "root") as memo:
        for path in paths:
            memo.digest(path)
    assert time.process_time() - started < 0.3
    assert reads == []


@pytest.mark.usefixtures("now")
def test_writers_at_once_leave_a_valid_memo(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.jpg" for n in range(40)]
    for path in paths:
        path.write_bytes(path.name.encode())

    def work(part: list[Path]) -> None:
        for path in part:
            with FileDigests(tmp_path / "root") as memo:
                memo.digest(path)

    threads = [threading.Thread(target=work, args=(paths[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    memo = FileDigests(tmp_path / "root")
    assert all(memo.digest(path) == expected(path.name.encode()) for path in paths)
    assert len(list((tmp_path / "root" / "digests").iterdir())) == 1


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a.jpg": 3}', b'{"a.jpg": ["x", 3]}'])
def test_a_broken_memo_is_forgotten(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    with FileDigests(tmp_path / "root") as memo:
        memo.digest(path)
    (kept,) = (tmp_path / "root" / "digests").iterdir()
    kept.write_bytes(content)
    with FileDigests(tmp_path / "root") as memo:
        assert memo.digest(path) == expected(b"abc")
    assert FileDigests(tmp_path / "root").digest(path) == expected(b"abc")


@pytest.mark.usefixtures("now")
def test_a_root_that_refuses_only_costs_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    (tmp_path / "root").write_text("")
    with FileDigests(tmp_path / "root") as memo:
        assert memo.digest(path) == expected(b"abc")


def test_a_missing_file_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileDigests(tmp_path).digest(tmp_path / "none.jpg")
