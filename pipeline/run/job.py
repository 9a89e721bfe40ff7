"""What a task needs while it runs: its inputs as readers, its networks, its output."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.files import DamagedArtifact, MissingArtifact, reporting
from cache.holds import hold, holds
from cache.memo import MASK, VECTOR, BoxMemo
from cache.prune import record_run
from cache.reader import Reader
from cache.schemas import SCHEMAS
from cache.store import Store
from cache.writer import Writer
from pipeline.plan.chain import Spec, label, needed, planned, version
from pipeline.plan.machine import device
from pipeline.plan.recipe import VideoRecipe, read
from pipeline.plan.settled import settled
from pipeline.run import artifacts
from pipeline.run.kept import SHELF, KeptRows, to_device
from pipeline.run.progress import Progress
from pipeline.run.video import VideoFiles
from stages.flow_methods import METHODS

if TYPE_CHECKING:
    from models.networks import Networks
    from stages.readers import Boxes, Features, Flow, Proposals
    from stages.scores import Scores
    from stages.types import IndexMask, Matches, Offers, StartingPoint, Tracklet

HOW_FAR = ("skip_iou", "overlap")
"""settings of tracklets that say which are kept and up to where, not what they are"""


class Job:
    """One task under way; closes what it opened at the end of a `with` block."""

    def __init__(
        self,
        root: Path,
        run_digest: str,
        video: str,
        progress: Progress,
        name: str = "",
        networks_for: Sequence[str] = (),
    ) -> None:
        """name: label of the artifact that the task makes, if it makes one.

        networks_for: modules that a task runs which makes none.
        """
        # On another node than the run was planned on, too.
        hold(root, run_digest)
        self.store = Store(root)
        self.recipe = read(root, run_digest)
        self.specs = planned(root, run_digest, video)
        self.files = VideoFiles(root, run_digest, video)
        self.video = video
        self.progress = progress
        self._name = name
        self._modules = self.specs[name].modules if name else networks_for
        self._began = time.perf_counter()
        self._opened: dict[str, Reader] = {}
        self._open = ExitStack()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def made(self) -> VideoRecipe:
        """What the video is made from."""
        return self.recipe.videos[self.video]

    # --- artifacts ---------------------------------------------------------------

    @property
    def spec(self) -> Spec:
        """What the task makes."""
        return self.specs[self._name]

    @cached_property
    def given(self) -> bool:
        """Whether it works with what came of the given masks alone."""
        if self._name:
            return self.spec.given
        return bool(settled(self.store, self.recipe.dataset, self.video, self.specs))

    @property
    def needed(self) -> dict[str, Spec]:
        """The artifacts that the video's result comes from."""
        return needed(self.specs, self.given)

    def open(self, name: str) -> Reader:
        """An artifact of this video by label."""
        if name not in self._opened:
            spec = self.specs[name]
            self._opened[name] = self._open.enter_context(
                self.store.read(spec.stage, self.recipe.dataset, self.video, spec.key)
            )
        return self._opened[name]

    def _of(self, stage: str, k: int) -> Reader:
        """An artifact of iteration k."""
        return self.open(label(stage, k, self.given))

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """The task's artifact; it appears whole at the end of the block."""
        with self.store.write(
            self.spec.stage,
            self.recipe.dataset,
            self.video,
            self.spec.content,
            inputs=self.spec.content["inputs"],
            device=self.device,
            started=self._began,
        ) as out:
            yield out

    def copy(self, stage: str, iteration: int) -> None:
        """Write the artifact of an earlier iteration under the task's own key."""
        before = self._of(stage, iteration)
        with self.write() as out:
            for item in SCHEMAS[stage].fields:
                if SCHEMAS[stage].streamed and item.shape[0] == "T":
                    for row in artifacts.rows(before, item.name):
                        out.append(item.name, row)
                elif item.name in before:
                    values = before[item.name][:]
                    out.put(item.name, values.tolist() if item.dtype == "utf8" else values)

    def drop(self, stages: Collection[str]) -> None:
        """Remove the video's artifacts of these stages that no other run under way reaches."""
        root, mine = self.store.root, self.recipe.digest
        others = {hold.run_id for hold in holds(root) if hold.live} - {mine}
        needed = {
            spec.key
            for run in others
            if self.video in read(root, run).videos
            for spec in planned(root, run, self.video).values()
        }
        for spec in self.specs.values():
            if spec.stage in stages and spec.key not in needed:
                path = self.store.path(spec.stage, self.recipe.dataset, self.video, spec.key)
                with reporting(path):
                    path.unlink(missing_ok=True)

    def size(self) -> tuple[int, int]:
        """(H, W) px."""
        height, width = self.open("frames")["size"][:]
        return int(height), int(width)

    def working_size(self) -> tuple[int, int]:
        """(H, W) px of the frames that the networks see, in which every box lies."""
        from stages.frames import working_size

        return working_size(self.size(), self.recipe.settings.frames)

    def first_masks(self) -> dict[int, IndexMask]:
        """The given masks by frame; BadInput if one does not fit."""
        return self.files.first_masks(self.size())

    def working_masks(self) -> dict[int, IndexMask]:
        """The given masks by frame in the size that the networks see."""
        from stages.frames import resize_masks

        return resize_masks(self.first_masks(), self.working_size())

    def length(self) -> int:
        """T."""
        return len(self.open("frames")["names"])

    def features(self) -> Features:
        place = to_device if self.device == "cuda" else np.asarray
        keep = partial(self._kept, "features", place=place)
        return artifacts.get_features(self.open("features"), keep)

    def flow(self) -> Flow:
        return artifacts.get_flow(partial(self._kept, "flow", place=np.asarray))

    def _kept(self, name: str, dataset: str, place: Callable[[Any], Any]) -> KeptRows:
        """A dataset of an artifact, of which frames stay in memory for the stages to come."""
        video = (str(self.store.root), self.recipe.dataset, self.video)
        kept = SHELF.of(video, (self.specs[name].key, dataset, self.device))
        return KeptRows(self.open(name)[dataset], kept, place)

    def boxes(self) -> Boxes:
        """Proposals and windows with embeddings."""
        return artifacts.get_boxes(*map(self.open, ("proposals", "embeddings", "search")))

    def proposals(self) -> Proposals | None:
        """Proposals and windows with embeddings and evidence; None without retrieval."""
        if self.given or "evidence" not in self.specs:
            return None
        return artifacts.get_proposals(self.boxes(), self.open("evidence"))

    def matches(self, k: int) -> Matches:
        return artifacts.get_matches(self._of("matches", k))

    def starts(self, k: int, size: tuple[int, int]) -> list[StartingPoint]:
        """Starting points of the iterations 1 to k, their boxes in frames of the video's `size`."""
        from stages.boxmask import rescaled
        from stages.frames import working_size

        if self.recipe.settings.variant.baseline:
            return []
        sizes = working_size(size, self.recipe.settings.frames), size
        return [
            replace(start, box=rescaled(start.box, *sizes))
            for i in range(1, k + 1)
            for start in self.matches(i).starts
        ]

    def tracklets(self, k: int) -> list[Tracklet]:
        """Accepted tracklets of the iterations 1 to k."""
        return artifacts.get_tracklets(self._of("tracklets", k)) if k else []

    def tubes(self, k: int) -> Reader:
        """Masks after iteration k."""
        baseline = self.recipe.settings.variant.baseline
        return self.open("msk") if baseline else self._of("tubes", k)

    def scores(self, k: int) -> Reader:
        """Scores of the masks after iteration k."""
        return self._of("scores", k)

    def offers(self, k: int) -> Offers:
        """Boxes that the tubes of iteration k offer as templates."""
        return artifacts.get_offers(self._of("tubes", k))

    def converged(self, k: int) -> bool:
        """Whether iteration k found nothing new: all that follows repeats what was before."""
        return k > 1 and bool(self._of("matches", k)["converged"][0])

    # --- networks and memos ------------------------------------------------------

    @cached_property
    def device(self) -> str:
        """Device of this task: the recipe's, or what this machine has; cpu without networks."""
        flow = self._name == "flow" and METHODS[self.recipe.settings.flow.method].on_gpu
        return device(self.recipe.device) if self._modules or flow else "cpu"

    @property
    def networks(self) -> Networks:
        """The networks of this video, loaded once a process."""
        path, precision = Path(self.made.weights), self.recipe.settings.run.precision
        return load(path, tuple(sorted(self.made.modules.items())), self.device, precision)

    def mask_memo(self) -> AbstractContextManager[BoxMemo]:
        """Masks of boxes that earlier runs have computed."""
        return self._box_memo(MASK, "mask")

    def vector_memo(self) -> AbstractContextManager[BoxMemo]:
        """Re-ID vectors of boxes that earlier runs have computed."""
        return self._box_memo(VECTOR, "reid")

    @contextmanager
    def _box_memo(self, kind: str, network: str) -> Iterator[BoxMemo]:
        content = {
            "version": version("matches"),
            "features": self.specs["features"].key,
            network: self.made.modules.get(network),
        }
        with BoxMemo(kind, self.store, self.recipe.dataset, self.video, content) as memo:
            yield memo
        record_run(self.store, self.recipe.digest, (), memo.reached)

    @contextmanager
    def tracklet_memo(self) -> Iterator[artifacts.StartMemo]:
        """Tracklets that earlier runs have propagated."""
        mine = self.spec.content
        content = {
            "version": mine["version"],
            "features": self.specs["features"].key,
            "flow": self.specs["flow"].key,
            "first_masks": self.made.first_masks,
            "weights": mine["weights"],
            "settings": {
                name: value for name, value in mine["settings"].items() if name not in HOW_FAR
            },
        }
        memo = artifacts.StartMemo(self.store, self.recipe.dataset, self.video, content)
        yield memo
        record_run(self.store, self.recipe.digest, (), memo.reached)

    def same_scores(self, masks: str) -> Scores | None:
        """Scores that an earlier run gave to equal masks, known by their digest."""
        mine = {**self.spec.content, "inputs": {}, "iteration": 0}
        folder = self.store.folder("scores", self.recipe.dataset, self.video)
        for path in sorted(folder.glob("*.h5")):
            with (
                suppress(MissingArtifact, DamagedArtifact),
                self.store.read("scores", self.recipe.dataset, self.video, path.stem) as reader,
            ):
                same = {**reader.content, "inputs": {}, "iteration": 0} == mine
                if same and reader["masks_digest"][0] == masks:
                    return artifacts.get_scores(reader)
        return None


@lru_cache(maxsize=1)
def load(path: Path, digests: tuple[tuple[str, str], ...], device: str, precision: str) -> Networks:
    """Networks of a weights file; digests: of its modules as planned, which its tensors have."""
    from models.weights import load as load_weights

    planned = dict(digests)
    return load_weights(path, device, precision, planned, planned)
