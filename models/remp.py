"""Recurrent mask propagation (section 3.2): N_R, N_O and the region attention.

h_j = N_R(h_(j-1)->j, x_j)      (1)
y_j = N_O(a_j * h_j)            (2)

Besides, N_R may read the warped mask, and an appearance memory (models.config.Architecture).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import memory as appearance
from models.config import Architecture
from models.conv5 import conv5, group_norm


class Output(NamedTuple):
    """One step of the recurrence for N objects."""

    hidden: Tensor
    """h_j: (N, d, m, m)"""
    logits: Tensor
    """y_j before the sigmoid: (N, 1, s, s)"""
    attention: Tensor | None
    """a_j: (N, 1, m, m), of mean 1 if it is scaled, else of sum 1; None without attention"""


class RegionAttention(nn.Module):
    """One convolution and a softmax over the m * m cells of the warped hidden state."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.score = nn.Conv2d(a.hidden, 1, 3, padding=1)
        self.scaled = a.scale_attention

    def forward(self, warped: Tensor) -> Tensor:
        """h_(j-1)->j (N, d, m, m) to a_j (N, 1, m, m), of mean 1 if it is scaled, else of sum 1."""
        score = self.score(warped).float()
        share = torch.softmax(score.flatten(1), 1).view_as(score)
        return share * score[0].numel() if self.scaled else share


class RecurrentFunction(nn.Module):
    """N_R: a 1x1 convolution joins its inputs; conv5_x at stride 1 follows."""

    def __init__(self, a: Architecture, channels: int) -> None:
        super().__init__()
        inputs = a.hidden + channels + a.mask_input + (appearance.CHANNELS if a.memory else 0)
        self.fuse = nn.Conv2d(inputs, a.fusion, 1)
        self.conv5 = conv5(a.fusion, a.planes, a.blocks, 1, a.norm)
        self.to_hidden = nn.Conv2d(4 * a.planes, a.hidden, 1)
        # keeps the state in one range over hundreds of steps
        self.bound = group_norm(a.hidden)

    def forward(self, inputs: Tensor) -> Tensor:
        fused = F.relu(self.fuse(inputs))
        return F.relu(self.bound(self.to_hidden(self.conv5(fused))))


class OutputFunction(nn.Module):
    """N_O: three convolutions, the last to one channel; optional refinement."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(a.hidden, a.hidden // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(a.hidden // 2, a.hidden // 4, 3, padding=1)
        self.conv3 = nn.Conv2d(a.hidden // 4, 1, 3, padding=1)
        self.refine = Refinement(a) if a.refine > 1 else None

    def forward(self, h: Tensor, mask: Tensor, fine: Tensor | None) -> Tensor:
        """h (N, d, m, m), the warped mask (N, 1, s, s), fine (N, C4, s, s) to (N, 1, s, s)."""
        deep = F.relu(self.conv2(F.relu(self.conv1(h))))
        logits = self.conv3(deep)
        if self.refine is None:
            return logits.float()
        return self.refine(logits, deep, mask, fine)


class Refinement(nn.Module):
    """Corrects the upsampled mask with features of stride 4 (off in the paper)."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.scale = a.refine
        width = a.hidden // 4
        self.norm = group_norm(a.fine_channels)
        self.conv1 = nn.Conv2d(width + 1 + 1 + a.fine_channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 1, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, logits: Tensor, deep: Tensor, mask: Tensor, fine: Tensor | None) -> Tensor:
        if fine is None:
            raise ValueError("refinement needs the stride-4 features")
        large = F.interpolate(
            torch.cat((logits, deep), 1), scale_factor=self.scale, mode="bilinear"
        )
        joined = torch.cat((large, mask.to(large), self.norm(fine)), 1)
        return (large[:, :1] + self.conv2(F.relu(self.conv1(joined)))).float()


class ReMP(nn.Module):
    """One step of recurrent mask propagation; `attention=False` is Table 1's ablation."""

    def __init__(self, architecture: Architecture, channels: int, attention: bool = True) -> None:
        super().__init__()
        a = architecture
        self.mask_input = a.mask_input
        self.recur = RecurrentFunction(a, channels)
        self.output = OutputFunction(a)
        self.attend = RegionAttention(a) if attention else None
        self.memory = appearance.AppearanceMemory(channels, a.memory_keys) if a.memory else None

    def forward(
        self,
        hidden: Tensor,
        x: Tensor,
        mask: Tensor,
        fine: Tensor | None = None,
        memory: appearance.Memory | None = None,
    ) -> Output:
        """Equations (1) and (2).

        hidden h_(j-1)->j (N, d, m, m), x_j (N, C, m, m), the warped mask (N, 1, s, s) as
        probabilities, fine (N, C4, s, s) with refinement, memory with the extension.
        """
        parts = [hidden, x]
        if self.mask_input:
            parts.append(F.adaptive_avg_pool2d(mask, x.shape[-1]).to(x))
        if self.memory is not None:
            if memory is None:
                raise ValueError("this Re-MP has an appearance memory and was given none")
            parts.append(self.memory(x, memory).to(x))
        h = self.recur(torch.cat(parts, 1))
        attention = None if self.attend is None else self.attend(hidden)
        focused = h if attention is None else h * attention.to(h)
        return Output(h, self.output(focused, mask, fine), attention)
