"""Which room of pipeline/ imports which: `python -m tests.arrows` prints lines, floors, arrows.

A room is a folder or a file that lies directly in pipeline/; an arrow is from a room to another
that it imports anywhere, also inside a function or for its types alone. A room's floor is one
above the highest that it imports.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
Arrows = Mapping[str, set[str]]
"""what each room imports"""


def rooms(root: Path = ROOT) -> dict[str, list[Path]]:
    """The files of every room."""
    found: dict[str, list[Path]] = {}
    for path in sorted((root / "pipeline").rglob("*.py")):
        room = path.relative_to(root / "pipeline").parts[0].removesuffix(".py")
        found.setdefault(room, []).append(path)
    return found


def arrows(root: Path = ROOT) -> dict[str, set[str]]:
    """What each room imports."""
    known = rooms(root)
    return {
        room: {target for path in files for target in _imported(path, known)} - {room}
        for room, files in known.items()
    }


def modules(root: Path = ROOT) -> dict[str, set[str]]:
    """What each module of pipeline/ imports of pipeline/."""
    paths = [path for files in rooms(root).values() for path in files]
    known = {_module(path, root): path for path in paths}
    return {
        name: {target for found in _named(path) if (target := _nearest(found, known))} - {name}
        for name, path in known.items()
    }


def floors(found: Arrows) -> dict[str, int]:
    """The floor of each room, from 1; graphlib.CycleError if they stand in a circle."""
    floor: dict[str, int] = {}
    for room in TopologicalSorter(found).static_order():
        floor[room] = 1 + max((floor[target] for target in found[room]), default=0)
    return floor


def _imported(path: Path, known: Mapping[str, object]) -> Iterator[str]:
    """Rooms that a file imports; what pipeline itself exports is in the room __init__."""
    for name in _named(path):
        parts = name.split(".")
        if parts[0] == "pipeline" and len(parts) > 1:
            yield parts[1] if parts[1] in known else "__init__"


def _named(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, of modules and of what is in them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _nearest(name: str, known: Mapping[str, Path]) -> str:
    """The module that a full name is, or is in; empty if it is not of pipeline/."""
    return name if name in known else _nearest(name.rpartition(".")[0], known) if name else ""


def table(root: Path = ROOT) -> str:
    """Lines, share, floor and imports of every room, the lowest first."""
    found, files = arrows(root), rooms(root)
    lines = {
        room: sum(len(path.read_text().splitlines()) for path in paths)
        for room, paths in files.items()
    }
    whole, floor = sum(lines.values()), floors(found)
    rows = [
        f"{floor[room]:2} {room:12} {lines[room]:5} {100 * lines[room] / whole:4.0f}%  "
        + " ".join(sorted(found[room]))
        for room in sorted(files, key=lambda room: (floor[room], room))
    ]
    count = sum(map(len, found.values()))
    total = f"{len(files)} rooms, {max(floor.values())} floors, {count} arrows, {whole} lines"
    return "\n".join([*rows, total])


if __name__ == "__main__":
    print(table(Path(sys.argv[1]) if sys.argv[1:] else ROOT))
