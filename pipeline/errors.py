"""What goes wrong for reasons that the person at the keyboard can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from cache.files import CacheError
from models.errors import BadWeights
from stages.errors import BadInput


class UserError(Exception):
    """One clear line: what is wrong, where, and what mends it."""


MENDABLE = (UserError, CacheError, BadInput, BadWeights)
"""what the doors (the commands `dyenet` and `luigi`, Luigi's log) show as its one line"""

SHOWN = 20
"""names of a list that a message shows"""


def meant(asked: str, known: Iterable[str]) -> str:
    """`did you mean a?` where a known name is near to what was asked for, else nothing."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(asked.lower(), names, 1)
    return f"did you mean {names[near[0]]}?" if near else ""


def one_of(asked: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest, or the first SHOWN of all."""
    names = list(known)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return meant(asked, names) or f"there is {', '.join(names[:SHOWN]) or 'none'}{more}"


def must_be(asked: str, choices: Iterable[str]) -> str:
    """The end of a message about a value that is none of a few words."""
    words = list(choices)
    return "; ".join(filter(None, (f"must be one of {', '.join(words)}", meant(asked, words))))
