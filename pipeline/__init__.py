"""What a person runs: `luigi --module pipeline RunDataset`, or the command `dyenet`.

Scores and tables need no task, and take less time than the import of Luigi and all tasks.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or "luigi" in sys.modules:
    # Luigi's command finds a task only where importing this package imports it.
    from pipeline.commands import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        """A task, when it is asked for."""
        if not name[0].isupper():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pipeline import commands

        return getattr(commands, name)
