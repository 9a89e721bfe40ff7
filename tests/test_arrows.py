"""Imports point one way (docs/design.md), and only where files may be opened are they."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
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


def test_the_rest_of_the_cache_stays_closed_to_the_networks() -> None:
    assert allowed("models", "cache.files") and allowed("training", "cache.files")
    assert not allowed("models", "cache.store") and not allowed("stages", "cache.files")
    assert not allowed("training", "cache")


def test_the_atomic_writer_is_free_of_libraries() -> None:
    names = {name.split(".")[0] for name in imports(ROOT / "cache" / "files.py")}
    assert names <= sys.stdlib_module_names


def test_only_frames_opens_files_in_stages() -> None:
    openers = {"open", "imread", "VideoCapture", "read_text", "read_bytes"}
    wrong = []
    for path in sorted((ROOT / "stages").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in openers and path.name != "frames.py":
                wrong.append(f"{path.name} calls {name}")
    assert not wrong, wrong
