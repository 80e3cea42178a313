"""Which engine is chosen."""

import pytest

from config.server import Server
from gateway.server import engines
from gateway.server.engines import name_of_engine


@pytest.mark.parametrize(
    ("server", "name"),
    [
        (Server(), "uvicorn"),
        (Server(engine="hypercorn"), "hypercorn"),
        (Server(engine="uvicorn"), "uvicorn"),
        (Server(tls_certificate="c", tls_key="k"), "hypercorn"),
    ],
)
def test_name_of_engine__fast_one_installed__is_taken_unless_tls_is_spoken(server: Server, name: str) -> None:
    """server.engine: auto takes the fast one for plain HTTP, and the one that can for TLS."""
    assert name_of_engine(server) == name


def test_name_of_engine__fast_one_not_installed__auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the service runs all the same; asked for by name, what is missing is told."""
    monkeypatch.setattr(engines, "FAST_MODULES", ("no_such_module",))
    assert name_of_engine(Server()) == "hypercorn"
    with pytest.raises(ModuleNotFoundError, match=r"flagstone\[fast\]"):
        name_of_engine(Server(engine="uvicorn"))
