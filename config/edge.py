"""Settings of what stands between the service and everybody: whom to believe about where a request comes from.

The rest of the tree is in settings.py. Invariant: left alone, nobody is believed.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from config.networks import Networks


class Proxies(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose word counts about where a request comes from."""

    trusted: Annotated[
        Networks,
        Meta(
            description="Networks of the load balancers and proxies in front, separated by commas, such as "
            "`10.0.0.0/8, fd00::/8`. Only what they say in `proxies.header` is believed, read from the right; the "
            "client is the nearest address that is not in here. Empty: nobody is believed, and the client is who "
            "connects.",
        ),
    ] = Networks("")
    header: Annotated[
        Literal["x-forwarded-for", "forwarded"],
        Meta(
            description="The header in which they name the client. Only one is read, as a proxy that sets one lets "
            "clients write the other.",
        ),
    ] = "x-forwarded-for"
