"""The command `dyenet`: one clip, and the care of cache and results.

Arguments are parsed before anything heavy is imported.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.files import readable
from pipeline import interrupts
from pipeline.errors import MENDABLE, UserError, one_of
from pipeline.plan.options import DATASET, KEEP, RUN, VIDEOS, Option, Parser

if TYPE_CHECKING:
    from pipeline.commands import RunDataset
    from pipeline.plan.recipe import Recipe

CLIP = (
    "a video file, a folder of frames or a .zip of them, or a series frame%%05d.png; docs/inputs.md"
)
MASK = (
    "mask of the first frame (a PNG with a number for each object, or another form of "
    "docs/inputs.md), or a folder of <frame>.png where objects enter later"
)
VERIFY = """Read every artifact of the cache and compare checksums and keys. Damaged files are
set aside as .bad, and the next run that needs them makes them anew; the command then ends with
status 1."""
SPEED = """Run a dataset in an empty cache and print frames a second by stage and in all (the
paper's Speed Analysis, section 4.2)."""
BENCH = """Run one clip with each network, number of objects and length. Prints frames a second by
stage, in all and of the bare trunk, memory and bytes; on a CUDA device also the share of the time
in which it worked. resnet50 and resnet101 are the paper's networks, untrained. Ends with status 1
if the peak memory of the longest clip is more than a tenth above that of the shortest."""
BENCH_SWEEP = """Run each value by itself and all of them as a sweep, and compare masks, CSVs and
HDF5 datasets. Without --dataset: the demo's clips at 48 frames. Ends with status 1 if anything
differs, or if the sweep takes more than 1.3 times the stage seconds of one run."""

RUN_HELP = """Segment every video of a dataset, score it and write the report: RunDataset, with a
scheduler of its own. `luigi --module pipeline RunDataset` takes the same options, and Luigi's
besides, such as --workers 4."""
EXAMPLES = {
    "run": "run --dataset davis16 --root DAVIS --split val --videos bear,camel",
    "segment": "segment clip.mp4 first-mask.png -o out/",
    "status": "status --dataset davis16 --root DAVIS",
    "prune": "prune --max-size 200G --delete",
    "verify": "verify",
    "score": "score runs/one/masks --dataset davis16 --root DAVIS --output scores/",
    "report": "report runs/one runs/other",
    "export": "export runs/one --format coco",
    "table5": "table5 runs/davis16-val-dyenet runs/segtrackv2-all-dyenet --output table5.csv",
    "artifacts": "artifacts features",
    "speed": "speed --dataset davis16 --root DAVIS --device cuda",
    "bench": "bench --objects 1,3 --frames 25",
    "bench-sweep": "bench-sweep --rho-reid-values 0.9,0.7",
    "bench-scheduling": "bench-scheduling --videos 1000",
}
"""a use of every command, which its help ends with"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    interrupts.install()
    given = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = given.command
    try:
        return command(given)
    except MENDABLE as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(
        prog="dyenet",
        description="Segment the objects of a video, given their masks in one frame.",
        epilog="Other tasks, such as sweeps and training: luigi --module pipeline TASK --help",
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="segment a dataset", description=RUN_HELP)
    _add_run(run)
    _add_options(run, KEEP)
    _add_reading(run)
    run.add_argument("--output", help="default: runs/<dataset>-<split>-<variant>")
    run.set_defaults(command=_run)

    segment = commands.add_parser("segment", help="segment one clip")
    segment.add_argument("clip", type=Path, help=CLIP)
    segment.add_argument("mask", type=Path, nargs="?", help=MASK)
    segment.add_argument("-o", "--output", required=True, help="folder of the results")
    segment.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="X0,Y0,X1,Y1",
        help="in place of a mask: px in the first frame that hold an object; once an object",
    )
    _add_reading(segment)
    _add_options(segment, RUN, KEEP)
    _add_set(segment)
    segment.set_defaults(command=_segment)

    status = commands.add_parser("status", help="what of a run is cached, and why the rest is not")
    status.add_argument("clip", type=Path, nargs="?", help=f"of `segment`: {CLIP}")
    status.add_argument("mask", type=Path, nargs="?", help=f"of `segment`: {MASK}")
    _add_reading(status)
    _add_options(status, DATASET, VIDEOS, RUN)
    _add_set(status)
    status.set_defaults(command=_status)

    prune = commands.add_parser("prune", help="list what the cache can do without, or delete it")
    prune.add_argument("--delete", action="store_true", help="delete; without it, only list")
    prune.add_argument("--stages", default="", help="only these: features,flow")
    prune.add_argument(
        "--max-size",
        type=_bytes,
        metavar="SIZE",
        help="then also what was not used for longest, until no more than this is left: 200G, 500M",
    )
    prune.add_argument(
        "--min-age",
        type=_amount,
        default=1.0,
        metavar="HOURS",
        help="keep what is younger (default: 1)",
    )
    prune.add_argument("--keep-runs", type=int, help="only the newest so many runs count")
    prune.set_defaults(command=_prune)

    verify = commands.add_parser(
        "verify", help="check every artifact of the cache", description=VERIFY
    )
    verify.set_defaults(command=_verify)

    score = commands.add_parser("score", help="score a folder of masks as the benchmark does")
    score.add_argument("masks", type=Path, help="folder that holds <video>/<frame>.png")
    _add_options(score, DATASET)
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

    export = commands.add_parser("export", help="the masks of a run for other programs")
    export.add_argument("run", type=Path, help="the --output folder of a run")
    export.add_argument(
        "--format", required=True, help="coco, yolo, mots, npz, alpha or contours; docs/outputs.md"
    )
    export.add_argument("--videos", type=_names, default=(), help="only these: a,b")
    export.add_argument(
        "-o", "--output", type=Path, help="folder to which exports/FORMAT/ is added (default: RUN)"
    )
    export.set_defaults(command=_export)

    table5 = commands.add_parser("table5", help="the paper's Table 5 with runs on several datasets")
    table5.add_argument("runs", type=Path, nargs="*", help="--output folders of runs of dyenet")
    table5.add_argument(
        "--online", type=Path, nargs="+", default=[], help="those of runs after online training"
    )
    table5.add_argument("--output", type=Path, help="also write the table to this CSV")
    table5.set_defaults(command=_table5)

    artifacts = commands.add_parser("artifacts", help="what the cache holds")
    artifacts.add_argument("stage", nargs="?", help="list the files of this stage")
    artifacts.set_defaults(command=_artifacts)

    _add_benchmarks(commands)
    for name, example in EXAMPLES.items():
        commands.choices[name].epilog = f"Example: {top.prog} {example}"
    return top


def _version() -> str:
    """The installed version; none in a checkout that is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("dyenet")
    return "(not installed)"


def _add_options(parser: argparse.ArgumentParser, *tables: Mapping[str, Option]) -> None:
    """Options that Luigi's tasks take too."""
    for name, option in (item for table in tables for item in table.items()):
        default = f" (default: {option.default})" if option.default else ""
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, default=option.default, help=option.help + default)


def _add_benchmarks(commands: argparse._SubParsersAction[Parser]) -> None:
    speed = commands.add_parser(
        "speed", help="frames a second over a dataset, next to the paper's", description=SPEED
    )
    _add_run(speed)
    speed.add_argument(
        "--training-seconds",
        type=_amount,
        help="what the online training took (default: what the weights' card says)",
    )
    speed.set_defaults(command=_speed)

    bench = commands.add_parser(
        "bench", help="what each stage costs on this machine", description=BENCH
    )
    bench.add_argument(
        "--networks", type=_names, help="compact, resnet50, resnet101, weights files: a,b"
    )
    bench.add_argument("--objects", type=_counts, help="how many, first to last: 1,3,10")
    bench.add_argument("--frames", type=_counts, help="lengths of the clip: 25,50,100")
    bench.add_argument("--root", type=Path, help="folder of images, in place of a drawn clip")
    bench.add_argument("--masks", type=Path, help="with --root: the first mask")
    bench.add_argument("--precision", default="auto", help="auto, bf16 or fp32 (default: auto)")
    _add_options(bench, {"device": RUN["device"]})
    bench.set_defaults(command=_bench)

    sweep = commands.add_parser(
        "bench-sweep", help="what a sweep costs compared with one run", description=BENCH_SWEEP
    )
    _add_run(sweep)
    sweep.add_argument("--rho-reid-values", default="0.9,0.8,0.7,0.6", help="%(default)s")
    sweep.add_argument(
        "--keep", dest="kept", type=Path, help="keep all caches and results in this folder"
    )
    sweep.set_defaults(command=_bench_sweep)

    scheduling = commands.add_parser(
        "bench-scheduling", help="what many videos cost besides their stages"
    )
    scheduling.add_argument(
        "--videos", type=_counts, default=(1000, 3000), help="how many (default: 1000,3000)"
    )
    scheduling.set_defaults(command=_bench_scheduling)


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_options(parser, DATASET, VIDEOS, RUN)
    _add_set(parser)


def _amount(text: str) -> float:
    """A number from 0, as argparse reads it."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


_amount.__name__ = "amount"


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--start", type=int, help="first frame, counted from 0 (default: 0)")
    parser.add_argument("--end", type=int, help="last frame (default: the clip's last)")
    parser.add_argument("--every", type=int, metavar="N", help="take one of every N frames")
    parser.add_argument("--fps", type=float, help="take so many frames a second of a video file")
    parser.add_argument(
        "--mask-from",
        choices=("alpha", "colours", "threshold"),
        help="what in the masks shows the objects, where their pixels are not the numbers: what is "
        "opaque, every colour, or what is brighter than half",
    )
    for name in ("colours", "threshold"):
        parser.add_argument(
            f"--mask-{name}",
            dest="mask_from",
            action="store_const",
            const=name,
            help=f"short for --mask-from {name}",
        )
    parser.add_argument(
        "--mask-turn",
        choices=("shown", "stored"),
        help="for frames that a tag turns: whether masks lie as these are shown or stored",
    )


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any setting of docs/settings.md",
    )


def _task(given: argparse.Namespace) -> RunDataset:
    """The run that a command is about: of a clip where one was given, else of a dataset."""
    asked = _run_options(given)
    from pipeline.commands import RunDataset

    if given.clip:
        asked |= {"dataset": "clip", "root": str(given.clip), "split": "clip"}
        asked["masks"] = str(given.mask)
    return RunDataset(**asked)


def _segment(given: argparse.Namespace) -> int:
    if (given.mask is None) == (not given.box):
        raise UserError(f"{given.clip}: give its first mask, or a --box for each object")
    if given.box:
        given.mask = _box_masks(given)
    return _build(_task(given))


def _run(given: argparse.Namespace) -> int:
    asked = _run_options(given)
    from pipeline.commands import RunDataset

    return _build(RunDataset(**asked))


def _build(task: RunDataset) -> int:
    """Run a task, say where its results are, and return the exit status."""
    from pipeline.commands import engine

    done = engine.build(task)
    if done:
        print(f"results: {task.top}")
    return 0 if done else 1


def _box_masks(given: argparse.Namespace) -> Path:
    """A first mask with what the boxes hold."""
    task = _task(given)
    from pipeline.commands.boxes import box_masks
    from pipeline.plan.settings import single

    return box_masks(given.clip, given.box, task.options(single(task.assignments())))


def recipe_of(given: argparse.Namespace) -> Recipe:
    """The run that `status` is asked about, planned as RunDataset plans it but not recorded."""
    from pipeline.plan.inputs import cache_root, plan_run
    from pipeline.plan.settings import single

    if given.clip and not given.mask:
        raise UserError(f"{given.clip}: give its first mask too, or a folder of masks")
    task = _task(given)
    return plan_run(task.options(single(task.assignments())), cache_root())


def _status(given: argparse.Namespace) -> int:
    from cache.holds import holds
    from cache.store import Store
    from pipeline.plan.inputs import cache_root
    from pipeline.plan.settings import described
    from pipeline.plan.status import status

    recipe, video, store = recipe_of(given), "", Store(cache_root())
    print(f"profile: {described(recipe.settings.to_dict())}")
    if any(hold.live and hold.run_id == recipe.digest for hold in holds(store.root)):
        print("under way: a process is working on this run")
    for state in status(recipe, store):
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
    found = prune(
        Store(root),
        stages=tuple(map(_stage, filter(None, given.stages.split(",")))) or None,
        max_bytes=given.max_size,
        min_age_s=given.min_age * 3600,
        keep_runs=given.keep_runs,
        delete=given.delete,
    )
    for item in found:
        print(f"{readable(item.bytes):>9}  {item.path.relative_to(root)}  ({item.reason})")
    total = f"{len(found)} files, {readable(sum(item.bytes for item in found))}"
    print(f"deleted {total}" if given.delete else f"{total}; --delete removes them")
    return 0


def _verify(given: argparse.Namespace) -> int:
    from cache.store import Store
    from cache.verify import verify
    from pipeline.plan.inputs import cache_root

    files = size = damaged = 0
    seconds = 0.0
    for found in verify(Store(cache_root())):
        if not found.files:
            continue
        print(f"{found.kind:14} {_speed_of(found.files, found.bytes, found.seconds)}")
        for line in found.damaged:
            print(f"ERROR: {line}", file=sys.stderr)
        files, size = files + found.files, size + found.bytes
        seconds, damaged = seconds + found.seconds, damaged + len(found.damaged)
    print(f"{'all':14} {_speed_of(files, size, seconds)}; {damaged} damaged")
    return 1 if damaged else 0


def _speed_of(files: int, size: int, seconds: float) -> str:
    return f"{files:7} files {readable(size):>9} {size / 1e6 / max(seconds, 1e-9):8.0f} MB/s"


def _score(given: argparse.Namespace) -> int:
    from pipeline.datasets import built_in, open_dataset, rule_of
    from pipeline.datasets.rules import Rule
    from pipeline.plan.inputs import cache_root
    from pipeline.results.folder import score_folder
    from pipeline.results.scores import totals

    # Luigi's settings, where the cache is named, take longer to import than many masks to score.
    demo_root = cache_root() if built_in(given.dataset) else Path()
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


def _export(given: argparse.Namespace) -> int:
    from pipeline.commands.exports import export_run

    place = export_run(given.run, given.format, given.videos, given.output or given.run)
    print(f"results: {place}")
    return 0


def _table5(given: argparse.Namespace) -> int:
    from pipeline.paper.tables import table5
    from pipeline.plan.settings import described
    from pipeline.reports import read_run
    from pipeline.results.files import write_csv

    table = table5(given.runs, given.online)
    print(table.to_string(index=False, na_rep="-", float_format="%.1f"))
    for folder in (*given.runs, *given.online):
        print(f"{folder}: profile {described(read_run(folder)['settings'])}")
    if given.output:
        write_csv(given.output, table)
    return 0


def _artifacts(given: argparse.Namespace) -> int:
    from cache.prune import stage_files, usage
    from cache.store import Store
    from pipeline.plan.inputs import cache_root

    store = Store(cache_root())
    if given.stage is None:
        for stage, used in usage(store).items():
            print(f"{stage:14} {used.files:7} files {readable(used.bytes):>9}")
        print(store.root)
        return 0
    for path in stage_files(store, _stage(given.stage)):
        try:
            made = path.stat()
        except FileNotFoundError:
            continue
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(made.st_mtime))
        print(f"{readable(made.st_size):>9}  {when}  {path.relative_to(store.root)}")
    return 0


def _stage(name: str) -> str:
    """The name of a stage; UserError if there is none of that name."""
    from cache.schemas import SCHEMAS

    if name not in SCHEMAS:
        raise UserError(f"{name}: no such stage; {one_of(name, SCHEMAS)}")
    return name


def _speed(given: argparse.Namespace) -> int:
    from pipeline.bench.speed import measure

    print(measure(_run_options(given), given.training_seconds))
    return 0


def _bench(given: argparse.Namespace) -> int:
    from pipeline.bench.costs import DEFAULTS, Asked, bench
    from pipeline.plan.machine import device

    if (given.root is None) != (given.masks is None):
        raise UserError("--root and --masks belong together: a clip, and its first mask")
    usual = DEFAULTS[device(given.device)]
    asked = Asked(
        networks=given.networks or usual.networks,
        objects=given.objects or usual.objects,
        lengths=given.frames or usual.lengths,
        device=given.device,
        precision=given.precision,
        root=given.root,
        masks=given.masks,
    )
    return bench(asked)


def _bench_sweep(given: argparse.Namespace) -> int:
    from pipeline.bench.sweep import bench_sweep

    return bench_sweep(given.rho_reid_values, _run_options(given), given.kept)


def _bench_scheduling(given: argparse.Namespace) -> int:
    from pipeline.bench.scheduling import measure

    print(measure(given.videos))
    return 0


def _run_options(given: argparse.Namespace) -> dict[str, Any]:
    """Options of RunDataset by name, as far as the command has them."""
    from pipeline.plan.settings import luigi_config

    # Before Luigi's own import reads luigi.cfg and fails with a traceback.
    luigi_config()
    from pipeline.commands import RunDataset

    return {name: getattr(given, name) for name in RunDataset.get_param_names() if name in given}


def _names(text: str) -> tuple[str, ...]:
    """a,b"""
    return tuple(text.split(","))


def _counts(text: str) -> tuple[int, ...]:
    """1,3,10"""
    counts = text.split(",")
    if not all(count.isdecimal() and int(count) for count in counts):
        raise argparse.ArgumentTypeError(f"{text}: must be numbers from 1, such as 1,3,10")
    return tuple(map(int, counts))


def _bytes(text: str) -> int:
    """200G, 1.5T, 500M: powers of 1000."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT])B?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: must be a size such as 200G, 500M or 1.5T")
    return int(float(found[1]) * 1000 ** (1 + "kMGT".index(found[2])))


if __name__ == "__main__":
    sys.exit(main())
