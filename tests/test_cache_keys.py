"""Keys: the same for the same content, different for any other."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.keys import canonical, key, short

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
RECIPES = st.dictionaries(st.text(max_size=4), VALUES, min_size=1, max_size=5)


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(RECIPES)
def test_order_does_not_matter(content: dict[str, Any]) -> None:
    assert key(reordered(content)) == key(content)


@given(RECIPES)
def test_content_survives_json(content: dict[str, Any]) -> None:
    assert key(json.loads(canonical(content))) == key(content)


@given(RECIPES, VALUES, st.data())
def test_any_change_of_a_value_changes_the_key(
    content: dict[str, Any], value: Any, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(content)))
    changed = {**content, name: value}
    # repr tells 1, 1.0 and True apart, which == does not.
    same = repr(reordered_fully(changed)) == repr(reordered_fully(content))
    assert (key(changed) == key(content)) == same


def reordered_fully(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reordered_fully(value[name]) for name in sorted(value)}
    return [reordered_fully(item) for item in value] if isinstance(value, list) else value


@given(RECIPES, st.text(max_size=4))
def test_a_removed_or_added_entry_changes_the_key(content: dict[str, Any], name: str) -> None:
    without = {n: v for n, v in content.items() if n != name}
    assert key(without) != key({**without, name: None})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_neighbouring_floats_differ(value: float) -> None:
    other = math.nextafter(value, 0.0)
    if other != value and not math.isinf(other):
        assert key({"rho": value}) != key({"rho": other})


def test_the_key_of_known_content_never_changes() -> None:
    """Keys name files on people's disks."""
    made = key({"stage": "flow", "version": 1, "settings": {"rho": 0.7, "name": "é"}})
    assert made == "5c4a0123118591e905a820a15c2fc97d", made
    assert short(made) == made[:16]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        key({"a": [{"b": value}]})


@pytest.mark.parametrize("content", [{1: "a"}, {"a": [{None: 1}]}, {"a": object()}, {"a": {1, 2}}])
def test_what_json_would_blur_is_refused(content: Any) -> None:
    with pytest.raises(TypeError):
        key(content)
