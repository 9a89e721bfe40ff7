"""SIGTERM, SIGHUP and Ctrl-C: temporary files go, one line is printed, the status is not 0."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from functools import cache
from types import FrameType

SIGNALS: dict[int, str] = {
    signal.SIGTERM: "SIGTERM",
    signal.SIGINT: "Ctrl-C",
    signal.SIGHUP: "SIGHUP",
}
"""those that stop a command, by the names that people know"""
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # nohup
    del SIGNALS[signal.SIGHUP]


class Stopped(KeyboardInterrupt):
    """A signal, which it names. Luigi takes other exceptions for a failure and goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {SIGNALS[number]}; the same command goes on from here")
        self.number = number


class ChildStopped(SystemExit):
    """SIGTERM in a process of a worker, which ends without a word: the worker's own tells it."""


@cache
def install() -> None:
    """Have these signals unwind this process, and those that it starts, from now on."""
    _handle(_stop)
    # While Python ends, there is nothing left to unwind.
    atexit.register(_handle, signal.SIG_DFL)
    sys.excepthook, sys.unraisablehook = _tell, _repeat


def _handle(handler: signal.Handlers | object) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)  # type: ignore[arg-type]


def _stop(number: int, frame: FrameType | None) -> None:
    child = multiprocessing.parent_process() is not None
    if child and number == signal.SIGINT:
        # A terminal sends Ctrl-C to all processes; the worker's own passes it on as SIGTERM.
        return
    for process in multiprocessing.active_children():
        process.terminate()
    if child:
        # Luigi repeats it while this process unwinds.
        _handle(signal.SIG_IGN)
        raise ChildStopped(1)
    # A second one ends the process at once.
    _handle(signal.SIG_DFL)
    raise Stopped(number)


def _tell(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """What Python calls for an exception that nothing caught."""
    if isinstance(error, Stopped):
        print(f"ERROR: {error}", file=sys.stderr)
        sys.unraisablehook = sys.__unraisablehook__
    else:
        sys.__excepthook__(kind, error, trace)  # type: ignore[arg-type]


def _repeat(ignored: sys.UnraisableHookArgs) -> None:
    """What Python calls for an exception in a callback, which it ignores: the run would go on."""
    if isinstance(ignored.exc_value, Stopped):
        _handle(_stop)
        again = threading.Timer(0.1, os.kill, (os.getpid(), ignored.exc_value.number))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(ignored)
