"""What a stage's VERSION stands for: the code of its module and of all that it imports.

`python -m tests.versions` rewrites tests/versions.json, after a VERSION was raised or where a
change leaves every byte of a stage's artifacts as it was.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path

from pipeline.plan.chain import EVERY_ITERATION, ONCE, version

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_suffix(".json")
PACKAGES = ("stages", "models", "cache", "pipeline", "training")
STAGES = tuple(dict.fromkeys(row.stage for row in (*ONCE, *EVERY_ITERATION)))


def current() -> dict[str, dict[str, object]]:
    """VERSION and code digest of every stage."""
    return {
        stage: {"version": version(stage), "code": code_digest(f"stages.{stage}")}
        for stage in STAGES
    }


def code_digest(module: str) -> str:
    """Digest of the syntax trees of a module and of every project module it needs."""
    trees = {name: tree_digest(path_of(name)) for name in sorted(needed(module))}
    return hashlib.blake2b(json.dumps(trees).encode(), digest_size=8).hexdigest()


def needed(module: str) -> set[str]:
    """The module and the project modules that it imports, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += imported(path_of(name))
    return found


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Project modules that a file imports, wherever in it; what only types need is left out."""
    tree = Pruned().visit(ast.parse(path.read_text()))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return tuple(n for n in names if n.split(".")[0] in PACKAGES and path_of(n).exists())


def path_of(module: str) -> Path:
    """File of a module, whether or not it exists."""
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def tree_digest(path: Path) -> str:
    """Digest of a file's syntax tree without comments, docstrings and VERSION."""
    tree = Pruned().visit(ast.parse(path.read_text()))
    return hashlib.blake2b(repr(_shape(tree)).encode(), digest_size=8).hexdigest()


def _shape(value: object) -> object:
    """A syntax tree as nested tuples, the same under every version of Python."""
    if isinstance(value, list):
        return [_shape(item) for item in value]
    if not isinstance(value, ast.AST):
        return value
    parts = [(name, _shape(item)) for name, item in ast.iter_fields(value)]
    return type(value).__name__, [part for part in parts if part[1] not in (None, [])]


class Pruned(ast.NodeTransformer):
    """Leaves out what cannot change a result."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        named = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return None if named == ["VERSION"] else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        typing = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if typing else self.generic_visit(node)


if __name__ == "__main__":
    RECORD.write_text(json.dumps(current(), indent=1) + "\n")
