"""The command `dyenet`: one clip, and the care of cache and results.

Arguments are parsed before anything heavy is imported.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cache.files import CacheError
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.plan.recipe import Recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    given = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = given.command
    try:
        return command(given)
    except (UserError, CacheError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="dyenet",
        description="Segment the objects of a video, given their masks in one frame.",
        epilog="Whole datasets: luigi --module pipeline RunDataset --help",
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    segment = commands.add_parser("segment", help="segment one clip")
    segment.add_argument("clip", type=Path, help="a video file, or a folder of frames")
    segment.add_argument(
        "mask",
        type=Path,
        help="mask of the first frame (a PNG with a number for each object), or a folder of "
        "<frame>.png where objects enter later",
    )
    segment.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    _add_settings(segment)
    segment.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    segment.set_defaults(command=_segment)

    status = commands.add_parser("status", help="what of a run is cached, and why the rest is not")
    _add_dataset(status)
    status.add_argument("--videos", default="", help="only these: a,b")
    _add_settings(status)
    status.set_defaults(command=_status)

    prune = commands.add_parser("prune", help="list what the cache can do without, or delete it")
    prune.add_argument("--delete", action="store_true", help="delete; without it, only list")
    prune.add_argument("--stages", default="", help="only these: features,flow")
    prune.add_argument("--max-gb", type=_amount, help="then also delete until no more is left")
    prune.add_argument(
        "--min-age",
        type=_amount,
        default=1.0,
        metavar="HOURS",
        help="keep what is younger (default: 1)",
    )
    prune.add_argument("--keep-runs", type=int, help="only the newest so many runs count")
    prune.set_defaults(command=_prune)

    score = commands.add_parser("score", help="score a folder of masks as the benchmark does")
    score.add_argument("masks", type=Path, help="folder that holds <video>/<frame>.png")
    _add_dataset(score)
    score.add_argument("--output", type=Path, required=True, help="folder of the two CSVs")
    score.add_argument(
        "--frames",
        choices=("inner", "later", "all"),
        help="annotated frames that count: all but each video's first and last (DAVIS), all "
        "without a given mask (the other benchmarks), or all; default: the dataset's",
    )
    score.add_argument(
        "--average",
        choices=("objects", "categories"),
        default="objects",
        help="means over objects (the paper), or over the means of each category",
    )
    score.add_argument(
        "--official-decay",
        action="store_true",
        help="repeat the official tool's decay, which is wrong beyond 256 scored frames",
    )
    score.set_defaults(command=_score)

    report = commands.add_parser(
        "report", help="make the report of a run or a sweep anew, or compare two runs"
    )
    report.add_argument("run", type=Path, help="the --output folder of a run or a sweep")
    report.add_argument("other", type=Path, nargs="?", help="a second run, to compare with it")
    report.add_argument(
        "--output", type=Path, help="file of the comparison (default: RUN/compare-OTHER.html)"
    )
    report.add_argument(
        "--tables", choices=("csv", "parquet"), help="also write every table to RUN/tables/"
    )
    report.set_defaults(command=_report)

    artifacts = commands.add_parser("artifacts", help="what the cache holds")
    artifacts.add_argument("stage", nargs="?", help="list the files of this stage")
    artifacts.set_defaults(command=_artifacts)
    return top


def _amount(text: str) -> float:
    """A number from 0, as argparse reads it."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


_amount.__name__ = "amount"


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        default="demo",
        help="demo, davis16, davis17, segtrackv2, youtube-objects or folder",
    )
    parser.add_argument("--root", help="folder of the dataset")
    parser.add_argument("--split", default="val", help="split of the dataset (default: val)")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", default="compact", help="a shipped model or a .safetensors file"
    )
    parser.add_argument("--variant", help="dyenet, remp, remp-no-attention or msk")
    parser.add_argument("--rho-reid", help="similarity above which a proposal is kept (0.7)")
    parser.add_argument("--max-iterations", help="rounds of retrieval and propagation (4)")
    parser.add_argument("--precision", help="auto, bf16 or fp32 (auto)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any setting of docs/settings.md",
    )


def _segment(given: argparse.Namespace) -> int:
    from pipeline.commands import RunDataset, engine

    engine.stop_on_sigterm()
    task = RunDataset(
        dataset="clip",
        root=str(given.clip),
        masks=str(given.mask),
        split="clip",
        variant=given.variant,
        weights=given.weights,
        rho_reid=given.rho_reid,
        max_iterations=given.max_iterations,
        precision=given.precision,
        set=given.set,
        device=given.device,
        output=str(given.output),
    )
    done = engine.build(task)
    if done:
        print(f"results: {given.output}")
    return 0 if done else 1


def _recipe(given: argparse.Namespace) -> Recipe:
    from pipeline.plan.inputs import Options, cache_root, plan_run
    from pipeline.plan.settings import OPTIONS, configured, gather, override, single

    values = single(gather(given.set, {name: getattr(given, name) for name in OPTIONS}))
    options = Options(
        dataset=given.dataset,
        root=given.root,
        split=given.split,
        videos=tuple(filter(None, given.videos.split(","))),
        weights=given.weights,
        settings=override(configured(), values),
    )
    return plan_run(options, cache_root())


def _status(given: argparse.Namespace) -> int:
    from cache.store import Store
    from pipeline.plan.inputs import cache_root
    from pipeline.plan.status import status

    video = ""
    for state in status(_recipe(given), Store(cache_root())):
        if state.video != video:
            video = state.video
            print(video)
        print(f"  {state.label:14} {'cached' if state.cached else f'missing: {state.why}'}")
    return 0


def _prune(given: argparse.Namespace) -> int:
    from cache.prune import prune
    from cache.store import Store
    from pipeline.plan.inputs import cache_root

    root = cache_root()
    try:
        found = prune(
            Store(root),
            stages=tuple(filter(None, given.stages.split(","))) or None,
            max_bytes=None if given.max_gb is None else int(given.max_gb * 1e9),
            min_age_s=given.min_age * 3600,
            keep_runs=given.keep_runs,
            delete=given.delete,
        )
    except ValueError as error:
        raise UserError(f"--stages {given.stages}: {error}") from None
    for item in found:
        print(f"{_size(item.bytes):>9}  {item.path.relative_to(root)}  ({item.reason})")
    total = f"{len(found)} files, {_size(sum(item.bytes for item in found))}"
    print(f"deleted {total}" if given.delete else f"{total}; --delete removes them")
    return 0


def _score(given: argparse.Namespace) -> int:
    from pipeline.datasets import open_dataset, rule_of
    from pipeline.datasets.rules import Rule
    from pipeline.plan.inputs import cache_root
    from pipeline.results.folder import score_folder
    from pipeline.results.scores import totals

    # Luigi's settings, where the cache is named, take longer to import than many masks to score.
    demo_root = cache_root() if given.dataset == "demo" else Path()
    dataset = open_dataset(given.dataset, given.root, given.split, demo_root)
    rule = Rule(given.frames or rule_of(given.dataset).frames, given.average)
    decay = given.official_decay
    table = score_folder(given.masks, dataset, given.output, rule, official_decay=decay)
    means = totals(table, rule.average)
    print(f"scored: {rule}{'; decay as the official tool' if decay else ''}")
    print(", ".join(f"{name} {100 * means[name]:.1f}" for name in ("J_mean", "F_mean", "G")))
    print(f"results: {given.output}")
    return 0


def _report(given: argparse.Namespace) -> int:
    from pipeline.pages.compare import compare_html
    from pipeline.pages.run import report_html
    from pipeline.pages.sweep import sweep_html
    from pipeline.reports import save_tables

    if given.other:
        print(compare_html(given.run, given.other, given.output))
    elif (given.run / "sweep.csv").exists():
        print(sweep_html(given.run))
    else:
        print(report_html(given.run))
    if given.tables:
        print(*save_tables(given.run, given.tables), sep="\n")
    return 0


def _artifacts(given: argparse.Namespace) -> int:
    from cache.prune import usage
    from cache.schemas import SCHEMAS
    from cache.store import Store
    from pipeline.plan.inputs import cache_root

    store = Store(cache_root())
    if given.stage is None:
        for stage, used in usage(store).items():
            print(f"{stage:14} {used.files:7} files {_size(used.bytes):>9}")
        print(store.root)
        return 0
    if given.stage not in SCHEMAS:
        raise UserError(f"{given.stage}: no such stage; there are {', '.join(SCHEMAS)}")
    for path in sorted((store.root / SCHEMAS[given.stage].folder).glob("*/*/*")):
        made = path.stat()
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(made.st_mtime))
        print(f"{_size(made.st_size):>9}  {when}  {path.relative_to(store.root)}")
    return 0


def _size(count: int) -> str:
    """12.3 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


if __name__ == "__main__":
    sys.exit(main())
