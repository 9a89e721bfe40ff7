"""Runs that are killed and whose disks fill up end as one that nobody disturbed.

`make test-faults` writes runs/faults.log, a line for each test, with how many kills were survived.
"""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache.files import TEMPORARY
from cache.store import Store
from cache.verify import verify
from tests.test_cache_faults import mounted
from tests.test_tasks import Place, contents, masks
from tests.tiny_run import write_dataset, write_weights

ROUNDS, KILLS = 7, 15
"""runs, and how often each is killed at most"""
pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place where a run has ended."""
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    write_dataset(place.data)
    write_weights(place.weights)
    done = place.luigi()
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def fresh(undisturbed: Place, tmp_path: Path) -> Place:
    """The same place before the run."""
    shutil.copytree(undisturbed.data, tmp_path / "data")
    shutil.copy2(undisturbed.weights, tmp_path)
    return Place(tmp_path)


def same(place: Place, undisturbed: Place) -> bool:
    """Whether a run left what it would have left undisturbed, byte for byte, and no draft."""
    assert not list(place.out.rglob(f"*{TEMPORARY}"))
    assert contents(place.cache) == contents(undisturbed.cache)
    assert masks(place.out) == masks(undisturbed.out)
    return (place.out / "report.html").exists()


def made(place: Place) -> dict[str, float]:
    """When each artifact and each exported video was made, by stage and name."""
    files = [(path, place.cache) for path in place.cache.rglob("*.h5")]
    files += [(path, place.out) for path in place.out.glob(".made/*.json")]
    return {str(path.relative_to(top)): path.stat().st_mtime for path, top in files}


def under_way(before: dict[str, float], after: dict[str, float]) -> str:
    """The stage that came next."""
    new = {when: name for name, when in after.items() if name not in before}
    return new[min(new)].partition("/")[0].replace(".made", "export") if new else "start or report"


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_run_survives_kills_at_random_moments(
    undisturbed: Place, fresh: Place, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Each kill is tried on what the one before left, from the start of Python to the report."""
    chance = random.Random(seed)
    states: list[dict[str, float]] = []
    for _ in range(KILLS):
        process = fresh.start("--local-scheduler")
        assert process.stderr is not None
        more = chance.randrange(4)
        while process.poll() is None and len(made(fresh)) < len(states and states[-1]) + more:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3 if more else 5))
        process.kill()
        process.stderr.close()
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
        assert not [line for found in verify(Store(fresh.cache)) for line in found.damaged]
        states.append(made(fresh))
    done = fresh.luigi()
    assert (done.returncode, done.stderr) == (0, "")
    for draft in fresh.folder.rglob(f"*{TEMPORARY}"):
        # They are swept once they are an hour old.
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
    assert same(fresh, undisturbed)
    states.append(made(fresh))
    stages = Counter(under_way(*pair) for pair in itertools.pairwise(states))
    record_property("survived", f"{len(states) - 1} kills: {dict(stages)}")
    assert len(states) > 5


def needs(folder: Path, what: str) -> int:
    """Inodes or bytes that a folder takes on a tmpfs."""
    files = [folder, *folder.rglob("*")]
    if what == "nr_inodes":
        return len(files)
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files if path.is_file())


@pytest.fixture
def limited(
    undisturbed: Place, fresh: Place, where: str, what: str, share: float
) -> Iterator[Path]:
    """A small disk where the cache or the results of the run go."""
    limit = int(share * needs(getattr(undisturbed, where), what))
    yield from mounted(getattr(fresh, where), f"{what}={limit}")


@pytest.mark.parametrize("where", ["cache", "out"])
@pytest.mark.parametrize("what", ["nr_inodes", "size"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_disk_that_fills_up_is_one_line_and_the_run_goes_on(
    undisturbed: Place, fresh: Place, limited: Path, what: str
) -> None:
    done = fresh.luigi()
    assert done.returncode != 0
    assert "Traceback" not in done.stderr and "No space left" in done.stderr
    for line in done.stderr.splitlines():
        assert str(limited) in line
    assert not list(fresh.folder.rglob(f"*{TEMPORARY}"))
    more = f"remount,{what}={10 * needs(limited, what) + (64 << 20)}"
    subprocess.run(["mount", "-o", more, str(limited)], check=True)
    done = fresh.luigi()
    assert (done.returncode, done.stderr) == (0, "")
    assert same(fresh, undisturbed)
