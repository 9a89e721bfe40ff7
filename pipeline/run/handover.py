"""Leaving a task to another worker: on SIGUSR1 between two of its stages."""

from __future__ import annotations

import threading

asked = threading.Event()
"""set once this process is to start no further stage"""

REASON = "handed over to another worker"


class HandedOver(Exception):
    """The task is not done, and has not failed."""


def check() -> None:
    """HandedOver if this process is to start no further stage."""
    if asked.is_set():
        raise HandedOver(REASON)
