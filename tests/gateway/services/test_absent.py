"""Tokens without a snapshot, and how many of them may yet be somebody's."""

from gateway.errors import AuthenticationFailed, Unavailable
from gateway.services.absent import RECENTLY_S, Absent, AbsentTokens


def test_unavailable__tokens_of_both_kinds__counts_those_that_may_exist() -> None:
    """A token that the store called unknown is no outage; one that it could not be asked about is, for a while."""
    absent = AbsentTokens(10)
    absent["phc_unknown"] = Absent(AuthenticationFailed, 5.0)
    absent["phc_one"] = absent["phc_two"] = Absent(Unavailable, 5.0)
    assert absent.unavailable(4.0) == 2
    absent["phc_one"] = Absent(AuthenticationFailed, 5.0)
    assert absent.unavailable(4.0) == 1
    assert absent.unavailable(5.0 + RECENTLY_S) == 0
    del absent["phc_two"]
    assert absent.unavailable(4.0) == 0


def test_unavailable__more_tokens_than_there_is_room__forgets_with_the_rest() -> None:
    """Made-up tokens during an outage cost no memory without bound."""
    absent = AbsentTokens(3)
    for number in range(10):
        absent[f"phc_{number}"] = Absent(Unavailable, 5.0)
    assert absent.unavailable(4.0) == len(absent) == 3
