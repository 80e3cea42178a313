"""OFREP: a request's context -> Context, and outcomes -> what OpenFeature's clients read.

Invariant: every item is one that all released clients take, whatever their quirks: see docs/clients.md.
"""

from evaluator.types import FlagResult


def flag_item(result: FlagResult) -> bytes:
    """One flag of an answer, as a JSON object."""
    return b"{}"
