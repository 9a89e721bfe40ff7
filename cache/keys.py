"""Keys: what an artifact is made from, as 32 hexadecimal digits.

Two contents have the same key exactly if their canonical JSON is the same text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Content = Mapping[str, Any]
"""Nested dicts with str keys, lists, str, int, float, bool and None."""


def canonical(content: Content) -> str:
    """The content as JSON: sorted, compact, ASCII, shortest exact form of every float.

    ValueError for NaN and infinities, TypeError for what JSON lacks and for a dict key that
    is not a str (JSON would merge 1 and "1").
    """
    _check(content)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key(content: Content) -> str:
    """blake2b-128 of canonical(content), 32 hexadecimal digits; errors as canonical()."""
    return hashlib.blake2b(canonical(content).encode(), digest_size=16).hexdigest()


def short(key: str) -> str:
    """The 16 digits that name a file."""
    return key[:16]


def _check(value: Any) -> None:
    if isinstance(value, str):
        return
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError(f"the content has a key that is not a str: {name!r}")
            _check(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item)
