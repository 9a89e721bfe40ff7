"""Luigi as this project uses it: defaults, exit status, messages and signals.

An installed package works without a luigi.cfg, so what matters is set here; a luigi.cfg
overrides it.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import luigi
import luigi.retcodes
from luigi.cmdline_parser import CmdlineParser

from pipeline import interrupts
from pipeline.errors import MENDABLE

DEFAULTS = {
    # Artifacts are published atomically under their keys, so two runs may share a machine.
    "core": {"no_lock": "true", "log_level": "WARNING"},
    # By default a failed run exits with status 0. Two runs that share tasks through luigid both end
    # well, though each ran only a part: unfinished() says whether anything is missing.
    "retcode": {
        "already_running": "0",
        "missing_data": "20",
        "task_failed": "30",
        "scheduling_error": "35",
        "unhandled_exception": "40",
    },
    # A task whose inputs were removed has them made anew (run/step.py).
    "worker": {"check_complete_on_run": "true", "check_unfulfilled_deps": "false"},
    # A damaged artifact is made anew at once, also if it counted as done a moment ago.
    "scheduler": {"stable_done_cooldown_secs": "0", "record_task_history": "false"},
}

NOT_RUN = 25
"""exit status of a command that ends before all that it was asked for is there"""


class OneLine(logging.Filter):
    """What a person can mend is one line; any other error keeps its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, MENDABLE):
            record.msg, record.args = str(error), ()
            record.exc_info, record.exc_text = None, None
        return not isinstance(error, interrupts.ChildStopped)


def install() -> None:
    """Set the defaults that luigi.cfg leaves open, and quieten what a person can mend."""
    config = luigi.configuration.get_config()
    for section, values in DEFAULTS.items():
        for name, value in values.items():
            if not config.has_option(section, name):
                config.set(section, name, value)
    luigi.retcodes.retcode.not_run = property(unfinished)
    logging.getLogger("luigi-interface").addFilter(OneLine())


def commanded() -> bool:
    """Whether the luigi command is building its task, rather than a program."""
    return CmdlineParser.get_instance() is not None


@contextmanager
def command() -> Iterator[None]:
    """The block in which a root task reads what it was given.

    On the command line an error that a person can mend ends it with one line and a status.
    """
    try:
        yield
    except MENDABLE as error:
        # In a process of Luigi's an exit would leave the command waiting for its answer.
        if commanded() and multiprocessing.parent_process() is None:
            raise SystemExit(f"ERROR: {error}") from None
        raise


class Command(luigi.Task):
    """A task that a person names; `top` is where its results go."""

    top: Path
    named: ClassVar[Command | None] = None
    """what the command line named"""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if commanded():
            Command.named = Command.named or self
            prepare()


@Command.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def say_complete(task: Command) -> None:
    """On the command line say why a task does not run."""
    if commanded():
        print(f"nothing to do: {task.top} is up to date", flush=True)


def unfinished(_: object) -> int:
    """Exit status where Luigi has not run every task itself.

    Others may have; or luigid has lost what was pending. An assistant only helps.
    """
    if Command.named is None or luigi.interface.core().assistant:
        return 0
    with command():
        return 0 if Command.named.complete() else NOT_RUN


def prepare() -> None:
    """What a command sets before Luigi's worker is made, which reads it once."""
    interrupts.install()
    if luigi.interface.core().local_scheduler:
        # A worker of its own scheduler would only wait, then try again what cannot work.
        luigi.configuration.get_config().set("worker", "keep_alive", "false")


def build(task: luigi.Task) -> bool:
    """Run a task with a scheduler of its own; whether all went well.

    One of MENDABLE for what is wrong with the task's options.
    """
    # Asked for here, since Luigi would only log what its complete() raises.
    task.complete()
    luigi.configuration.get_config().set("worker", "keep_alive", "false")
    result = luigi.build([task], local_scheduler=True, detailed_summary=True)
    return result.status in (
        luigi.LuigiStatusCode.SUCCESS,
        luigi.LuigiStatusCode.SUCCESS_WITH_RETRY,
    )
