"""The variants of the method that the paper compares (Tables 1 and 3)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """A variant: which parts of the method it has."""

    name: str
    label: str
    """its name in tables and figures"""
    modules: tuple[str, ...]
    """of the weights file, those that it runs"""
    retrieval: bool = False
    """whether Re-ID finds lost objects again; otherwise there are only the given masks"""
    attention: bool = False
    """whether Re-MP attends to regions"""

    @property
    def baseline(self) -> bool:
        """Whether this is MSK, whose network is none of ours."""
        return "msk" in self.modules

    @property
    def given_only(self) -> bool:
        """Whether it only propagates the given masks."""
        return not self.retrieval and not self.baseline

    @property
    def alone(self) -> str:
        """Name of the variant with the same Re-MP network and no retrieval."""
        return next(v.name for v in VARIANTS.values() if v.given_only and v.remp == self.remp)

    @property
    def remp(self) -> str:
        """The module of its Re-MP network."""
        return "remp" if self.attention else "remp_plain"


FULL = "dyenet"
"""the whole method"""
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(FULL, "DyeNet", ("trunk", "rpn", "mask", "reid", "remp"), True, True),
        Variant("remp", "Re-MP", ("trunk", "remp"), attention=True),
        Variant("remp-no-attention", "Re-MP, no attention", ("trunk", "remp_plain")),
        Variant("msk", "MSK", ("msk",)),
    )
}
"""by name, each with one part less than the one before"""
BUILT_UP = tuple(reversed(VARIANTS))
"""their names in the order in which the paper builds the method up (Table 3)"""
PROPAGATION = tuple(name for name in BUILT_UP if VARIANTS[name].given_only)
"""names of those that only propagate the given masks"""
