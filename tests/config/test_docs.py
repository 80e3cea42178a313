"""docs/settings.md and the tree of settings say the same."""

import re
from pathlib import Path

import pytest

from config.reload import RELOADABLE
from config.settings import FIELDS, expects

DOCUMENT = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FIELDS)
def test_settings_document__setting__stands_there_with_all_that_is_known(path: str) -> None:
    """An operator reads the real type, range, default and reason of every setting."""
    field = FIELDS[path]
    reload = "yes" if path in RELOADABLE else "restart"
    description = field.type.__metadata__[0].description
    assert f"\n| `{path}` | {expects(field)} | `{field.default}` | {reload} | {description} |\n" in DOCUMENT


def test_settings_document__rows__are_settings_in_their_order() -> None:
    """The document describes nothing that is gone."""
    assert re.findall(r"^\| `([^`]*)`", DOCUMENT, re.MULTILINE) == list(FIELDS)
