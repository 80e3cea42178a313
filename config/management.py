"""Settings of the management API, through which projects, flags, cohorts, persons and keys are edited.

The rest of the tree is in settings.py. Invariant: whatever somebody with a key sends has a bound in size and in time.
"""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from config.rates import Rates


class Api(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The management API under `/api/`: whether there is one, and what its callers may take."""

    is_enabled: Annotated[
        bool,
        Meta(
            description="Whether it is served. Nobody gets in without a key, and the first key is made by `flagstone "
            "keys create` on the store itself, hence the default. Off, its paths are 404.",
        ),
    ] = True
    max_body_bytes: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 30,
            description="Largest JSON body. Files for `apply` have all flags of a project; the default is 4 MiB.",
        ),
    ] = 4 << 20
    max_upload_bytes: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 40,
            description="Largest stream of persons, groups or members, as received and once inflated. It is stored as "
            "it comes, so that its size costs no memory. The default is 1 GiB, some millions of persons.",
        ),
    ] = 1 << 30
    max_uploads: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Such streams at once in one worker, each of which keeps a connection to the store busy; "
            "further ones are refused with 503.",
        ),
    ] = 4
    timeout_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=600,
            description="Time for a call once its body is there, and for each batch of a stream. Room for an `apply` "
            "of thousands of flags.",
        ),
    ] = 30.0
    rate: Annotated[
        Rates,
        Meta(
            description="Rates of one key, for each worker, and of the calls from one address that have no good key. "
            "Enough for scripts, and a bound on one that went wrong. Empty: no limit.",
        ),
    ] = Rates("600/minute")


def api_problems(api: Api) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with them: the settings concerned, and why."""
    for problem in api.rate.problems():
        yield ("api.rate",), problem
