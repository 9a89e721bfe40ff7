"""What goes wrong for reasons that the person at the keyboard can mend."""

from __future__ import annotations


class UserError(Exception):
    """One clear line: what is wrong, where, and what mends it."""
