"""Fixtures of the tests of drills."""

from tests.clients.browser_session import browser  # noqa: F401 - a fixture for the pages of reports
