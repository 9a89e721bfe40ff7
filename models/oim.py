"""Online Instance Matching loss (Xiao et al. 2017), the paper's L_reid (section 3.3).

A lookup table holds one unit vector per labelled identity, a circular queue the most
recent unlabelled ones. An embedding is classified among all of them by cosine.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNLABELLED = -1
IGNORED = -2


class OIM(nn.Module):
    """Softmax over lookup table and queue at temperature 1 / `scale`.

    update() follows the step of the optimiser, so that no loss of an iteration depends on
    the order of its clips.

    Labels: 0..identities-1, UNLABELLED (joins the queue, has no loss), IGNORED.
    """

    table: Tensor
    queue: Tensor
    head: Tensor

    def __init__(
        self,
        identities: int,
        length: int = 256,
        queue: int = 5000,
        scale: float = 10.0,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        self.scale, self.momentum = scale, momentum
        self.register_buffer("table", torch.zeros(identities, length))
        self.register_buffer("queue", torch.zeros(queue, length))
        self.register_buffer("head", torch.zeros((), dtype=torch.long))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of embeddings (N, 256) of length 1 with labels (N,) int64."""
        memory = torch.cat((self.table, self.queue)).to(embeddings)
        scores = embeddings @ memory.T * self.scale
        without = labels.clamp(min=UNLABELLED)
        total = F.cross_entropy(scores, without, ignore_index=UNLABELLED, reduction="sum")
        return total / (labels >= 0).sum().clamp(min=1)

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Move the rows of labelled identities; put the unlabelled into the queue."""
        for vector, label in zip(embeddings, labels.tolist(), strict=True):
            if label >= 0:
                mixed = self.momentum * self.table[label] + (1 - self.momentum) * vector
                self.table[label] = F.normalize(mixed, dim=0)
            elif label == UNLABELLED:
                self.queue[self.head] = vector
                self.head.copy_((self.head + 1) % len(self.queue))
