"""Imports point one way (docs/design.md), and only where files may be opened are they."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "models": {"models"},
    "stages": {"stages", "models"},
    "training": {"training", "stages", "models"},
    "cache": {"cache"},
    "pipeline": {"pipeline", "training", "stages", "models", "cache"},
}
FORBIDDEN = {
    "models": {"luigi", "h5py", "cv2", "pandas"},
    "stages": {"luigi", "h5py", "pandas"},
    "training": {"luigi", "h5py"},
    "cache": {"luigi", "torch", "torchvision", "cv2", "pandas"},
    "pipeline": {"h5py"},
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_imports_point_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package, allowed in ALLOWED.items()
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in imports(path)
        if (name in ALLOWED and name not in allowed) or name in FORBIDDEN[package]
    ]
    assert not wrong, wrong


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
