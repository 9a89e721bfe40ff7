"""Code that makes artifacts does not change under the same VERSION (docs/design.md, What flows)."""

from __future__ import annotations

import json
from pathlib import Path

from tests.versions import RECORD, STAGES, current, needed, tree_digest


def test_changed_code_has_a_new_version() -> None:
    recorded, now = json.loads(RECORD.read_text()), current()
    stale = [
        stage
        for stage in STAGES
        if now[stage]["code"] != recorded[stage]["code"]
        and now[stage]["version"] == recorded[stage]["version"]
    ]
    assert not stale, (
        f"code of {', '.join(stale)} changed: raise VERSION in stages/<stage>.py if any byte of "
        "its artifacts may differ, then run `python -m tests.versions`"
    )
    assert now == recorded, "run `python -m tests.versions`"


def test_helpers_count() -> None:
    assert {"stages.boxmask", "models.networks", "models.remp"} <= needed("stages.tracklets")
    assert "models.networks" not in needed("stages.flow")


def test_comments_and_docstrings_do_not_count(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.py", "b.py", "c.py")]
    files[0].write_text('"""One."""\nVERSION = 1\n\n\ndef f(x):\n    return x + 1\n')
    files[1].write_text(
        '"""Two."""\nVERSION = 2\n\n\ndef f(x):\n    """Three."""\n    return x + 1  # four\n'
    )
    files[2].write_text("def f(x):\n    return x + 2\n")
    first, same, other = (tree_digest(path) for path in files)
    assert first == same != other
