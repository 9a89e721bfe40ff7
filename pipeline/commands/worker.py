"""Luigi's worker, which goes on with another luigid and hands over what it leaves."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import signal
from typing import Any

import luigi
import luigi.rpc
import luigi.worker

from pipeline.run import handover

FAILED, PENDING = "FAILED", "PENDING"
"""of a task, as the scheduler says it"""


class Worker(luigi.worker.Worker):
    """What the `luigi` command and luigi.build() run tasks with."""

    failed = False
    """whether the last worker of this process saw a task fail"""

    def __enter__(self) -> Worker:
        super().__enter__()
        # A ping that is not answered needs no second try, which would hold up the worker's end.
        self._keep_alive_thread._scheduler = self._impatient()
        return self

    def run(self) -> bool:
        """Run until nothing is left, also where luigid lost its state meanwhile."""
        super().run()
        while self._forgotten():
            print("luigid has lost the tasks of this run; they are told it again", flush=True)
            self.add(self._asked)
            super().run()
        Worker.failed = any(status == FAILED for _, status, _ in self._add_task_history)
        return not Worker.failed

    @property
    def _asked(self) -> luigi.Task:
        """The task that was asked for."""
        return self._scheduled_tasks[self._first_task]

    def _forgotten(self) -> bool:
        """Whether the scheduler no longer knows that this worker waits for what was asked for.

        It was restarted without its state, or has not heard of the worker for too long.
        """
        said = [status for task, status, _ in self._add_task_history if task is self._asked]
        if self._stop_requesting_work or self._assistant or said[-1] != PENDING:
            return False
        states = self._scheduler.task_search(self._first_task).values()
        known = [tasks[self._first_task] for tasks in states if self._first_task in tasks]
        return not any(self._id in task["workers"] for task in known)

    def _impatient(self) -> Any:
        """The scheduler, for messages that may be lost."""
        if not isinstance(self._scheduler, luigi.rpc.RemoteScheduler):
            return self._scheduler
        once = copy.copy(self._scheduler)
        once._rpc_retry_attempts, once._rpc_log_retries = 1, False
        return once

    def _create_task_process(self, task: luigi.Task) -> Any:
        process = super()._create_task_process(task)
        process.status_reporter._scheduler = self._impatient()
        return process

    def _start_phasing_out(self) -> None:
        super()._start_phasing_out()
        handover.asked.set()
        for process in multiprocessing.active_children():
            if process.pid:
                os.kill(process.pid, signal.SIGUSR1)

    def _add_task(self, *args: Any, **kwargs: Any) -> None:
        super()._add_task(*args, **kwargs)
        if kwargs["status"] == FAILED and kwargs.get("expl") == json.dumps(handover.REASON):
            # It has not failed: another worker takes it at once.
            self._scheduler.forgive_failures(task_id=kwargs["task_id"])
            self._add_task_history.pop()
