"""Profiles: the paper's settings, and those of this project, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXTENDED, PAPER = "extended", "paper"
PROFILES = (EXTENDED, PAPER)

PRINTED: Mapping[str, Any] = {
    # until no more instances are found (section 3.3): the most rounds that the setting allows
    "run.max_iterations": 20,
    # every video is retrieved from, and its starting points counted (Table 2)
    "run.retrieval": "always",
    # frames as they are, at a single scale (section 4.2)
    "frames.height": 0,
    # proposals come from the RPN alone (section 3.1)
    "search.windows": 0,
    # the value of all experiments but Table 2's
    "matches.rho_reid": 0.7,
    # similarity is the cosine, and every proposal over rho_reid is kept (section 3.1)
    "matches.evidence": 0.0,
    "matches.starts": "all",
    # the set of templates is augmented after each iteration (section 3.3)
    "matches.template_set": "growing",
    # propagation follows the flow alone, through one shot (section 3.2)
    "tracklets.cuts": 0.0,
    "tracklets.lost": "left",
    # every starting point is propagated until it ends (section 3.2)
    "tracklets.overlap": 0,
    # one threshold of contradiction, for tubes of the own object and of others (section 3.2)
    "tubes.rival": 0.5,
    # no post-processing (section 4.2)
    "tubes.edges": 0.0,
}
"""what the paper says of a setting; the profile `extended` has the defaults in their place"""


def with_changes(profile: str, changed: Mapping[str, Any]) -> str:
    """A profile in words: `paper`, or `paper, changed: matches.rho_reid=0.9`."""
    words = ", ".join(f"{name}={value}" for name, value in changed.items())
    return f"{profile}, changed: {words}" if changed else profile
