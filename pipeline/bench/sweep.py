"""What a sweep costs beside one run, and whether its results are those of separate runs.

    python -m benchmarks.sweep
    python -m benchmarks.sweep --values 0.9,0.8,0.7,0.6 -- --dataset davis17 --root DIR

Runs every value once by itself and once all values as a sweep, each command with an empty
cache, and prints stage seconds, scoring included. What follows `--` goes to every command.
Ends with status 1 if a mask, a CSV or an HDF5 dataset differs, or if the sweep takes more
than GOAL times the stage seconds of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - brings the filter of the large artifacts
import numpy as np

GOAL = 1.3
"""stage seconds of four values over those of one run"""
DEFAULT = "0.7"
"""the value whose run is the one to compare with"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and compare; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--values", default="0.9,0.8,0.7,0.6", help="of rho_reid")
    parser.add_argument("--folder", type=Path, help="keep all caches and outputs here")
    parser.add_argument("options", nargs="*", help="after --: of RunDataset and SweepThreshold")
    given = parser.parse_args(arguments)
    values = [str(float(value)) for value in given.values.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        return compare(given.folder or Path(temporary), values, given.options)


def compare(folder: Path, values: Sequence[str], options: Sequence[str]) -> int:
    """Run each value and the sweep below a folder, and print what they took."""
    alone = {value: folder / f"rho_reid={value}" for value in values}
    for value, place in alone.items():
        run(place, ["RunDataset", "--rho-reid", value, *options])
        took = sum(stage_seconds([place / "out"]).values())
        print(f"{place.name} alone: {took:.1f} s", flush=True)
    swept = folder / "sweep"
    run(swept, ["SweepThreshold", "--rho-reid-values", ",".join(values), *options])
    outputs = [swept / "out" / place.name for place in alone.values()]
    one = stage_seconds([alone.get(DEFAULT, alone[values[0]]) / "out"])
    every = stage_seconds(outputs)
    print(f"{'stage':12} {'one run':>9} {'sweep':>9}  s")
    for stage in every:
        print(f"{stage:12} {one.get(stage, 0.0):9.2f} {every[stage]:9.2f}")
    single, total = sum(one.values()), sum(every.values())
    print(f"{'all':12} {single:9.2f} {total:9.2f}  ratio {total / single:.3f} (goal {GOAL})")
    wrong = [
        line
        for output, place in zip(outputs, alone.values(), strict=True)
        for line in differences(place, output, swept / "cache")
    ]
    print("\n".join(wrong) or "byte-identical: masks, CSVs and HDF5 datasets")
    return 1 if wrong or total > GOAL * single else 0


def run(place: Path, arguments: Sequence[str]) -> None:
    """One luigi command with a cache of its own."""
    command = [sys.executable, "-m", "luigi", "--module", "pipeline", *arguments]
    subprocess.run(
        [*command, "--local-scheduler", "--output", str(place / "out")],
        env={**os.environ, "DYENET_CACHE": str(place / "cache")},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def stage_seconds(outputs: Sequence[Path]) -> dict[str, float]:
    """Seconds by stage of all artifacts that some runs reach, each artifact once."""
    seconds: dict[tuple[str, str, str], float] = {}
    for output in outputs:
        for video, about in json.loads((output / "run.json").read_text())["videos"].items():
            for label, spent in about["seconds"].items():
                seconds[label.partition("(")[0], video, about["keys"][label]] = spent
    totals: dict[str, float] = {}
    for (stage, _, _), spent in seconds.items():
        totals[stage] = totals.get(stage, 0.0) + spent
    return totals


def differences(alone: Path, output: Path, cache: Path) -> list[str]:
    """What a run by itself made that is not the same in a sweep's output and cache."""
    made = [
        *sorted((alone / "out" / "masks").rglob("*.png")),
        *sorted((alone / "out" / "scores").glob("*.csv")),
    ]
    files = [(path, output / path.relative_to(alone / "out")) for path in made]
    # What is seen in boxes is memoised in a file for each run: which box is in which may differ.
    artifacts = [
        (path, cache / path.relative_to(alone / "cache"))
        for path in sorted((alone / "cache").rglob("*.h5"))
        if not {"mask", "vector"} & set(path.parts)
    ]
    wrong = [a for a, b in files if not b.exists() or a.read_bytes() != b.read_bytes()]
    wrong += [a for a, b in artifacts if not b.exists() or contents(a) != contents(b)]
    return [f"not the same in the sweep: {path}" for path in wrong]


def contents(path: Path) -> dict[str, bytes]:
    """The bytes of every dataset of an artifact."""
    with h5py.File(path, "r") as file:
        return {name: np.ascontiguousarray(item[()]).tobytes() for name, item in file.items()}


if __name__ == "__main__":
    sys.exit(main())
