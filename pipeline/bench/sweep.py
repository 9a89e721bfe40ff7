"""What a sweep costs compared with one run, and whether its results are those of separate runs.

`dyenet bench-sweep` runs every value once by itself and once all values as a sweep, each in an
empty cache, and prints stage seconds, scoring included.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.memo import MASK, TRACKLET, VECTOR
from cache.reader import Reader
from cache.schemas import SCHEMAS
from pipeline.bench.runs import alone, read_run, run, stage_seconds

GOAL = 1.3
"""stage seconds of four values over those of one run"""
DEFAULT = "0.7"
"""the value whose run is the one to compare with"""
FRAMES = 48
"""of the demo's clips: a starting point is propagated through a whole clip"""
STAGES = {schema.folder: stage for stage, schema in SCHEMAS.items()}
"""by the folder that holds its artifacts"""


def bench_sweep(values: str, options: Mapping[str, Any], keep: Path | None = None) -> int:
    """Run, compare and print; 1 if results differ, or if the sweep takes more than GOAL.

    values: of rho_reid, separated by commas. options: of RunDataset. keep: folder of all
    caches and results; without it they are deleted.
    """
    numbers = [str(float(value)) for value in values.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (keep or Path(temporary)).absolute()
        if options["dataset"] == "demo":
            options = {**options, "dataset": "davis17", "split": "demo"}
            options["root"] = str(alone(_longer_demo, Path(temporary)))
        return _compare(folder, numbers, options)


def _longer_demo(folder: Path) -> Path:
    from pipeline.datasets.demo import write_demo

    return write_demo(folder, FRAMES)


def _compare(folder: Path, values: Sequence[str], options: Mapping[str, Any]) -> int:
    """Run each value and the sweep below a folder, and print what they took."""
    places = {value: folder / f"rho_reid={value}" for value in values}
    for value, place in places.items():
        _run("RunDataset", {**options, "rho_reid": value}, place)
        print(f"{place.name} alone: {sum(_seconds([place / 'out']).values()):.1f} s", flush=True)
    swept = folder / "sweep"
    _run("SweepThreshold", {**options, "rho_reid_values": ",".join(values)}, swept)
    outputs = [swept / "out" / place.name for place in places.values()]
    one = _seconds([places.get(DEFAULT, places[values[0]]) / "out"])
    every = _seconds(outputs)
    print(table(one, every))
    wrong = [
        line
        for output, place in zip(outputs, places.values(), strict=True)
        for line in differences(place, output, swept / "cache")
    ]
    print("\n".join(wrong) or "byte-identical: masks, CSVs and HDF5 datasets")
    return 1 if wrong or sum(every.values()) > GOAL * sum(one.values()) else 0


def _run(task: str, options: Mapping[str, Any], place: Path) -> None:
    alone(run, task, options, place / "cache", place / "out")


def _seconds(outputs: Sequence[Path]) -> dict[str, float]:
    """Seconds by stage of all artifacts that some runs reach, each artifact once."""
    return stage_seconds(map(read_run, outputs))


def table(one: Mapping[str, float], every: Mapping[str, float]) -> str:
    """Seconds by stage of one run and of the sweep, and their ratio."""
    rows = [f"{stage:12} {one.get(stage, 0.0):9.2f} {every[stage]:9.2f}" for stage in every]
    single, total = sum(one.values()), sum(every.values())
    head = f"{'stage':12} {'one run':>9} {'sweep':>9}  s"
    foot = f"{'all':12} {single:9.2f} {total:9.2f}  ratio {total / single:.3f} (goal {GOAL})"
    return "\n".join([head, *rows, foot])


def differences(alone: Path, output: Path, cache: Path) -> list[str]:
    """What a run by itself made that is not the same in a sweep's output and cache."""
    made = [
        *sorted((alone / "out" / "masks").rglob("*.png")),
        *sorted((alone / "out" / "scores").glob("*.csv")),
    ]
    files = [(path, output / path.relative_to(alone / "out")) for path in made]
    wrong = [a for a, b in files if not b.exists() or a.read_bytes() != b.read_bytes()]
    own = alone / "cache"
    wrong += [own / path for path in _artifacts(own) if not _same(path, own, cache)]
    return [f"not the same in the sweep: {path}" for path in wrong]


def _artifacts(cache: Path) -> list[Path]:
    """Artifacts below a cache, without memos: what is in which file may differ."""
    found = [path.relative_to(cache) for path in sorted(cache.rglob("*.h5"))]
    return [path for path in found if STAGES[_folder(path)] not in (MASK, TRACKLET, VECTOR)]


def _same(path: Path, one: Path, other: Path) -> bool:
    """Whether two caches hold the same datasets in an artifact."""
    return (other / path).exists() and _contents(path, one) == _contents(path, other)


def _contents(path: Path, cache: Path) -> dict[str, bytes]:
    """The bytes of every dataset of an artifact."""
    schema = SCHEMAS[STAGES[_folder(path)]]
    reader = Reader(schema, cache / path, path.stem.rpartition("-")[2])
    try:
        return {name: values.tobytes() for name, values in reader.arrays().items()}
    finally:
        reader.close()


def _folder(path: Path) -> str:
    """Of <folder>/<dataset>/<video>/<key>.h5."""
    return path.parents[2].as_posix()
