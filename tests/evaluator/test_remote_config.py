"""Remote config as it is found in a definitions document."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from evaluator.definitions import InvalidDefinitions
from evaluator.remote_config import RemoteConfig, remote_configs
from tests.builders import flag, project


def found(*flags: dict[str, Any]) -> Mapping[str, RemoteConfig]:
    return remote_configs(msgspec.json.encode(project(*flags)))


def remote(key: str, payload: Any = '{"k": 1}', **fields: Any) -> dict[str, Any]:
    return flag(key, payloads={"true": payload}, is_remote_configuration=True, **fields)


def test_remote_configs__of_a_project__are_found_by_key_and_by_id() -> None:
    """What is answered is the stored JSON value: for JSON text, a string that holds it."""
    configs = found(remote("limits", id=7), flag("ordinary", id=8, payloads={"true": "1"}))
    assert configs == {it: RemoteConfig(b'"{\\"k\\": 1}"') for it in ("limits", "7")}


@pytest.mark.parametrize("payload", [None, "", 0, False, [], {}])
def test_remote_config__without_a_payload__is_empty(payload: object) -> None:
    """A flag that configures nothing is there, and says nothing."""
    assert found(remote("empty", payload, id=7))["empty"] == RemoteConfig(b"")
    bare = flag("bare", id=8, is_remote_configuration=True)
    assert found(bare)["bare"] == RemoteConfig(b"")


def test_remote_config__of_a_flag_that_is_off__is_there_and_of_a_deleted_one_is_not() -> None:
    """Configuration is no question of who gets it; what was deleted or cannot be read is gone."""
    configs = found(
        remote("off", id=1, active=False),
        remote("gone", id=2, deleted=True),
        {"id": 3, "key": "broken", "is_remote_configuration": "?"},
    )
    assert configs.keys() == {"off", "1"}


def test_remote_config__encrypted__has_no_payload() -> None:
    """What only PostHog can read is not even held."""
    configs = found(remote("secret", "gAAAAB...", id=1, has_encrypted_payloads=True))
    assert configs["secret"] == RemoteConfig(b"", is_encrypted=True)


def test_remote_config__several_with_one_name__the_first_counts_and_ids_before_keys() -> None:
    """A number names a flag by its id, as it does at PostHog."""
    configs = found(remote("2", "by key", id=1), remote("b", "by id", id=2), remote("b", "again", id=3))
    assert {name: msgspec.json.decode(it.payload) for name, it in configs.items()} == {
        "1": "by key",
        "2": "by id",
        "b": "by id",
        "3": "again",
    }


def test_remote_configs__of_a_document_that_is_none__are_refused() -> None:
    """A document that does not decode has nothing in it that could be trusted."""
    with pytest.raises(InvalidDefinitions):
        remote_configs(b'{"id": "x"}')
