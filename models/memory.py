"""Appearance memory: what the starting frame looks like, compared cell by cell.

An extension, off in the paper's configuration. The hidden state forgets; the starting
frame does not. Every cell of a new RoI is compared with the cells of the starting
frame, those of the object and those of its surroundings, and N_R receives how well
each side matches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 3
FLOOR = 1e-9
BLOCK = 64
"""cells that a matrix product takes together"""


class Memory(NamedTuple):
    """Cells of the starting frame."""

    keys: Tensor
    """(N, K, L), unit length over K"""
    labels: Tensor
    """(N, L) 1 where the object, 0 where not"""


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
        """RoI features (N, C, m, m) and masks (N, 1, m, m) of several RoIs of one frame."""
        return Memory(
            torch.cat([self.keys(x) for x in xs], 2),
            torch.cat([(label > 0.5).float().flatten(1) for label in labels], 1),
        )

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Compare RoI features (N, C, m, m) with the memory.

        Returns (N, 3, m, m): soft maximum of the cosines to the object's cells, the same to
        the rest, and the label read by softmax over all cells.
        """
        sharpness = self.sharpness.exp()
        count = memory.keys.shape[-1]
        # whole blocks of cells round alike on any number of threads
        padded = F.pad(memory.keys, (0, -count % BLOCK))
        cosines = (self.keys(x).transpose(1, 2) @ padded)[..., :count]
        weights = torch.exp(sharpness * (cosines.float() - 1))
        # one product gives the mass of both sides; its logarithm is a soft maximum
        sides = torch.stack((memory.labels, 1 - memory.labels), 2)
        mass = (weights @ sides).float() + FLOOR
        best = 1 + mass.log() / sharpness
        read = mass[..., :1] / mass.sum(2, keepdim=True)
        guide = torch.cat((best, read), 2).transpose(1, 2)
        return guide.reshape(len(x), CHANNELS, *x.shape[-2:])
