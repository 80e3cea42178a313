"""What is in the database of a drill, and what clients ask about it.

The flags are of every kind that an answer may need something for. Invariant: the same contents are the same bytes, and
whoever asks twice asks the same, so that an answer that differs is flagstone's doing.
"""

import random
from typing import Any, Final

import msgspec

from drills.model import Contents

IDS_PER_PROJECT: Final = 10_000
COMPANIES: Final = 20
PAYING, INVITED = 1, 2
"""Cohorts: by a stored property, and of people who were put in."""


def token(project: int) -> str:
    """The token of a project; the first one is 1."""
    return f"phc_drill_{project}"


def document(contents: Contents) -> bytes:
    """What `flagstone import` takes. The persons are those of the first project: u0, u1 and so on."""
    projects = [_project(number, contents) for number in range(1, contents.projects + 1)]
    projects[0]["persons"] = [_person(number) for number in range(contents.persons)]
    return msgspec.json.encode({"projects": projects})


def bodies(contents: Contents) -> list[bytes]:
    """Requests for flags, in the order in which to send them: known people, new ones, and those of other projects."""
    asked = [_body(1, f"u{number}", number) for number in range(contents.persons)]
    asked += [_body(1, f"new-{number}", number) for number in range(contents.persons // 4 + 1)]
    asked += [
        _body(project, f"v{number}", number)
        for project in range(2, contents.projects + 1)
        for number in range(max(1, contents.persons // contents.projects))
    ]
    random.Random(1).shuffle(asked)
    return asked


def _body(project: int, distinct_id: str, number: int) -> bytes:
    body: dict[str, Any] = {
        "token": token(project),
        "distinct_id": distinct_id,
        "person_properties": {"app_version": f"{number % 5}.{number % 7}.0", "$os": ("iOS", "Android")[number % 2]},
        "groups": {"company": f"c{number % COMPANIES}"},
    }
    if number % 3 == 0:  # They have signed up in this session, so that their continuity is written down.
        body["$anon_distinct_id"] = f"anonymous-{distinct_id}"
    return msgspec.json.encode(body)


def _person(number: int) -> dict[str, Any]:
    return {
        "distinct_ids": [f"u{number}", f"u{number}-phone"],
        "properties": {
            "plan": ("team", "free", "free", "enterprise")[number % 4],
            "country": ("DE", "NL", "US", "BR", "JP")[number % 5],
            "email": f"u{number}@example.com",
            "seats": number % 40,
        },
        "cohorts": [IDS_PER_PROJECT + INVITED] if number % 2 else [],
    }


def _project(number: int, contents: Contents) -> dict[str, Any]:
    first_id = number * IDS_PER_PROJECT
    paying = {"type": "AND", "values": [{"type": "AND", "values": [_filter("plan", ["team", "enterprise"])]}]}
    return {
        "id": number,
        "name": f"Drill {number}",
        "token": token(number),
        "group_types": ["company"],
        "cohorts": [
            {"id": first_id + PAYING, "name": "Paying", "filters": {"properties": paying}},
            {"id": first_id + INVITED, "name": "Invited", "is_static": True},
        ],
        "flags": [_flag(first_id, index, contents.name_bytes) for index in range(contents.flags)],
        "groups": [{"type": "company", "key": f"c{it}", "properties": {"size": it}} for it in range(COMPANIES)],
    }


def _flag(first_id: int, index: int, name_bytes: int) -> dict[str, Any]:
    kinds = _kinds(first_id, 20 + index * 7 % 60)
    kind = list(kinds)[index % len(kinds)]
    return {
        "id": first_id + index,
        "key": f"{kind}-{index}",
        "name": f"Flag {index}: {kind}" + "." * name_bytes,
        "active": kind != "retired",
        "version": 1,
        "ensure_experience_continuity": kind == "continuity",
        "filters": kinds[kind],
    }


def _kinds(first_id: int, share: int) -> dict[str, dict[str, Any]]:
    """What filters flags of each kind have. A flag stands behind the one that it depends on, of the first round."""
    paying = [_filter("plan", ["team", "enterprise"])]
    kinds: dict[str, dict[str, Any]] = {
        "everyone": {**_for([]), "payloads": {"true": _payload(max_megabytes=25, types=["png", "pdf"])}},
        "some": _for([], rollout=share),
        "experiment": {
            "groups": [{"properties": [_filter("plan", ["enterprise"])], "variant": "green"}, *_for([], 90)["groups"]],
            "multivariate": {"variants": [_variant("control", 40), _variant("green", 30), _variant("blue", 30)]},
            "payloads": {"green": _payload(label="Buy now"), "blue": _payload(label="Continue", weight=700)},
        },
        "request": _for([_filter("app_version", "2.3.0", "semver_gte")]),
        "stored": _for(paying),
        "cohort": _for([_cohort(first_id + PAYING)], share),
        "static-cohort": _for([_cohort(first_id + INVITED)]),
        "group": {
            "aggregation_group_type_index": 0,
            **_for([{"key": "size", "type": "group", "operator": "gt", "value": 10, "group_type_index": 0}]),
        },
        "continuity": _for([], share),
        "retired": _for([]),
        "regional": {
            "early_exit": True,
            "groups": _for([_filter("country", "DE")], rollout=0)["groups"] + _for([], rollout=share)["groups"],
        },
    }
    stored = first_id + list(kinds).index("stored")
    depends = {"key": str(stored), "type": "flag", "operator": "flag_evaluates_to", "value": True}
    return {**kinds, "dependent": _for([depends], share)}


def _for(filters: list[dict[str, Any]], rollout: int = 100) -> dict[str, Any]:
    return {"groups": [{"properties": filters, "rollout_percentage": rollout}]}


def _filter(key: str, value: Any, operator: str = "exact") -> dict[str, Any]:
    return {"key": key, "type": "person", "operator": operator, "value": value}


def _cohort(number: int) -> dict[str, Any]:
    return {"key": "id", "type": "cohort", "operator": "in", "value": number}


def _variant(key: str, share: int) -> dict[str, Any]:
    return {"key": key, "rollout_percentage": share}


def _payload(**values: Any) -> str:
    """Payloads are texts, which mostly are JSON."""
    return msgspec.json.encode(values).decode()
