"""Luigi as this project uses it: defaults, exit status, messages and signals.

An installed package works without a luigi.cfg, so what matters is set here; a luigi.cfg
overrides it.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import luigi
import luigi.retcodes
import luigi.rpc
import luigi.worker
from luigi.cmdline_parser import CmdlineParser

from pipeline import interrupts
from pipeline.commands.examples import EXAMPLES
from pipeline.commands.worker import Worker
from pipeline.errors import MENDABLE, UserError, must_be, one_of
from pipeline.plan.options import Parser
from pipeline.run.handover import HandedOver

DEFAULTS = {
    # Artifacts are published atomically under their keys, so two runs may share a machine.
    # A luigid that does not answer is waited for, five minutes.
    "core": {
        "no_lock": "true",
        "log_level": "WARNING",
        "rpc_retry_attempts": "30",
        "rpc_retry_wait": "10",
    },
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
    # One that waits asks every one or two seconds.
    "worker": {
        "check_complete_on_run": "true",
        "check_unfulfilled_deps": "false",
        "wait_jitter": "1",
    },
    # A damaged artifact is made anew at once, also if it counted as done a moment ago.
    "scheduler": {"stable_done_cooldown_secs": "0", "record_task_history": "false"},
}

NOT_RUN = 25
"""exit status of a command that ends before all that it was asked for is there"""


NO_ANSWER, NO_PING = "Failed connecting to remote scheduler %r", "Failed pinging scheduler"
"""what Luigi logs while luigid is away"""


def show(record: logging.LogRecord, line: str) -> None:
    """Have one line in place of a message and its traceback."""
    record.msg, record.args = line, ()
    record.exc_info, record.exc_text = None, None


class OneLine(logging.Filter):
    """What a person can mend is one line; any other error keeps its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, MENDABLE):
            show(record, str(error))
        elif isinstance(error, luigi.rpc.RPCError):
            show(record, f"{error}: start luigid; the same command goes on from here")
        elif record.msg == NO_ANSWER:
            show(record, f"luigid at {record.args[0]} does not answer; trying again")  # type: ignore
        # A ping is followed by the next one.
        quiet = isinstance(error, interrupts.ChildStopped | HandedOver)
        return not quiet and record.msg != NO_PING


def install() -> None:
    """Set the defaults that luigi.cfg leaves open, and quieten what a person can mend."""
    config = luigi.configuration.get_config()
    CmdlineParser._build_parser = staticmethod(parser_of_task)
    # Luigi reads these two from the file, but warns of them.
    luigi.interface.core.ignore_unconsumed |= {"rpc_retry_attempts", "rpc_retry_wait"}
    for section, values in DEFAULTS.items():
        for name, value in values.items():
            if not config.has_option(section, name):
                config.set(section, name, value)
    luigi.retcodes.retcode.not_run = property(unfinished)
    luigi.worker.Worker = Worker
    logging.getLogger("luigi-interface").addFilter(OneLine())


luigis_parser = CmdlineParser._build_parser
"""what makes Luigi's parser"""


def parser_of_task(root_task: str | None = None, help_all: bool = False) -> argparse.ArgumentParser:
    """Luigi's parser, with one line for what is mistyped and an example in the help."""
    luigis = luigis_parser(root_task, help_all)
    if root_task is None:
        return luigis
    parser = Parser(
        prog=f"luigi --module pipeline {root_task}",
        usage="%(prog)s [OPTIONS]",
        parents=[luigis],
        add_help=False,
    )
    if root_task not in luigi.task_register.Register.task_names():
        parser.prog = "luigi --module pipeline RunDataset"
        parser.error(f"{root_task}: no such task; {one_of(root_task, EXAMPLES)}")
    if root_task in EXAMPLES:
        task = luigi.task_register.Register.get_task_cls(root_task)
        parser.description = inspect.getdoc(task)
        parser.epilog = f"Example: {parser.prog} --local-scheduler {EXAMPLES[root_task]}"
    return parser


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


class Checked(luigi.Parameter):
    """A parameter whose wrong value on the command line is one line, which names the option.

    Elsewhere it is a ValueError, as Luigi has it.
    """

    def unfit(self, text: str) -> str:
        """The end of a message about a value that it does not take."""
        raise NotImplementedError

    def _parser_kwargs(self, param_name: str, task_name: str | None = None) -> dict[str, Any]:
        def checked(text: str) -> str:
            try:
                self.parse(text)
            except ValueError:
                flag = param_name.replace("_", "-")
                raise SystemExit(f"ERROR: --{flag} {text}: {self.unfit(text)}") from None
            return text

        return {**super()._parser_kwargs(param_name, task_name), "type": checked}


class Integer(Checked, luigi.IntParameter):
    """A whole number."""

    def unfit(self, text: str) -> str:
        return "must be an integer"


class Choice(Checked, luigi.ChoiceParameter):
    """One of some words."""

    def __init__(self, *args: Any, choices: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, choices=choices, **kwargs)
        self.choices = choices

    def unfit(self, text: str) -> str:
        return must_be(text, self.choices)


class Command(luigi.Task):
    """A task that a person names; `top` is where its results go."""

    top: Path
    named: ClassVar[Command | None] = None
    """what the command line named"""
    done: ClassVar[bool] = False
    """whether that is known to be complete, or others see to it"""

    @classmethod
    def get_param_values(cls, params: Any, args: Any, kwargs: Any) -> Any:
        with command():
            for name, kind in params if commanded() else ():
                if name not in kwargs and not kind.has_task_value(cls.get_task_family(), name):
                    flag = name.replace("_", "-")
                    raise UserError(f"{cls.__name__} needs --{flag}: {kind.description}")
        return super().get_param_values(params, args, kwargs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if commanded():
            Command.named = Command.named or self
            prepare()


@Command.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def say_complete(task: Command) -> None:
    """On the command line say why a task does not run."""
    Command.done = Command.done or task is Command.named
    if commanded():
        print(f"nothing to do: {task.top} is up to date", flush=True)


@cache
def unfinished(_: object) -> int:
    """Exit status where Luigi has not run every task itself.

    Others may have; or this worker was told to leave.
    """
    if Command.named is None or Command.done:
        return 0
    with command():
        if Command.named.complete():
            return 0
    if not Worker.failed:
        print("ERROR: not all is done; the same command goes on from here", file=sys.stderr)
    return NOT_RUN


def prepare() -> None:
    """What a command sets before Luigi's worker is made, which reads it once."""
    interrupts.install()
    # Nothing was asked of an assistant itself.
    Command.done = luigi.interface.core().assistant
    if luigi.interface.core().local_scheduler:
        try_once()


def try_once() -> None:
    """A worker of its own scheduler would only wait, then try again what cannot work."""
    config = luigi.configuration.get_config()
    config.set("worker", "keep_alive", "false")
    config.set("scheduler", "retry_delay", "-1")


def build(task: luigi.Task) -> bool:
    """Run a task with a scheduler of its own; whether all went well.

    One of MENDABLE for what is wrong with the task's options.
    """
    # Asked for here, since Luigi would only log what its complete() raises.
    task.complete()
    try_once()
    result = luigi.build([task], local_scheduler=True, detailed_summary=True)
    return result.status in (
        luigi.LuigiStatusCode.SUCCESS,
        luigi.LuigiStatusCode.SUCCESS_WITH_RETRY,
    )
