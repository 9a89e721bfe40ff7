"""What a task needs while it runs: its inputs as readers, its networks, its output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cache.digests import FileDigests
from cache.files import DamagedArtifact, MissingArtifact
from cache.memo import MASK, VECTOR, BoxMemo
from cache.prune import record_run
from cache.reader import Reader
from cache.schemas import SCHEMAS
from cache.store import Store
from cache.writer import Writer
from pipeline import readers
from pipeline import recipe as recipes
from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.recipe import Recipe, Spec, VideoRecipe, label
from pipeline.runs import mask_digest, module_digests, open_video

if TYPE_CHECKING:
    from models.networks import Networks
    from pipeline.datasets import Video
    from stages.frames import FrameReader, Manifest, MaskSource
    from stages.scores import Scores
    from stages.types import IndexMask, Matches, Offers, StartingPoint, Tracklet


class Job:
    """One task under way; closes what it opened at the end of a `with` block."""

    def __init__(
        self, root: Path, recipe: str, video: str, progress: Progress, name: str = ""
    ) -> None:
        """name: label of the artifact that the task makes, if it makes one."""
        self.store = Store(root)
        self.recipe: Recipe = recipes.read(root, recipe)
        self.specs: Mapping[str, Spec] = recipes.planned(root, recipe, video)
        self.video = video
        self.progress = progress
        self._name = name
        self._began = time.perf_counter()
        self._opened: dict[str, Reader] = {}
        self._open = ExitStack()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    # --- the source --------------------------------------------------------------

    @property
    def made(self) -> VideoRecipe:
        """What the video is made from."""
        return self.recipe.videos[self.video]

    @cached_property
    def source(self) -> Video:
        """Where the video's files are."""
        return open_video(self.store.root, self.recipe.digest, self.video)

    def frames(self) -> FrameReader:
        """The video's pixels."""
        from stages.frames import open_frames

        return open_frames(self.source.frames, video=self.video)

    def working_frames(self) -> FrameReader:
        """The video's pixels as the networks see them."""
        from stages.frames import working_frames

        return working_frames(self.frames(), self.recipe.settings.frames)

    def manifest(self) -> Manifest:
        """Names, size and digests of the frames; BadInput if they or the masks are unfit."""
        from stages.frames import manifest, mask_files

        with FileDigests(self.store.root) as digests:
            found = manifest(self.source.frames, self.video, digests.digest)
        last = max(self.source.first_masks)
        if last >= len(found.names):
            raise UserError(
                f"video {self.video}: mask {mask_files(self.source.first_masks[last])[0]} is for "
                f"frame {last}, but the video has {len(found.names)} frames, numbered from 0"
            )
        self.first_masks(found.size)
        return found

    def digest(self, mask: MaskSource) -> str:
        """Digest of a mask that was given."""
        with FileDigests(self.store.root) as digests:
            return mask_digest(digests, mask, self.video)

    # --- artifacts ---------------------------------------------------------------

    @property
    def spec(self) -> Spec:
        """What the task makes."""
        return self.specs[self._name]

    def open(self, name: str) -> Reader:
        """An artifact of this video by label."""
        if name not in self._opened:
            spec = self.specs[name]
            self._opened[name] = self._open.enter_context(
                self.store.read(spec.stage, self.recipe.dataset, self.video, spec.key)
            )
        return self._opened[name]

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
        before = self.open(label(stage, iteration))
        with self.write() as out:
            for item in SCHEMAS[stage].fields:
                if SCHEMAS[stage].streamed and item.shape[0] == "T":
                    for row in readers.rows(before, item.name):
                        out.append(item.name, row)
                elif item.name in before:
                    values = before[item.name][:]
                    out.put(item.name, values.tolist() if item.dtype == "utf8" else values)

    def size(self) -> tuple[int, int]:
        """(H, W) px."""
        height, width = self.open("frames")["size"][:]
        return int(height), int(width)

    def working_size(self) -> tuple[int, int]:
        """(H, W) px of the frames that the networks see, in which every box lies."""
        from stages.frames import working_size

        return working_size(self.size(), self.recipe.settings.frames)

    def length(self) -> int:
        """T."""
        return len(self.open("frames")["names"])

    def features(self) -> readers.Features:
        return readers.Features(self.open("features"))

    def flow(self) -> readers.Flow:
        return readers.Flow(self.open("flow"))

    def boxes(self) -> readers.Boxes:
        """Proposals and windows with embeddings."""
        return readers.Boxes(*map(self.open, ("proposals", "embeddings", "search")))

    def proposals(self) -> readers.Proposals | None:
        """Proposals and windows with embeddings and evidence; None without retrieval."""
        if "evidence" not in self.specs:
            return None
        names = ("proposals", "embeddings", "search", "evidence")
        return readers.Proposals(*map(self.open, names))

    def matches(self, k: int) -> Matches:
        return readers.get_matches(self.open(label("matches", k)))

    def starts(self, k: int, size: tuple[int, int]) -> list[StartingPoint]:
        """Starting points of the iterations 1 to k, their boxes in frames of the video's `size`."""
        from stages.boxmask import rescaled
        from stages.frames import working_size

        if "msk" in self.specs:
            return []
        sizes = working_size(size, self.recipe.settings.frames), size
        return [
            replace(start, box=rescaled(start.box, *sizes))
            for i in range(1, k + 1)
            for start in self.matches(i).starts
        ]

    def tracklets(self, k: int) -> list[Tracklet]:
        """Accepted tracklets of the iterations 1 to k."""
        return readers.get_tracklets(self.open(label("tracklets", k))) if k else []

    def tubes(self, k: int) -> Reader:
        """Masks after iteration k."""
        return self.open("msk" if "msk" in self.specs else label("tubes", k))

    def offers(self, k: int) -> Offers:
        """Boxes that the tubes of iteration k offer as templates."""
        return readers.get_offers(self.open(label("tubes", k)))

    def converged(self, k: int) -> bool:
        """Whether iteration k found nothing new: all that follows repeats what was before."""
        return k > 1 and bool(self.open(label("matches", k))["converged"][0])

    # --- masks that were given ---------------------------------------------------

    def first_masks(self, size: tuple[int, int] | None = None) -> dict[int, IndexMask]:
        """The given masks by frame; BadInput if one does not fit."""
        return self._masks(self.source.first_masks, size or self.size(), given=True)

    def working_masks(self) -> dict[int, IndexMask]:
        """The given masks by frame in the size that the networks see."""
        from stages.frames import resize_mask

        size = self.working_size()
        return {j: resize_mask(mask, size) for j, mask in self.first_masks().items()}

    def annotations(self, size: tuple[int, int]) -> Callable[[int], IndexMask | None]:
        """The annotation of a frame, None where there is none; BadInput as above."""
        truths = self.source.annotations or {}

        def read(j: int) -> IndexMask | None:
            return self._masks({j: truths[j]}, size, given=False)[j] if j in truths else None

        return read

    def _masks(
        self, sources: Mapping[int, MaskSource], size: tuple[int, int], *, given: bool
    ) -> dict[int, IndexMask]:
        from stages.frames import read_index_mask

        name = self.source.frame_name
        return {
            j: read_index_mask(source, size, self.video, name(j), given=given)
            for j, source in sources.items()
        }

    # --- networks and memos ------------------------------------------------------

    @cached_property
    def device(self) -> str:
        """Device of this task: the recipe's, or what this machine has; cpu without networks."""
        raft = self._name == "flow" and self.recipe.settings.flow.method == "raft"
        networks = bool(self._name) and bool(self.spec.modules)
        return device(self.recipe.device) if networks or raft else "cpu"

    @property
    def networks(self) -> Networks:
        """The networks of this video, loaded once a process."""
        path, precision = Path(self.made.weights), self.recipe.settings.run.precision
        with FileDigests(self.store.root) as digests:
            if module_digests(path, digests, self.store.root) != self.made.modules:
                raise UserError(f"weights {path}: changed since the run was planned; start it anew")
        return load(path, tuple(sorted(self.made.modules.items())), self.device, precision)

    def mask_memo(self) -> AbstractContextManager[BoxMemo]:
        """Masks of boxes that earlier runs have computed."""
        return self._box_memo(MASK, "mask")

    def vector_memo(self) -> AbstractContextManager[BoxMemo]:
        """Re-ID vectors of boxes that earlier runs have computed."""
        return self._box_memo(VECTOR, "reid")

    @contextmanager
    def _box_memo(self, kind: str, network: str) -> Iterator[BoxMemo]:
        recipe = {
            "version": recipes.version("matches"),
            "features": self.specs["features"].key,
            network: self.made.modules.get(network),
        }
        with BoxMemo(kind, self.store, self.recipe.dataset, self.video, recipe) as memo:
            yield memo
        record_run(self.store, self.recipe.digest, (), memo.reached)

    @contextmanager
    def tracklet_memo(self) -> Iterator[readers.TrackletMemo]:
        """Tracklets that earlier runs have propagated."""
        content = self.spec.content
        recipe = {
            "version": content["version"],
            "features": self.specs["features"].key,
            "flow": self.specs["flow"].key,
            "first_masks": self.made.first_masks,
            "weights": content["weights"],
            "settings": {
                name: value for name, value in content["settings"].items() if name != "skip_iou"
            },
        }
        memo = readers.TrackletMemo(self.store, self.recipe.dataset, self.video, recipe)
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
                same = {**reader.recipe, "inputs": {}, "iteration": 0} == mine
                if same and reader["masks_digest"][0] == masks:
                    return readers.get_scores(reader)
        return None


@lru_cache(maxsize=1)
def device(asked: str) -> str:
    """`auto` as cuda where there is one; UserError for cuda where there is none."""
    import torch

    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise UserError("--device cuda: this machine has no CUDA device; use --device cpu or auto")
    return "cuda" if asked != "cpu" and found else "cpu"


@lru_cache(maxsize=1)
def load(path: Path, digests: tuple[tuple[str, str], ...], device: str, precision: str) -> Networks:
    """Networks of a weights file; digests: of its modules, so that a new file is read anew."""
    from models.weights import load as load_weights

    return load_weights(path, device, precision)
