"""The schema tables: they render into the docs, and every kind of artifact makes a round trip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache.files import CacheError
from cache.keys import canonical, key
from cache.schemas import SCHEMAS, Field, render_markdown
from cache.store import Store
from cache.writer import Writer

ROOT = Path(__file__).parents[1]
SIZES = {"T": 11, "H": 24, "W": 30, "C": 4, "h": 3, "w": 4, "C4": 2, "h4": 6, "w4": 8}
SIZES |= {"N": 7, "E": 256, "S": 3, "s": 8, "L": 9, "O": 2, "n": 1, "R": 20}


def example_array(field: Field, sizes: dict[str, int], rng: np.random.Generator) -> Any:
    """Random values of a field, symbols of its shape replaced by `sizes`."""
    shape = tuple(n if isinstance(n, int) else int(eval(n, {}, sizes)) for n in field.shape)
    if field.dtype == "utf8":
        return [f"número {n}" for n in range(shape[0])]
    if field.dtype.startswith("float"):
        return rng.standard_normal(shape).astype(field.dtype)
    return rng.integers(0, 2 if field.dtype == "bool" else 100, shape).astype(field.dtype)


def example(stage: str, seed: int = 0, **sizes: int) -> dict[str, Any]:
    """Random values for every dataset of a stage."""
    rng = np.random.default_rng(seed)
    return {f.name: example_array(f, SIZES | sizes, rng) for f in SCHEMAS[stage].fields}


def fill(writer: Writer, stage: str, values: dict[str, Any]) -> None:
    """Write values as the pipeline does: what is streamed frame by frame, the rest whole."""
    for name, value in values.items():
        if SCHEMAS[stage].field(name).rows and len(value):
            for row in value:
                writer.append(name, row)
        else:
            writer.put(name, value)


def store_example(store: Store, stage: str, seed: int = 0, **sizes: int) -> tuple[str, dict]:
    """Write an example; returns its key and values."""
    values = example(stage, seed, **sizes)
    content = {"stage": stage, "seed": seed, **sizes}
    with store.write(stage, "demo", "bear", content) as writer:
        fill(writer, stage, values)
    return key(content), values


@pytest.mark.parametrize("stage", SCHEMAS)
def test_round_trip(stage: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, values = store_example(store, stage)
    assert store.exists(stage, "demo", "bear", made)
    with store.read(stage, "demo", "bear", made) as reader:
        for name, value in values.items():
            np.testing.assert_array_equal(reader[name][:], value)
            np.testing.assert_array_equal(reader[name][0], value[0])
            assert len(reader[name]) == len(value)
        assert reader.content == {"stage": stage, "seed": 0}
    assert [p.name for p in store.folder(stage, "demo", "bear").iterdir()] == [f"{made[:16]}.h5"]


@pytest.mark.parametrize("stage", SCHEMAS)
def test_round_trip_of_nothing(stage: str, tmp_path: Path) -> None:
    """One frame, no object, no proposal."""
    made, values = store_example(Store(tmp_path), stage, T=1, N=0, S=0, L=0, O=0, n=0, R=0)
    with Store(tmp_path).read(stage, "demo", "bear", made) as reader:
        for name, value in reader.arrays().items():
            np.testing.assert_array_equal(value, values[name])


@pytest.mark.parametrize("stage", SCHEMAS)
def test_every_dataset_is_checksummed_and_the_attributes_tell(stage: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    content = {"stage": stage, "rho": 0.7}
    inputs = {"features": "0" * 32}
    with store.write(stage, "demo", "bear", content, inputs=inputs, device="cuda") as writer:
        fill(writer, stage, example(stage))
    path = store.path(stage, "demo", "bear", key(content))
    with h5py.File(path, "r", locking=False) as file:
        assert all(dataset.fletcher32 for dataset in file.values())
        attributes = dict(file.attrs)
        if stage == "flow":
            assert file["to_next"].attrs["scale"] == 64
    assert attributes["recipe"] == canonical(content).encode()
    assert attributes["key"].decode() == key(content)
    assert json.loads(attributes["inputs"]) == inputs
    assert {"python", "numpy", "h5py", "hdf5plugin"} <= set(json.loads(attributes["versions"]))
    assert attributes["device"] == b"cuda" and attributes["host"]
    assert attributes["complete"] == 1 and attributes["wall_seconds"] >= 0


def test_equal_content_has_equal_bytes_in_every_dataset(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store_example(Store(tmp_path / name), "tubes")
    a, b = (next((tmp_path / n).rglob("*.h5")) for n in ("a", "b"))
    with h5py.File(a, locking=False) as first, h5py.File(b, locking=False) as second:
        for name in first:
            for index in np.ndindex(*(-(-n // c) for n, c in _grid(first[name]))):
                where = tuple(i * c for i, (_, c) in zip(index, _grid(first[name]), strict=True))
                chunks = [f[name].id.read_direct_chunk(where) for f in (first, second)]
                assert chunks[0] == chunks[1]


def _grid(dataset: h5py.Dataset) -> list[tuple[int, int]]:
    return list(zip(dataset.shape, dataset.chunks, strict=True))


def test_masks_share_chunks_of_eight_frames(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, _ = store_example(store, "tubes")
    with h5py.File(store.path("tubes", "demo", "bear", made), locking=False) as file:
        assert file["masks"].chunks == (8, SIZES["H"], SIZES["W"])


WRONG = {
    "missing": (lambda v: v.pop("objectness"), "objectness is missing"),
    "dtype": (lambda v: v.update(boxes=v["boxes"].astype("f8")), "boxes is float64, not float32"),
    "fixed size": (lambda v: v.update(boxes=v["boxes"][:, :3]), r"boxes has shape \(7, 3\)"),
    "symbol": (lambda v: v.update(objectness=v["objectness"][:5]), r"shape \(5,\), not \(N,\)"),
    "axes": (lambda v: v.update(boxes=v["boxes"][0]), r"boxes has shape \(4,\)"),
    "unknown": (lambda v: v.update(scores=np.zeros(3)), "no dataset is called scores"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_breaks_the_schema_is_not_published(wrong: str, tmp_path: Path) -> None:
    change, message = WRONG[wrong]
    values = example("proposals")
    change(values)
    store = Store(tmp_path)
    with (
        pytest.raises(ValueError, match=message),
        store.write("proposals", "demo", "bear", {}) as writer,
    ):
        fill(writer, "proposals", values)
    assert not list(tmp_path.rglob("*.*"))


def test_a_symbol_has_one_value_in_an_artifact(tmp_path: Path) -> None:
    values = example("flow")
    values["to_next"] = values["to_next"][:-1]
    with (
        pytest.raises(ValueError, match="to_next"),
        Store(tmp_path).write("flow", "demo", "bear", {}) as writer,
    ):
        fill(writer, "flow", values)


def test_a_dataset_is_written_once(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="written twice"),
        Store(tmp_path).write("embeddings", "demo", "bear", {}) as writer,
    ):
        fill(writer, "embeddings", example("embeddings"))
        fill(writer, "embeddings", example("embeddings"))


def test_optional_datasets_may_be_absent(tmp_path: Path) -> None:
    values = example("features")
    del values["fine"]
    with Store(tmp_path).write("features", "demo", "bear", {}) as writer:
        fill(writer, "features", values)
    with Store(tmp_path).read("features", "demo", "bear", key({})) as reader:
        assert "coarse" in reader and "fine" not in reader


def test_scalars_and_lists_take_the_dtype_of_the_schema(tmp_path: Path) -> None:
    values = example("frames") | {"fps": 24.0, "size": [24, 30], "annotations_digest": ""}
    with Store(tmp_path).write("frames", "demo", "bear", {}) as writer:
        fill(writer, "frames", values)
    with Store(tmp_path).read("frames", "demo", "bear", key({})) as reader:
        assert reader["fps"][0] == 24.0 and reader["fps"].shape == (1,)
        assert reader["size"][:].dtype == np.int32
        assert reader["annotations_digest"][0] == ""


def test_an_array_may_be_used_again_after_append(tmp_path: Path) -> None:
    frame = np.zeros((4, 3, 4), np.float16)
    with Store(tmp_path).write("features", "demo", "bear", {}) as writer:
        for t in range(20):
            frame[:] = t
            writer.append("coarse", frame)
    with Store(tmp_path).read("features", "demo", "bear", key({})) as reader:
        assert [float(reader["coarse"][t].max()) for t in range(20)] == list(range(20))


def test_frames_of_one_video_have_one_shape(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="a row of coarse has shape"),
        Store(tmp_path).write("features", "demo", "bear", {}) as writer,
    ):
        writer.append("coarse", np.zeros((4, 3, 4), np.float16))
        writer.append("coarse", np.zeros((4, 3, 5), np.float16))


def test_names_of_videos_cannot_leave_the_root(tmp_path: Path) -> None:
    store = Store(tmp_path)
    paths = {store.path("tubes", "d", video, "k") for video in ("a/b", "a%2Fb", "..", ".", "a b")}
    assert len(paths) == 5
    assert all(path.parents[3] == tmp_path for path in paths)
    assert store.path("memo-mask", "d", "v", "k").parents[3] == tmp_path / "memo"
    with pytest.raises(ValueError, match="empty"):
        store.path("tubes", "d", "", "k")


def test_the_docs_are_rendered_from_the_tables() -> None:
    assert (ROOT / "docs" / "artifacts.md").read_text() == render_markdown(), (
        "run: python -m cache.schemas > docs/artifacts.md"
    )


def test_the_readers_lines_in_the_docs_work(tmp_path: Path) -> None:
    made, values = store_example(Store(tmp_path), "tubes")
    path = Store(tmp_path).path("tubes", "demo", "bear", made)
    code = render_markdown().split("```python\n")[1].split("```")[0]
    code = code.replace("<root>/tubes/davis16/bear/<key>.h5", str(path)) + "print(masks.sum())"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert int(shown.stdout) == values["masks"].sum()


def test_an_absent_artifact_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(CacheError, match=r"flow/demo/bear/0000000000000000\.h5 is missing"),
        Store(tmp_path).read("flow", "demo", "bear", "0" * 32),
    ):
        pass
