"""Outcomes -> what `posthog.init({bootstrap: ...})` takes, as JSON or as a script for a page.

Invariant: nothing that a flag, a payload or an id may contain can end the script element it stands in.
"""

from evaluator.types import FlagResult


def payload_member(result: FlagResult) -> bytes | None:
    """The member of `featureFlagPayloads` for this result; None when it has none."""
    return None
