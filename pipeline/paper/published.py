"""Figures that the paper prints: its own rows and those of its peers (Tables 1 to 5, speed).

In percent, as printed. Figures of other methods are those that the paper cites.
"""

from __future__ import annotations

from dataclasses import dataclass

PER_DATASET, PER_VIDEO = "per-dataset", "per-video"
"""kinds of online training (section 4, Training modalities)"""
TUNED = "-online"
"""ends the name of a run with --online-weights"""


@dataclass(frozen=True)
class Published:
    """One row of Table 1, 3, 4 or 5; of Table 5 one cell."""

    table: int
    method: str
    """as the paper names the row"""
    variant: str = ""
    """our variant of the same make; empty for another method"""
    J: float | None = None
    """J-mean; in Table 5 the mIoU over instances"""
    F: float | None = None
    G: float | None = None
    delta_G: float | None = None
    """as printed in Table 3: against the row that `GAIN_OVER` names"""
    dataset: str = "davis17"
    split: str = "test-dev"
    online: tuple[str, ...] = ()
    """the online training it had"""
    ensemble: bool = False

    @property
    def source(self) -> str:
        """`paper`, or `peer` for a row of another method."""
        return "paper" if self.variant else "peer"


def _cells(
    method: str,
    variant: str = "",
    online: tuple[str, ...] = (),
    **figures: float | None,
) -> tuple[Published, ...]:
    """A row of Table 5 by dataset: davis16, segtrackv2, youtube."""
    places = {
        "davis16": ("davis16", "val"),
        "segtrackv2": ("segtrackv2", "all"),
        "youtube": ("youtube-objects", "all"),
    }
    return tuple(
        Published(5, method, variant, figures.get(name), None, None, None, *place, online)
        for name, place in places.items()
    )


VIDEOS = {
    ("davis16", "val"): 20,
    ("davis17", "val"): 30,
    ("davis17", "test-dev"): 30,
    ("segtrackv2", "all"): 14,
    ("youtube-objects", "all"): 126,
}
"""how many videos each dataset and split has that the paper reports on (section 4, Datasets)"""


def likeness(dataset: str, split: str, videos: int, paper: tuple[str, str]) -> str:
    """Whether figures over these videos are of what the paper's are of, in a sentence.

    paper: dataset and split of the paper's figures, one of VIDEOS.
    """
    theirs = f"The paper's figures are of {' '.join(paper)}"
    if (dataset, split) != paper:
        ours = f"those of this run of {dataset} {split}"
        return f"{theirs}, {ours}: figures over different videos are no comparison."
    if videos != VIDEOS[paper]:
        return f"{theirs} with its {VIDEOS[paper]} videos, those of this run of {videos} of them."
    return f"{theirs}, as those of this run are."


BOTH = (PER_DATASET, PER_VIDEO)
ONLINE = (PER_DATASET,)

PUBLISHED: tuple[Published, ...] = (
    Published(1, "MSK", "msk", 63.3, 67.2, 65.3, split="val"),
    Published(1, "Re-MP, no attention", "remp-no-attention", 65.3, 69.7, 67.5, split="val"),
    Published(1, "Re-MP, full", "remp", 67.3, 71.0, 69.1, split="val"),
    Published(3, "MSK", "msk", 50.9, 52.6, 51.7, online=ONLINE),
    Published(3, "Re-MP, no attention", "remp-no-attention", 55.4, 60.5, 58.0, 6.2, online=ONLINE),
    Published(3, "Re-MP, full", "remp", 59.1, 62.8, 61.0, 9.2, online=ONLINE),
    Published(3, "+ Re-ID", "dyenet", 65.8, 70.5, 68.2, 7.2, online=ONLINE),
    Published(3, "offline only", "dyenet", 60.2, 64.8, 62.5, -5.6),
    Published(4, "OnAVOS", "", 53.4, 59.6, 56.5, online=BOTH, ensemble=True),
    Published(4, "LucidTracker", "", 60.1, 68.3, 64.2, online=BOTH),
    Published(4, "VS-ReID", "", 64.4, 67.8, 66.1, online=ONLINE),
    Published(4, "LucidTracker", "", 63.4, 69.9, 66.6, online=BOTH, ensemble=True),
    Published(4, "DyeNet (offline)", "dyenet", 60.2, 64.8, 62.5),
    Published(4, "DyeNet", "dyenet", 65.8, 70.5, 68.2, online=ONLINE),
    *_cells("VPN", davis16=75.0),
    *_cells("SegFlow", online=BOTH, davis16=76.1),
    *_cells("OSVOS", online=BOTH, davis16=79.8, segtrackv2=65.4, youtube=72.5),
    *_cells("MSK", online=BOTH, davis16=80.3, segtrackv2=70.3, youtube=72.6),
    *_cells("LucidTracker", online=BOTH, davis16=84.8, segtrackv2=77.6, youtube=76.2),
    *_cells("OnAVOS", online=BOTH, davis16=85.7, youtube=77.4),
    *_cells("DyeNet (offline)", "dyenet", davis16=84.7, segtrackv2=78.3, youtube=74.9),
    *_cells("DyeNet", "dyenet", ONLINE, davis16=86.2, segtrackv2=78.7, youtube=79.6),
)

GAIN_OVER = {
    ("remp-no-attention", True): ("msk", True),
    ("remp", True): ("msk", True),
    ("dyenet", True): ("remp", True),
    ("dyenet", False): ("dyenet", True),
}
"""what delta_G of Table 3 is against: (variant, whether online)"""

TABLE_2 = ("davis17", "val")
"""dataset and split of RETRIEVAL"""
RETRIEVAL: dict[float, tuple[tuple[float, float, float], ...]] = {
    0.9: ((97.0, 16.0, 72.3), (90.3, 29.3, 73.3), (90.7, 30.1, 73.6)),
    0.8: ((87.1, 22.2, 73.2), (75.6, 32.5, 73.7), (74.6, 32.6, 73.7)),
    0.7: ((78.9, 26.2, 73.2), (68.9, 33.5, 74.1), (68.8, 33.5, 74.1)),
    0.6: ((76.5, 29.2, 73.4), (65.5, 34.1, 74.0), (65.3, 34.2, 73.9)),
}
"""Table 2, DAVIS 2017 val: precision, recall and G after iterations 1, 2, 3+ by rho_reid"""

SPEED = {"offline": 2.4, "online": 0.43}
"""frames a second on a Titan Xp, DAVIS 2016 val (section 4.2, Speed Analysis)"""
