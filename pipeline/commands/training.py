"""Training as Luigi tasks; each ends in one weights file, and stops and resumes exactly.

luigi --module pipeline TrainDyeNet --local-scheduler \\
    --data davis17:DAVIS:train --output dyenet.safetensors

Next to OUT.safetensors lies OUT.training/: checkpoint.safetensors, log.csv (a row an
iteration), loss.svg and run.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi

from pipeline.commands import engine
from pipeline.commands.options import SetParameter
from pipeline.errors import UserError, one_of
from pipeline.plan.inputs import Options, cache_root, find_weights, open_videos
from pipeline.plan.profiles import EXTENDED, PAPER, PROFILES, with_changes
from pipeline.plan.settings import convert, unfit
from pipeline.run.progress import Progress
from pipeline.run.step import Step
from training.settings import LEARN, TrainSettings, compact, online, paper, paper_online

if TYPE_CHECKING:
    from torch import nn

    from models.config import Architecture
    from pipeline.datasets.sources import VideoSource
    from training.objectives import Objective

FITTED = 100
"""frames that the reduction of joined backbones is fitted to"""
PLOT_EVERY = 100
"""iterations between two drawings of the losses"""
FLOW = "medium"
"""preset of DIS; frames of a clip are scaled and pasted, so no cached flow fits them"""

Modules = dict[str, "nn.Module"]


class Trainer(engine.Command, Step):
    """A task that trains networks into one weights file."""

    weights = luigi.OptionalParameter(default=None, description="weights to start from")
    profile = engine.Choice(
        default=EXTENDED, choices=PROFILES, description="recipe: the paper's, or this project's"
    )
    set = SetParameter(default=(), description="name=value, any of docs/settings.md")
    device = luigi.Parameter(default="auto", description="auto, cpu or cuda")
    loaders = engine.Integer(
        default=min(8, (os.cpu_count() or 1) - 1),
        significant=False,
        description="processes that draw clips ahead, 0: none",
    )
    output = luigi.Parameter(description="the .safetensors file to write")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with engine.command():
            self.settings = with_settings(self.defaults(), self.set)
            self.check()

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__} {Path(self.output).name}"

    @property
    def top(self) -> Path:  # type: ignore[override]
        return Path(self.output)

    @property
    def folder(self) -> Path:
        """Where the run keeps its checkpoint and log."""
        return Path(self.output).with_suffix(".training")

    def check(self) -> None:
        """UserError if the output is unfit or its folder belongs to another run."""
        if not self.output.endswith(".safetensors"):
            raise UserError(f"--output {self.output}: give a file that ends in .safetensors")
        path = self.folder / "run.json"
        # The settings say all that a profile does, and an older run.json names none.
        name = {"profile": self.described_profile()}
        if path.exists() and json.loads(path.read_text("utf-8")) | name != self.asked():
            raise UserError(
                f"--output {self.output}: {self.folder} holds a run with other options; give "
                "another file, or delete that folder and the file"
            )

    def complete(self) -> bool:
        return Path(self.output).is_file()

    def asked(self) -> dict[str, Any]:
        """What the run was asked for; it goes on only under the same."""
        return {
            "task": type(self).__name__,
            "data": self.described(),
            "weights": self.weights,
            "architecture": self.chosen().to_dict(),
            "profile": self.described_profile(),
            "settings": asdict(self.settings),
        }

    def described_profile(self) -> str:
        """The profile, and the settings that differ from its recipe."""
        recipe, mine = asdict(self.defaults()), asdict(self.settings)
        return with_changes(self.profile, {n: v for n, v in mine.items() if v != recipe[n]})

    def make(self, progress: Progress) -> None:
        from pipeline.plan.machine import device
        from pipeline.results.files import write_text
        from pipeline.results.loss_plot import loss_plot
        from stages.flow_methods import dis
        from training.clips import Clips
        from training.loop import Training, together, train

        sources, networks, where = self.sources(), self.networks(), device(self.device)
        # an estimator keeps what it saw last: a fresh one for each pair, so that a run that goes
        # on sees the same flow
        clips = Clips(sources, self.settings, lambda image, other: dis(FLOW)(image, other))
        with together(where) as place:
            training = Training(self.objective(networks, clips.rows), self.settings, where, place)
            if place.first:
                write_text(self.folder / "run.json", json.dumps(self.asked(), indent=1))
            report = self.reporter(progress)
            train(training, clips.__getitem__, self.folder, report, self.loaders)
            if place.first:
                loss_plot(self.folder)
                with training.averaged():
                    self.write(networks, sources, training.seconds)

    def reporter(self, progress: Progress) -> Any:
        """Shows how far the run is; draws the losses now and then."""
        from pipeline.results.loss_plot import loss_plot

        total = self.settings.iterations

        def report(done: int, losses: Mapping[str, float]) -> None:
            progress(done, total)
            if done % PLOT_EVERY == 0:
                loss_plot(self.folder)
                shown = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
                progress.tell(f"{done} of {total}: {shown}")

        return report

    def write(
        self, networks: Modules, sources: Sequence[VideoSource], training_seconds: float
    ) -> None:
        """Write the weights as float16 with a card of what they were made from."""
        import torch

        from models.weights import save

        videos = sum(len(source) > 1 for source in sources)
        about = {**self.asked(), "videos": videos, "stills": len(sources) - videos}
        card = {"training": about, "training_seconds": training_seconds}
        save(Path(self.output), self.chosen(), networks, card, torch.float16)

    # --- what the tasks differ in --------------------------------------------------

    def defaults(self) -> TrainSettings:
        """Settings of the recipe, before --set."""
        return TrainSettings()

    def described(self) -> dict[str, Any]:
        """The options that say what is trained on."""
        raise TypeError(f"{type(self).__name__} has no data")

    def sources(self) -> list[VideoSource]:
        """What is trained on."""
        raise TypeError(f"{type(self).__name__} has no data")

    def chosen(self) -> Architecture:
        """The architecture of the weights to start from."""
        from models.weights import read_architecture

        return read_architecture(find_weights(str(self.weights), "any"))

    def networks(self) -> Modules:
        """All modules of the weights to start from."""
        from models.weights import load_modules

        if not self.weights:
            return {}
        return load_modules(find_weights(self.weights, "any"))

    def pick(self, networks: Modules, names: Iterable[str]) -> Modules:
        """Modules by name; UserError for one that the weights to start from lack."""
        names = tuple(names)
        for name in names:
            if name not in networks:
                raise UserError(
                    f"--weights {self.weights}: holds no {name}, which {type(self).__name__} "
                    f"starts from (it holds {', '.join(sorted(networks))})"
                )
        return {name: networks[name] for name in names}

    def objective(self, networks: Modules, rows: Mapping[tuple[str, int], int]) -> Objective:
        """What is minimised; adds to `networks` what it lacks, drops what no longer fits.

        rows: identities by source and object.
        """
        raise TypeError(f"{type(self).__name__} trains nothing")


class OfflineTrainer(Trainer):
    """Training on annotated videos and stills."""

    data = luigi.Parameter(description="layout:folder[:split], several joined by commas")
    held_out = luigi.Parameter(default="", description="videos to leave out: a,b")
    architecture = engine.Choice(
        default="paper",
        choices=["paper", "base", "compact", "tiny"],
        description="without --weights",
    )
    backbone = luigi.OptionalParameter(default=None, description="another backbone for it")
    initial = luigi.OptionalParameter(
        default=None,
        description="initial backbone: a .safetensors file, or torchvision weights by name",
    )

    def defaults(self) -> TrainSettings:
        if self.profile == PAPER:
            return paper()
        return compact() if self.architecture in ("base", "compact") else TrainSettings()

    def described(self) -> dict[str, Any]:
        return {"data": self.data, "held_out": self.held_out, "initial": self.initial}

    def sources(self) -> list[VideoSource]:
        from pipeline.datasets.sources import open_sources

        return open_sources(self.data, filter(None, self.held_out.split(",")), cache_root())

    def chosen(self) -> Architecture:
        from models.config import Architecture

        if self.weights:
            return super().chosen()
        made: Architecture = getattr(Architecture, self.architecture)()
        return replace(made, backbone=self.backbone) if self.backbone else made

    def fresh(self, names: Iterable[str]) -> Modules:
        """New modules; their backbone and conv5_x start from --initial where they fit."""
        import torch

        from models.weights import build, initial_state, load_initial

        torch.manual_seed(self.settings.seed)
        made = {name: build(name, self.chosen()) for name in names}
        if self.initial and made:
            state = initial_state(self.initial)
            for module in made.values():
                load_initial(state, module)
        if "trunk" in made:
            self.fit(made["trunk"])
        return made

    def fit(self, trunk: nn.Module) -> None:
        """Fit what of a fresh trunk depends on frames: the first ones of sources at equal steps."""
        import torch

        from models.backbone import Backbone, JoinedFeatures
        from pipeline.plan.machine import device

        backbone = trunk.get_submodule("backbone")
        if not (isinstance(backbone, Backbone) and isinstance(backbone.body, JoinedFeatures)):
            return
        where, sources = device(self.device), self.sources()
        chosen = sources[:: max(1, len(sources) // FITTED)]
        backbone.to(where)
        pixels = (torch.from_numpy(s.frame(0)).permute(2, 0, 1)[None].to(where) for s in chosen)
        backbone.body.fit(backbone.preprocess(frame) for frame in pixels)
        backbone.cpu()


class TrainDyeNet(OfflineTrainer):
    """Joint training: trunk, mask network, Re-ID network and Re-MP (section 3.3).

    What reads the trunk and does not learn with it stays only if the trunk does.
    """

    def objective(self, networks: Modules, rows: Mapping[tuple[str, int], int]) -> Objective:
        from training.objectives import DyeNetObjective

        names = ("trunk", *LEARN[self.settings.learn])
        networks |= self.fresh([name for name in names if name not in networks])
        if self.settings.trunk == "train":
            drop_unfit(networks, names)
        chosen = {name: networks[name] for name in names}
        return DyeNetObjective(self.chosen(), chosen, len(rows), self.settings)


class TrainRPN(OfflineTrainer):
    """The proposal network alone, on the final trunk of --weights (section 3.1)."""

    def check(self) -> None:
        if not self.weights:
            raise UserError("TrainRPN needs --weights, the file whose trunk it works on")
        super().check()

    def objective(self, networks: Modules, rows: Mapping[tuple[str, int], int]) -> Objective:
        from training.objectives import RPNObjective

        networks |= self.fresh(["rpn"] if "rpn" not in networks else [])
        return RPNObjective(self.chosen(), self.pick(networks, ["trunk", "rpn"]), self.settings)


class TrainMSK(OfflineTrainer):
    """The baseline of Table 1; its backbone starts from the trunk of --weights."""

    def objective(self, networks: Modules, rows: Mapping[tuple[str, int], int]) -> Objective:
        from models.msk import MSK
        from training.objectives import MSKObjective

        if "msk" not in networks:
            networks |= self.fresh(["msk"])
            msk = networks["msk"]
            if "trunk" in networks and isinstance(msk, MSK):
                state = networks["trunk"].get_submodule("backbone").state_dict()
                msk.load_backbone(state)
        return MSKObjective({"msk": networks["msk"]}, self.settings)


class FinetuneOnFirstFrames(Trainer):
    """Online training on the given masks of a set, or of each video alone (section 4).

    With `--scope dataset` the output is one file; with `--scope video` it is a folder of
    <video>.safetensors. RunDataset takes either as --weights. With learn=all MSK, where the
    weights hold it, learns beside the networks of DyeNet (Table 3).
    """

    weights = luigi.Parameter(default="compact", description="weights to start from")
    dataset = luigi.Parameter(description="as of RunDataset")
    root = luigi.OptionalParameter(default=None, description="folder of the dataset")
    split = luigi.Parameter(default="val", description="split of the dataset")
    videos = luigi.Parameter(default="", description="only these videos: a,b")
    scope = engine.Choice(
        default="dataset", choices=["dataset", "video"], description="one model, or one a video"
    )

    def check(self) -> None:
        if self.scope == "dataset":
            super().check()

    def defaults(self) -> TrainSettings:
        return paper_online() if self.profile == PAPER else online()

    def described(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "split": self.split, "videos": self.videos}

    def opened(self) -> Sequence[Any]:
        names = tuple(filter(None, self.videos.split(",")))
        return open_videos(Options(self.dataset, self.root, self.split, videos=names))

    @engine.command()
    def requires(self) -> list[luigi.Task]:
        if self.scope == "dataset":
            return []
        return [
            self.clone(
                scope="dataset",
                videos=video.name,
                output=str(Path(self.output) / f"{video.name}.safetensors"),
            )
            for video in self.opened()
        ]

    def complete(self) -> bool:
        if self.scope == "dataset":
            return super().complete()
        return all(task.complete() for task in self.requires())

    def sources(self) -> list[VideoSource]:
        from pipeline.datasets.sources import first_frames

        return first_frames(self.opened(), self.settings.height)

    def make(self, progress: Progress) -> None:
        if self.scope == "dataset":
            super().make(progress)

    def objective(self, networks: Modules, rows: Mapping[tuple[str, int], int]) -> Objective:
        from training.objectives import Beside, DyeNetObjective, MSKObjective

        settings = self.settings
        learning = [name for name in LEARN[settings.learn] if name in networks]
        msk = {name: networks[name] for name in ("msk",) if name in networks}
        parts: list[Objective] = []
        if learning:
            chosen = self.pick(networks, ["trunk", *learning])
            parts.append(DyeNetObjective(self.chosen(), chosen, len(rows), settings))
        if msk and settings.learn == "all":
            parts.append(MSKObjective(msk, settings))
        if not parts:
            raise UserError(
                f"--weights {self.weights}: holds only {', '.join(sorted(networks))}, of which "
                f"learn={settings.learn} trains nothing"
            )
        if settings.trunk == "train":
            drop_unfit(networks, ("trunk", *learning))
        return parts[0] if len(parts) == 1 else Beside(*parts)


def drop_unfit(networks: Modules, learning: Iterable[str]) -> None:
    """Drop what reads a trunk that moves and does not move with it; MSK has a trunk of its own."""
    for name in networks.keys() - {*learning, "msk"}:
        del networks[name]


def with_settings(settings: TrainSettings, assignments: Iterable[str]) -> TrainSettings:
    """Settings with some replaced, given as name=value; UserError names a wrong one."""
    items: dict[str, Field[Any]] = {item.name: item for item in fields(TrainSettings)}
    for part in filter(None, (p.strip() for text in assignments for p in text.split(","))):
        name, _, text = part.partition("=")
        if name not in items:
            raise UserError(f"--set {part}: no such setting of training; {one_of(name, [*items])}")
        try:
            settings = replace(settings, **{name: convert(items[name], name, text)})
        except ValueError:
            raise UserError(f"--set {part}: {unfit(items[name], text)}") from None
    return settings
