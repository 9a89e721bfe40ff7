"""What goes wrong for reasons that the person at the keyboard can mend."""

from __future__ import annotations

from cache.files import CacheError
from models.errors import BadWeights
from stages.errors import BadInput


class UserError(Exception):
    """One clear line: what is wrong, where, and what mends it."""


MENDABLE = (UserError, CacheError, BadInput, BadWeights)
"""what the doors (the commands `dyenet` and `luigi`, Luigi's log) show as its one line"""
