"""How one truth about a project's flags is said in each protocol: the contract, written down once.

The truth is what /flags says in its fullest form. Invariant: what a protocol says follows from it and nothing else.
"""

import json
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import httpx

from tests.clients.stage import TOKEN

BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Who(NamedTuple):
    """Somebody to ask for, and what the request says of them."""

    distinct_id: str
    person_properties: Mapping[str, Any] = {}
    groups: Mapping[str, str] = {}
    group_properties: Mapping[str, Mapping[str, Any]] = {}


class Flag(NamedTuple):
    """What is true of a flag. `typed` and `rule_variant` are those of a flag of rules, of which the others say less."""

    is_enabled: bool
    variant: str | None
    payload: str | None
    has_failed: bool
    typed: Any
    rule_variant: str | None
    has_rules: bool
    has_variants: bool

    @property
    def value(self) -> bool | str:
        return self.is_enabled if self.variant is None else self.variant


Truth = Mapping[str, Flag]


class Protocol(NamedTuple):
    """How somebody is asked about over HTTP, and what has to come back when this is the truth."""

    ask: Callable[[httpx.Client, Who], Any]
    says: Callable[[Truth], Any]


def truth(client: httpx.Client, who: Who, with_variants: Container[str]) -> Truth:
    """Every flag, from the records of /flags and their typed form, and the flags that are defined with variants."""
    records = _flags("/flags?v=2", client, who)["flags"]
    typed = _flags("/flags?v=4", client, who)["flags"]
    return {
        key: Flag(
            record["enabled"],
            record["variant"],
            record["metadata"]["payload"],
            record.get("failed", False),
            typed[key]["value"],
            typed[key]["metadata"].get("variant_key"),
            typed[key]["metadata"]["config_version"] == 2,
            key in with_variants,
        )
        for key, record in records.items()
    }


def known(flags: Truth) -> dict[str, Flag]:
    """The flags that could be told."""
    return {key: flag for key, flag in flags.items() if not flag.has_failed}


def _flags(path: str, client: httpx.Client, who: Who) -> dict[str, Any]:
    answer = client.post(path, json={"token": TOKEN, **who._asdict()}).raise_for_status().json()
    return {name: value for name, value in answer.items() if name not in ("requestId", "evaluatedAt")}


def _asked(path: str) -> Callable[[httpx.Client, Who], Any]:
    return lambda client, who: _flags(path, client, who)


def _typed(flags: Truth) -> Any:
    """A failed flag is null; a flag of rules has its value, any other its variant, or whether it is on."""
    return {key: None if it.has_failed else it.typed if it.has_rules else it.value for key, it in flags.items()}


def _recorded(client: httpx.Client, who: Who) -> Any:
    records = _flags("/decide?v=4&config=false", client, who)["flags"]
    return {key: None if it.get("failed") else it["variant"] or it["enabled"] for key, it in records.items()}


def _legacy(flags: Truth) -> Any:
    """Failed flags are left out, and payloads are text."""
    payloads = {key: it.payload for key, it in known(flags).items() if it.payload is not None}
    return {
        "errorsWhileComputingFlags": known(flags) != flags,
        "featureFlags": {key: it.value for key, it in known(flags).items()},
        "featureFlagPayloads": payloads,
    }


def _on(flags: Truth) -> dict[str, bool | str]:
    return {key: it.value for key, it in flags.items() if it.is_enabled}


def _bootstrap(client: httpx.Client, who: Who) -> Any:
    body = {"token": TOKEN, **who._asdict(), "facts": "allow"}
    answer = client.post("/bootstrap", json=body).raise_for_status().json()
    return {name: answer[name] for name in ("featureFlags", "featureFlagPayloads", "incomplete")}


def _page(flags: Truth) -> Any:
    """Failed flags are left out and named, and payloads are values, which flags that are off have none of."""
    told = known(flags)
    return {
        "featureFlags": {key: it.value for key, it in told.items()},
        "featureFlagPayloads": {key: json.loads(it.payload) for key, it in told.items() if it.payload is not None},
        "incomplete": [key for key in flags if key not in told],
    }


class Item(NamedTuple):
    """What OFREP says of a flag; without a value it is the default in the caller's code."""

    value: Any
    variant: str | None
    payload: str | None
    error: str | None


DEFAULT = object()


def single(client: httpx.Client, who: Who, key: str) -> Item:
    """One flag over OFREP."""
    answer = client.post(f"/ofrep/v1/evaluate/flags/{key}", headers=BEARER, json={"context": _context(who)})
    item = _item(answer.json())
    assert answer.status_code == (400 if item.error else 200)
    return item


def _bulk(client: httpx.Client, who: Who) -> dict[str, Item]:
    answer = client.post("/ofrep/v1/evaluate/flags", headers=BEARER, json={"context": _context(who)})
    return {item["key"]: _item(item) for item in answer.raise_for_status().json()["flags"]}


def _context(who: Who) -> dict[str, Any]:
    """The attributes are the properties; what is said of groups has names of its own."""
    of_groups = {"groups": who.groups, "groupProperties": who.group_properties}
    return {**who.person_properties, "targetingKey": who.distinct_id, **of_groups}


def _item(item: dict[str, Any]) -> Item:
    return Item(item.get("value", DEFAULT), item.get("variant"), item["metadata"].get("payload"), item.get("errorCode"))


def items(flags: Truth) -> dict[str, Item]:
    """A failed flag is an error; the value of a flag is of one type, so one with variants and none of them has none."""
    return {
        key: Item(DEFAULT, None, None, "GENERAL")
        if it.has_failed
        else Item(DEFAULT if it.typed is None else it.typed, it.rule_variant, None, None)
        if it.has_rules
        else Item((it.variant or DEFAULT) if it.has_variants else it.is_enabled, it.variant, it.payload, None)
        for key, it in flags.items()
    }


PROTOCOLS: dict[str, Protocol] = {
    "/flags?v=4": Protocol(
        lambda client, who: {key: it["value"] for key, it in _flags("/flags?v=4", client, who)["flags"].items()}, _typed
    ),
    "/flags?v=1": Protocol(_asked("/flags?v=1"), _legacy),
    "/decide?v=1": Protocol(
        lambda client, who: _flags("/decide?v=1&config=false", client, who),
        lambda flags: {"featureFlags": [*_on(flags)]},
    ),
    "/decide?v=2": Protocol(_asked("/decide?v=2&config=false"), lambda flags: {"featureFlags": _on(flags)}),
    "/decide?v=3": Protocol(_asked("/decide?v=3&config=false"), _legacy),
    "/decide?v=4": Protocol(
        _recorded, lambda flags: {key: None if it.has_failed else it.value for key, it in flags.items()}
    ),
    "/bootstrap": Protocol(_bootstrap, _page),
    "/ofrep": Protocol(_bulk, items),
}
