"""Settings of all tests, and a log that a long suite goes on from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Frames of some sixty rows stay as small as they are.
os.environ["LUIGI_CONFIG_PATH"] = str(Path(__file__).with_name("tiny.cfg"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--resume",
        type=Path,
        metavar="LOG",
        help="add a line for every test that ends, and leave out what passed according to LOG, "
        "which is renamed to LOG.done once nothing is left",
    )


def pytest_configure(config: pytest.Config) -> None:
    if log := config.getoption("--resume"):
        config.pluginmanager.register(Resume(log))


class Resume:
    """A log of outcomes: a suite that was stopped goes on where it was."""

    def __init__(self, log: Path) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        passed = {line.split("\t")[1] for line in lines if line.startswith("passed\t")}
        done = [item for item in items if item.nodeid in passed]
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in passed]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            told = "; ".join(f"{name} {value}" for name, value in report.user_properties)
            with self.log.open("a") as file:
                seconds = f"{report.duration:.1f} s"
                file.write(f"{report.outcome}\t{report.nodeid}\t{seconds}\t{told}\n")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and self.log.exists():
            self.log.replace(f"{self.log}.done")
