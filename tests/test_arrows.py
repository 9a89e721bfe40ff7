"""Imports point one way (docs/design.md), and only where files may be opened are they."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError
from pathlib import Path

import pytest

from tests.arrows import ROOT, arrows, floors, modules

ALLOWED = {
    "models": {"models"},
    "stages": {"stages", "models"},
    "training": {"training", "stages", "models"},
    "cache": {"cache"},
    "pipeline": {"pipeline", "training", "stages", "models", "cache"},
}
ALSO = {"models": {"cache.files"}, "training": {"cache.files"}}
"""single modules: the atomic writer imports nothing heavy"""
FORBIDDEN = {
    "models": {"luigi", "h5py", "cv2", "pandas"},
    "stages": {"luigi", "h5py", "pandas"},
    "training": {"luigi", "h5py"},
    "cache": {"luigi", "torch", "torchvision", "cv2", "pandas"},
    "pipeline": {"h5py"},
}

ROOMS = {
    "errors": set(),
    "interrupts": set(),
    "datasets": {"errors"},
    "plan": {"errors", "datasets"},
    "results": {"errors", "datasets"},
    "run": {"errors", "datasets", "plan", "results"},
    "reports": {"errors", "datasets", "plan", "results"},
    "paper": {"errors", "datasets", "plan", "results", "reports"},
    "pages": {"errors", "plan", "results", "reports", "paper"},
    "commands": {
        "errors",
        "interrupts",
        "datasets",
        "plan",
        "results",
        "run",
        "reports",
        "paper",
        "pages",
    },
    "bench": {"errors", "datasets", "plan", "run", "paper", "commands"},
    "__init__": {"commands"},
    "cli": {
        "errors",
        "interrupts",
        "datasets",
        "plan",
        "results",
        "reports",
        "paper",
        "pages",
        "commands",
        "bench",
    },
}
"""what each room of pipeline/ imports of the others, the lowest first"""


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def allowed(package: str, name: str) -> bool:
    """Whether a file of a package may import a module by that name."""
    top = name.split(".")[0]
    if name in ALSO.get(package, ()):
        return True
    return top not in FORBIDDEN[package] and (top not in ALLOWED or top in ALLOWED[package])


def test_imports_point_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package in ALLOWED
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in imports(path)
        if not allowed(package, name)
    ]
    assert not wrong, wrong


def test_rooms_import_what_their_table_says() -> None:
    assert arrows() == ROOMS


def test_no_room_imports_one_above_it() -> None:
    order = list(ROOMS)
    up = [
        f"{room} imports {target}"
        for room, targets in ROOMS.items()
        for target in targets
        if order.index(target) >= order.index(room)
    ]
    assert not up, up


def test_no_modules_import_in_a_circle() -> None:
    assert floors(modules())["pipeline.errors"] == 1


def test_every_import_makes_an_arrow(tmp_path: Path) -> None:
    house = tmp_path / "pipeline"
    for room in ("run", "plan"):
        (house / room).mkdir(parents=True)
        (house / room / "__init__.py").touch()
    (house / "errors.py").touch()
    (house / "__init__.py").write_text("from pipeline.run import step")
    (house / "run" / "step.py").write_text(
        "from pipeline.plan.chain import keys\nimport pipeline.errors\nimport numpy"
    )
    chain = house / "plan" / "chain.py"
    chain.write_text("def keys():\n    from pipeline import errors")
    found = {"__init__": {"run"}, "run": {"plan", "errors"}, "plan": {"errors"}, "errors": set()}
    assert arrows(tmp_path) == found
    assert floors(found) == {"errors": 1, "plan": 2, "run": 3, "__init__": 4}
    chain.write_text("def keys():\n    from pipeline.run.step import Step")
    assert modules(tmp_path)["pipeline.plan.chain"] == {"pipeline.run.step"}
    for circle in (arrows(tmp_path), modules(tmp_path)):
        with pytest.raises(CycleError):
            floors(circle)


def test_the_rest_of_the_cache_stays_closed_to_the_networks() -> None:
    assert allowed("models", "cache.files") and allowed("training", "cache.files")
    assert not allowed("models", "cache.store") and not allowed("stages", "cache.files")
    assert not allowed("training", "cache")


def test_the_atomic_writer_is_free_of_libraries() -> None:
    names = {name.split(".")[0] for name in imports(ROOT / "cache" / "files.py")}
    assert names <= sys.stdlib_module_names


def test_only_frames_and_films_open_files_in_stages() -> None:
    openers = {"open", "imread", "VideoCapture", "read_text", "read_bytes"}
    wrong = []
    for path in sorted((ROOT / "stages").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in openers and path.name not in ("frames.py", "films.py"):
                wrong.append(f"{path.name} calls {name}")
    assert not wrong, wrong
