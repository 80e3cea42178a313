"""A definitions document -> the payloads of its remote-config flags, as they are answered.

Made of the same bytes as the compiled snapshot, in which such flags stand as any others. Invariant: no encrypted
payload is in it, in any form.
"""

from collections.abc import Mapping

import msgspec

from evaluator.definitions import FlagDocument, InvalidDefinitions, ProjectDocument, decode

PAYLOAD = "true"
"""Under which key a flag without variants has its payload."""


class RemoteConfig(msgspec.Struct, frozen=True):
    """What a flag configures: a JSON value, or nothing where it is empty."""

    payload: bytes
    is_encrypted: bool = False


def remote_configs(document: bytes) -> Mapping[str, RemoteConfig]:
    """Remote config by the id of its flag, as text, and by its key where no flag has that as its id.

    Whether the flag is active makes no difference. Raises InvalidDefinitions when the document itself does not decode.
    """
    project = decode(document, ProjectDocument)
    if isinstance(project, tuple):
        raise InvalidDefinitions(project)
    by_key: dict[str, RemoteConfig] = {}
    by_id: dict[str, RemoteConfig] = {}
    for raw in project.flags:
        flag = decode(raw, FlagDocument)
        if not isinstance(flag, tuple) and flag.is_remote_configuration and not flag.deleted:
            config = _config(flag)
            by_key.setdefault(flag.key, config)
            by_id.setdefault(str(flag.id), config)
    return by_key | by_id


def _config(flag: FlagDocument) -> RemoteConfig:
    if flag.has_encrypted_payloads:
        return RemoteConfig(b"", is_encrypted=True)
    payload = (flag.filters.payloads or {}).get(PAYLOAD)
    return RemoteConfig(msgspec.json.encode(payload) if payload else b"")
