"""The atomic writer: a file is whole or not there, whoever writes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cache.files import write_file

ROOT = Path(__file__).parents[1]
SIZE = 1 << 20


def test_a_file_and_its_folder_appear(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.bin"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    (taken / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_file(taken, b"one")
    with pytest.raises(OSError):
        write_file(tmp_path / ("x" * 300), b"one")
    assert list(tmp_path.iterdir()) == [taken]


def test_processes_that_write_one_file_never_show_a_part(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    code = (
        "import sys; from pathlib import Path; from cache.files import write_file\n"
        f"for _ in range(30): write_file(Path(sys.argv[1]), sys.argv[2].encode() * {SIZE})\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), letter], cwd=ROOT)
        for letter in "abc"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            data = path.read_bytes()
            assert len(data) == SIZE and data.count(data[:1]) == SIZE
            seen.add(data[:1])
    assert seen and [writer.returncode for writer in writers] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == [path]
