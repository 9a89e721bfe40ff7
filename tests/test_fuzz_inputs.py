"""Mutated files of every kind that a command reads: one line, or results that are whole.

`python -m pytest -m fuzz tests/test_fuzz_inputs.py -s` prints how many were read and refused.
"""

from __future__ import annotations

import io
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.digests import FileDigests
from cache.files import CacheError
from cache.store import Store
from models.weights import BadWeights, load_modules, module_digests
from pipeline.errors import UserError
from pipeline.plan.inputs import module_digests as known_digests
from pipeline.plan.recipe import _stored
from stages.frames import BadInput, manifest, read_index_mask
from tests.clip import SIZE, draw
from tests.test_cache_schemas import store_example
from tests.test_inputs import FILMS, jpeg
from tests.tiny_run import ROOT, command, write_dataset, write_mask, write_weights

MENDABLE = BadInput, BadWeights, CacheError, UserError
LONGEST = 10.0
"""seconds that reading a file may take"""
Read = Callable[[Path], object]


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies with flipped bits, noise, pieces cut out, doubled or cut off."""
    rng = np.random.default_rng(seed)
    for n in range(count):
        changed = bytearray(data)
        first, second = sorted(int(i) for i in rng.integers(0, len(data) + 1, 2))
        match n % 5:
            case 0:
                for bit in rng.integers(0, 8 * len(data), int(rng.integers(1, 5))):
                    changed[bit // 8] ^= 1 << int(bit % 8)
            case 1:
                end = min(len(data), first + int(rng.integers(1, 500)))
                changed[first:end] = rng.bytes(end - first)
            case 2:
                del changed[first:second]
            case 3:
                changed[second:second] = changed[first:second]
            case 4:
                del changed[first:]
        yield bytes(changed)


def read_frame(path: Path) -> object:
    return manifest((path,), "v", str)


def read_mask(path: Path) -> object:
    return read_index_mask(path, SIZE, "v", "0")


def read_film(path: Path) -> object:
    return manifest(path, "v", str)


def read_weights(path: Path) -> object:
    return module_digests(path), load_modules(path)


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(draw(0)[0]).save(out, kind)
    return out.getvalue()


def mask(folder: Path) -> bytes:
    write_mask(folder / "mask.png", draw(0)[1])
    return (folder / "mask.png").read_bytes()


KINDS: dict[str, tuple[Callable[[Path], bytes], Read, int]] = {
    "jpg": (lambda folder: jpeg(), read_frame, 300),
    "png": (lambda folder: picture("PNG"), read_frame, 200),
    "webp": (lambda folder: picture("WEBP"), read_frame, 100),
    "tif": (lambda folder: picture("TIFF"), read_frame, 100),
    "mask.png": (mask, read_mask, 200),
    **{
        film.name: (lambda folder, film=film: film.read_bytes(), read_film, 60)
        for film in sorted(FILMS.iterdir())
    },
    "safetensors": (
        lambda folder: write_weights(folder / "w.safetensors").read_bytes(),
        read_weights,
        60,
    ),
}


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    make, read, count = KINDS[kind]
    outcomes: Counter[str] = Counter()
    path = tmp_path / f"file.{kind.rsplit('.', 1)[-1]}"
    for data in mutants(make(tmp_path), count, 0):
        path.write_bytes(data)
        began = time.perf_counter()
        try:
            read(path)
            outcomes["read"] += 1
        except MENDABLE as error:
            assert "\n" not in str(error) and str(path) in str(error)
            outcomes["refused"] += 1
        assert time.perf_counter() - began < LONGEST
    print(
        f"\n{kind:14} {count:4} tried, {outcomes['read']:4} read, {outcomes['refused']:4} refused"
    )


@pytest.mark.fuzz
@pytest.mark.parametrize("stage", ["frames", "features", "matches", "tubes", "scores"])
def test_a_mutated_artifact_is_whole_or_set_aside(stage: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, values = store_example(store, stage)
    path = store.path(stage, "demo", "bear", made)
    refused = 0
    for data in mutants(path.read_bytes(), 60, 1):
        path.write_bytes(data)
        try:
            with store.read(stage, "demo", "bear", made) as reader:
                for name, value in reader.arrays().items():
                    np.testing.assert_array_equal(value, values[name])
        except CacheError as error:
            assert "\n" not in str(error)
            refused += 1
    print(f"\n{stage:14}   60 tried, {60 - refused:4} read, {refused:4} refused")


@pytest.mark.fuzz
def test_mutated_books_are_found_out(tmp_path: Path) -> None:
    """Digests of weights and sources, and a recipe: read as they were, or not at all."""
    weights = write_weights(tmp_path / "w.safetensors")
    with FileDigests(tmp_path) as digests:
        known = known_digests(weights, digests, tmp_path)
    (book,) = (tmp_path / "digests" / "weights").iterdir()
    for data in mutants(book.read_bytes(), 200, 2):
        book.write_bytes(data)
        with FileDigests(tmp_path) as digests:
            assert known_digests(weights, digests, tmp_path) == known
    recipe = tmp_path / "0123456789abcdef.json"
    for data in mutants(b'{"dataset": "demo", "videos": {}, "settings": {}}', 200, 3):
        recipe.write_bytes(data)
        assert _stored(recipe) is None


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["luigi.cfg", "run.json", "scores/frames.csv", "frame", "mask"])
def test_a_command_given_mutated_files_ends_in_one_line(kind: str, tmp_path: Path) -> None:
    """The real commands in processes of their own: no traceback, no hang."""
    data = write_dataset(tmp_path / "data", ("ant",))
    weights = write_weights(tmp_path / "w.safetensors")
    run = (
        *("RunDataset", "--local-scheduler", "--dataset", "davis17", "--root", data),
        *("--weights", weights, "--max-iterations", "1", "--output", tmp_path / "out"),
    )
    (tmp_path / "luigi.cfg").write_text("[core]\nlog_level = WARNING\n[frames]\nheight = 0\n")
    done = command("luigi", *run, cache=tmp_path / "cache", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    places = {
        "frame": data / "JPEGImages/480p/ant/00001.jpg",
        "mask": data / "Annotations/480p/ant/00000.png",
        "luigi.cfg": tmp_path / "luigi.cfg",
    }
    place = places.get(kind, tmp_path / "out" / kind)
    good = place.read_bytes()
    outcomes: Counter[str] = Counter()
    for n, changed in enumerate(mutants(good, 12, 4)):
        place.write_bytes(changed)
        asked = run if kind in places else ("report", tmp_path / "out")
        cache = tmp_path / f"cache{n}"
        shutil.copytree(tmp_path / "cache", cache)
        done = command("luigi" if kind in places else "dyenet", *asked, cache=cache, cwd=tmp_path)
        if kind == "luigi.cfg" and "luigi/configuration" in done.stderr:
            # Luigi's command reads it before it imports anything of this project.
            assert done.returncode > 0 and str(ROOT) not in done.stderr
            done = command("dyenet", "status", cache=cache, cwd=tmp_path)
            assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr, changed
        assert done.returncode >= 0
        outcomes["read" if done.returncode == 0 else "refused"] += 1
    print(f"\n{kind:14}   12 tried, {outcomes['read']:4} read, {outcomes['refused']:4} refused")
