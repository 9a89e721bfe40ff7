"""How fast J and F are next to the official DAVIS 2017 tool, on masks that the person has.

    python -m tests.scorer ANNOTATIONS [--videos 30] [--shift 5]

ANNOTATIONS holds `<video>/<frame>.png`. The predictions are the annotations moved by a few
pixels. Two comparisons in one run:

- the metric functions, on masks that are decoded already;
- the whole process, from PNG files to the two CSVs: `dyenet score` on one core and on two,
  against a process that works as the official tool does (float64 one-hots of whole videos,
  whole-frame boundaries and dilation, one process).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.scores import score_video
from tests.reference import (
    by_opencv,
    official_f,
    official_j,
    official_statistics,
    official_video,
)

Masks = Sequence[npt.NDArray[np.uint8]]
"""(H, W) index masks of a video's frames."""
Floats = npt.NDArray[np.float64]

ROOT = Path(__file__).parents[1]
SPLIT = "val"
TURNS = 2
"""of each process; the fastest counts"""


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("annotations", type=Path, help="folder that holds <video>/<frame>.png")
    parser.add_argument("--videos", type=int, default=30, help="how many of them (30)")
    parser.add_argument("--shift", type=int, default=5, help="px that predictions are moved (5)")
    parser.add_argument("--official", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.official:
        official_process(given.annotations, *given.official)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        tree, predicted = Path(folder, "tree"), Path(folder, "predicted")
        frames = write_tree(given.annotations, given.videos, given.shift, tree, predicted)
        metrics(tree, predicted)
        processes(tree, predicted, Path(folder), frames)
    return 0


def write_tree(annotations: Path, videos: int, shift: int, tree: Path, predicted: Path) -> int:
    """The annotations as a DAVIS 2017 tree, and moved ones as predictions; how many frames."""
    names = sorted(p.name for p in annotations.iterdir() if p.is_dir())[:videos]
    if not names:
        raise SystemExit(f"{annotations}: holds no <video>/<frame>.png")
    count = 0
    for name in names:
        for source in sorted((annotations / name).glob("*.png")):
            mask = np.array(Image.open(source))
            mask = (mask == 255).astype(np.uint8) if set(np.unique(mask)) <= {0, 255} else mask
            moved = np.zeros_like(mask)
            moved[shift:, shift:] = mask[: mask.shape[0] - shift, : mask.shape[1] - shift]
            write(tree / "Annotations" / "480p" / name / source.name, mask)
            write(predicted / name / source.name, np.where(moved == 255, 0, moved))
            # Only the names of the images are looked at.
            image = tree / "JPEGImages" / "480p" / name / f"{source.stem}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()
            count += 1
    listed = tree / "ImageSets" / "2017" / f"{SPLIT}.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("\n".join(names) + "\n")
    return count


def write(path: Path, mask: npt.NDArray[np.uint8]) -> None:
    """Write a palette PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200] + [90] * 756)
    image.save(path)


def metrics(tree: Path, predicted: Path) -> None:
    """The functions alone, video by video, in this process and on one thread."""
    cv2.setNumThreads(1)
    planes = whole = ours = furthest = 0.0
    for folder in sorted(predicted.iterdir()):
        masks, truths = read(folder), read(tree / "Annotations" / "480p" / folder.name)
        spent, (j, f) = timed(from_index_masks, truths, masks)
        whole += spent
        objects = tuple(range(1, len(j) + 1))
        truths, masks = truths[1:-1], masks[1:-1]
        for i in objects:
            planes += timed(from_planes, np.array(truths) == i, np.array(masks) == i)[0]
        truth_of = truths.__getitem__
        spent, scores = timed(score_video, masks, truth_of, objects)
        spent = min(spent, timed(score_video, masks, truth_of, objects)[0])
        ours += spent
        far = np.abs(scores.j - j.T.ravel()).max(), np.abs(scores.f - f.T.ravel()).max()
        furthest = max(furthest, *map(float, far))
    print("| metric functions, decoded masks | CPU s | stages.scores is faster by |")
    print("|---|---|---|")
    print(f"| stages.scores.score_video, from index masks | {ours:.2f} | 1 |")
    print(
        f"| official J and F, from bool masks of each object | {planes:.2f} | {planes / ours:.1f} |"
    )
    print(f"| official, from index masks | {whole:.2f} | {whole / ours:.1f} |")
    print(f"\nLargest difference of any J or F: {furthest:.1e}\n", flush=True)


def from_index_masks(truths: Masks, masks: Masks) -> tuple[Floats, Floats]:
    """J and F (N, T - 2) as the official tool has them."""
    return official_video(floats(truths), floats(masks))


def from_planes(truth: npt.NDArray[np.bool_], mask: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """J and F (T,) of one object, its masks already separated."""
    return official_j(truth, mask), official_f(truth, mask, by_opencv)


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """CPU seconds of some work, and what it returned."""
    began = time.process_time()
    result = work(*arguments)
    return time.process_time() - began, result


def floats(masks: Masks) -> Floats:
    """(T, H, W), the form in which the official tool keeps a video."""
    return np.stack(masks).astype(np.float64)


def read(folder: Path) -> Masks:
    """The masks of a folder."""
    return [np.array(Image.open(path)) for path in sorted(folder.iterdir())]


def processes(tree: Path, predicted: Path, out: Path, frames: int) -> None:
    """Whole processes from start to end."""
    official = [sys.executable, "-m", "tests.scorer", str(tree), "--official"]
    official += [str(predicted), str(out / "official")]
    score = [sys.executable, "-m", "pipeline.cli", "score", str(predicted), "--dataset", "davis17"]
    score += ["--root", str(tree), "--split", SPLIT, "--output", str(out / "ours")]
    cores = sorted(os.sched_getaffinity(0))
    videos = len(list(predicted.iterdir()))
    print(f"{videos} videos, {frames} frames:\n")
    print("| whole process | wall s | CPU s | dyenet is faster by |")
    print("|---|---|---|---|")
    slow, slow_cpu = run(official, cores[:1])
    print(f"| the official tool's way | {slow:.1f} | {slow_cpu:.1f} | |", flush=True)
    for count in range(1, min(2, len(cores)) + 1):
        wall, cpu = run(score, cores[:count])
        # The CPU time of several workers is not seen from here.
        spent, by = (f"{cpu:.1f}", f" (CPU: {slow_cpu / cpu:.1f})") if count == 1 else ("", "")
        row = f"| dyenet score, cores: {count} | {wall:.1f} | {spent} | {slow / wall:.1f}{by} |"
        print(row, flush=True)
    tables = [
        (out / name / f"global_results-{SPLIT}.csv").read_text() for name in ("official", "ours")
    ]
    print(
        "\nThe global CSVs are " + ("equal." if tables[0] == tables[1] else f"not equal: {tables}")
    )


def run(command: list[str], cores: list[int]) -> tuple[float, float]:
    """Wall and CPU seconds of a command that may use these cores: the least of two turns."""
    walls, cpus = [], []
    for _ in range(TURNS):
        began, before = time.perf_counter(), os.times()
        subprocess.run(
            command,
            check=True,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        after = os.times()
        walls.append(time.perf_counter() - began)
        cpus.append(sum(after[2:4]) - sum(before[2:4]))
    return min(walls), min(cpus)


def official_process(tree: Path, predicted: Path, out: Path) -> None:
    """What the official tool does from PNG files to its two CSVs."""
    import pandas as pd

    rows = {}
    for name in (tree / "ImageSets" / "2017" / f"{SPLIT}.txt").read_text().split():
        truths = read(tree / "Annotations" / "480p" / name)
        j, f = from_index_masks(truths, read(predicted / name))
        for n in range(len(j)):
            rows[f"{name}_{n + 1}"] = official_statistics(j[n]) + official_statistics(f[n])
    table = pd.DataFrame.from_dict(rows, orient="index")
    means = table.mean()
    columns = [f"{m}-{s}" for m in "JF" for s in ("Mean", "Recall", "Decay")]
    overall = pd.DataFrame([[(means[0] + means[3]) / 2, *means]], columns=["J&F-Mean", *columns])
    out.mkdir(exist_ok=True)
    overall.to_csv(out / f"global_results-{SPLIT}.csv", index=False, float_format="%.3f")
    each = pd.DataFrame({"Sequence": table.index, "J-Mean": table[0], "F-Mean": table[3]})
    each.to_csv(out / f"per-sequence_results-{SPLIT}.csv", index=False, float_format="%.3f")


if __name__ == "__main__":
    sys.exit(main())
