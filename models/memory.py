"""Appearance memory: what an object and its surroundings look like, compared cell by cell.

An extension, off in the paper's configuration. The hidden state forgets; the memory does
not. Every cell of a new RoI is compared with remembered cells of the object and of all
else, and N_R receives how well each side matches. The starting frame always stays. Of
later frames the memory holds the last one and, further back, one in KEPT_EVERY, the oldest
going first, so that it follows an object that turns and grows without losing its origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 3
FLOOR = 1e-9
BLOCK = 64
"""cells that a matrix product takes together"""
KEPT_EVERY = 5
"""frames between two that stay"""
KEPT_FRAMES = 6
"""later frames that stay, besides the last one"""
SURE_PROBABILITY = 0.8
"""probability from which a predicted cell counts for a side"""


class Memory(NamedTuple):
    """Remembered cells of N objects."""

    keys: Tensor
    """(N, K, L) of the starting frame, and of given masks; unit length over K"""
    sides: Tensor
    """(N, L, 2) 1 where a cell counts for the object, and 1 where for the rest"""
    later_keys: Tensor
    """(N, K, (1 + KEPT_FRAMES) * (m // 2) ** 2): of the last frame, then of those that stay"""
    later_sides: Tensor
    """(N, (1 + KEPT_FRAMES) * (m // 2) ** 2, 2), zero while there is no such frame"""
    age: Tensor
    """(N,) frames since the starting frame"""

    def roi(self, cells: int) -> Memory:
        """The cells of the starting frame that lie in the object's own RoI; cells: m * m."""
        return self._replace(
            keys=self.keys[..., :cells].contiguous(), sides=self.sides[:, :cells]
        ).origin()

    def with_given(self, given: Given) -> Memory:
        """Joined by what given masks show in their RoIs.

        What another object covers there belongs to the rest; what it does not cover tells nothing.
        """
        keys, sides = [self.keys], [self.sides]
        for other, same in given:
            side = other.sides
            rest = torch.stack((torch.zeros_like(side[..., 0]), side[..., 0]), 2)
            keys.append(other.keys)
            sides.append(side if same else rest)
        return self._replace(keys=torch.cat(keys, 2), sides=torch.cat(sides, 1))

    def with_others(self, cells: int, frames: Sequence[int]) -> Memory:
        """N objects, each joined by what the others of its frame show, as with_given().

        cells: m * m. frames: of each object, which frame it is in.
        """
        rows = [Memory(*(part[n : n + 1] for part in self)) for n in range(len(self.age))]
        others = [row.roi(cells) for row in rows]
        return stack(
            [
                row.with_given(
                    [(others[m], False) for m, at in enumerate(frames) if m != n and at == own]
                )
                for n, (row, own) in enumerate(zip(rows, frames, strict=True))
            ]
        )

    def origin(self) -> Memory:
        """The starting frame alone."""
        keys, sides = self.later_keys[:, :, :0], self.later_sides[:, :0]
        # copies, since a view keeps all of the later frames in memory
        return self._replace(later_keys=keys.clone(), later_sides=sides.clone())


Given = Sequence[tuple[Memory, bool]]
"""what given masks show in their RoIs (Memory.roi), each with whether it is of the same object"""


def stack(memories: Sequence[Memory]) -> Memory:
    """One memory over the objects of several; rows that know fewer cells end in some of no side."""
    if len(memories) == 1:
        return memories[0]
    most = max(memory.keys.shape[2] for memory in memories)
    even = []
    for memory in memories:
        blank = most - memory.keys.shape[2]
        keys, sides = F.pad(memory.keys, (0, blank)), F.pad(memory.sides, (0, 0, 0, blank))
        even.append(memory._replace(keys=keys, sides=sides))
    return Memory(*map(torch.cat, zip(*even, strict=True)))


class AppearanceMemory(nn.Module):
    """Cosine matching in a learnt projection of the trunk's features."""

    def __init__(self, channels: int, keys: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, keys, 1, bias=False)
        nn.init.orthogonal_(self.project.weight)
        self.sharpness = nn.Parameter(torch.tensor(3.0))

    def keys(self, x: Tensor) -> Tensor:
        """(N, C, m, m) to unit keys (N, K, m * m)."""
        return F.normalize(self.project(x).float().flatten(2), dim=1)

    def write(self, xs: tuple[Tensor, ...], labels: tuple[Tensor, ...]) -> Memory:
        """The starting frame: features (N, C, m, m) and masks (N, 1, m, m) of several RoIs.

        The first is the object's own, whose size is that of all later ones.
        """
        keys = torch.cat([self.keys(x) for x in xs], 2)
        inside = torch.cat([(label > 0.5).float().flatten(1) for label in labels], 1)
        count = (1 + KEPT_FRAMES) * (xs[0].shape[-1] // 2) ** 2
        return Memory(
            keys,
            torch.stack((inside, 1 - inside), 2),
            keys.new_zeros((*keys.shape[:2], count)),
            keys.new_zeros((len(keys), count, 2)),
            torch.zeros(len(keys), dtype=torch.long, device=keys.device),
        )

    def follow(self, memory: Memory, x: Tensor, probability: Tensor) -> Memory:
        """Take in the next frame: its RoI features (N, C, m, m) and mask (N, 1, s, s).

        At half the resolution, and only cells whose side is sure.
        """
        side = x.shape[-1] // 2
        keys = self.keys(F.adaptive_avg_pool2d(x, side))
        p = F.adaptive_avg_pool2d(probability.detach().float(), side).flatten(1)
        sides = torch.stack((p > SURE_PROBABILITY, p < 1 - SURE_PROBABILITY), 2).to(memory.sides)
        age = memory.age + 1
        stays = age % KEPT_EVERY == 0

        def shift(old: Tensor, new: Tensor, dim: int) -> Tensor:
            cells = side * side
            _, past = old.split((cells, KEPT_FRAMES * cells), dim)
            newer = torch.cat((new, past.narrow(dim, 0, (KEPT_FRAMES - 1) * cells)), dim)
            return torch.cat((new, torch.where(stays[:, None, None], newer, past)), dim)

        return memory._replace(
            later_keys=shift(memory.later_keys, keys, 2),
            later_sides=shift(memory.later_sides, sides, 1),
            age=age,
        )

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Compare RoI features (N, C, m, m) with the memory.

        Returns (N, 3, m, m): soft maximum of the cosines to the object's cells, the same to
        the rest, and the label read by softmax over all cells.
        """
        guide = self.compare(self.keys(x), memory)
        return guide.reshape(len(x), CHANNELS, *x.shape[-2:])

    def compare(self, keys: Tensor, memory: Memory) -> Tensor:
        """As forward(), of keys(x) (N, K, cells): (N, 3, cells)."""
        sharpness = self.sharpness.exp()
        known = torch.cat((memory.keys, memory.later_keys), 2)
        sides = torch.cat((memory.sides, memory.later_sides), 1)
        # whole blocks of cells round alike on any number of threads; the added ones have no side
        blank = -known.shape[-1] % BLOCK
        known, sides = F.pad(known, (0, blank)), F.pad(sides, (0, 0, 0, blank)).transpose(1, 2)
        queries = keys.transpose(1, 2) * sharpness
        # one product gives the mass of both sides; its logarithm is a soft maximum
        weights = torch.exp_((queries @ known).float().sub_(sharpness))
        mass = (sides @ weights.transpose(1, 2)).float() + FLOOR
        best = 1 + mass.log() / sharpness
        read = mass[:, :1] / mass.sum(1, keepdim=True)
        return torch.cat((best, read), 1)
