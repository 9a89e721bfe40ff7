"""No path that reads a file unpickles: a file of somebody else's must not run as code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cache", "models", "stages", "training", "pipeline")
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
NAMES = {"read_pickle", "unsafe_load", "full_load", "load_state_dict_from_url"}
"""functions that unpickle, by whatever name their module goes"""
GUARDED = {"torch": "weights_only", "np": "allow_pickle", "numpy": "allow_pickle"}
"""`load` of these needs this argument, and not the value that unpickles"""
SAFE = {"weights_only": True, "allow_pickle": False}


def unpickling(source: str) -> Iterator[str]:
    """Lines of a module that could unpickle a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.partition(".")[0] for name in names} & MODULES or set(names) & NAMES:
                yield f"{node.lineno}: {ast.unparse(node)}"
        named = isinstance(node, ast.Attribute) and node.attr in NAMES
        if named or (isinstance(node, ast.Call) and not _safe(node)):
            yield f"{node.lineno}: {ast.unparse(node)}"


def _safe(call: ast.Call) -> bool:
    """Whether a call is no `load` of GUARDED, or one that cannot unpickle."""
    name = ast.unparse(call.func)
    module, _, function = name.rpartition(".")
    if function != "load" or module not in GUARDED:
        return True
    values = {word.arg: word.value for word in call.keywords}
    value = values.get(GUARDED[module])
    return isinstance(value, ast.Constant) and value.value is SAFE[GUARDED[module]]


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_unpickles(package: str) -> None:
    paths = [*sorted((ROOT / package).rglob("*.py")), ROOT / "dyenet.py"]
    found = {path.name: list(unpickling(path.read_text())) for path in paths}
    assert len(found) > 2 and not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("import pickle", True),
        ("from joblib import load", True),
        ("import pandas as pd; pd.read_pickle('a')", True),
        ("import torch; torch.load('a')", True),
        ("import torch; torch.load('a', weights_only=False)", True),
        ("import torch; torch.load('a', weights_only=True)", False),
        ("import numpy as np; np.load('a', allow_pickle=True)", True),
        ("import numpy as np; np.load('a', allow_pickle=False)", False),
        ("import json; json.load(open('a'))", False),
    ],
)
def test_what_counts_as_unpickling(code: str, bad: bool) -> None:
    assert bool(list(unpickling(code))) is bad
