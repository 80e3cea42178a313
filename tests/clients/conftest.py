"""Fixtures of the tests that run released clients: in a browser, and on servers."""

from tests.clients.browser_session import browser, site, visit  # noqa: F401 - fixtures for every test of this folder
from tests.clients.connecting import connect, connect_node, stage  # noqa: F401 - likewise
