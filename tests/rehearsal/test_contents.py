"""What is in the database of a drill, as a real flagstone answers from it."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx

from drills import contents
from drills.flagstone import Instance
from drills.model import Contents

CONTENTS = Contents(projects=2, flags=14, persons=60)
FOR_EVERYBODY = {"everyone-0", "everyone-12"}
NEED_STORED = {"experiment-2", "stored-4", "cohort-5", "static-cohort-6", "group-7", "regional-10", "dependent-11"}


def value(record: dict[str, Any]) -> str | bool:
    answer: str | bool = record["variant"] or record["enabled"]
    return answer


def test_contents__served__have_flags_of_every_kind_that_differ_by_person(tmp_path: Path) -> None:
    """All that the load asks is answered whole, and no flag but those for everybody is the same for all."""
    (tmp_path / "contents.json").write_bytes(contents.document(CONTENTS))
    instance = Instance("one", {"store": {"url": f"file:{tmp_path / 'contents.json'}"}}, tmp_path / "one")
    values: dict[str, dict[str, set[str | bool]]] = {contents.token(it): defaultdict(set) for it in (1, 2)}
    try:
        instance.start()
        instance.wait_until_ready(30)
        with httpx.Client(base_url=instance.url, timeout=10) as client:
            for body in contents.bodies(CONTENTS):
                answer = client.post("/flags?v=2", content=body).json()
                assert answer["errorsWhileComputingFlags"] is False
                for key, record in answer["flags"].items():
                    values[json.loads(body)["token"]][key].add(value(record))
    finally:
        instance.end()
    known, others = values.values()
    assert {key for key, seen in known.items() if len(seen) == 1} == FOR_EVERYBODY
    assert known.keys() == others.keys()
    assert known.keys() > NEED_STORED
    assert len(known) == CONTENTS.flags - 1  # One is switched off.


def test_contents__asked_twice__are_the_same() -> None:
    """Neither what is stored nor what is asked is left to chance."""
    assert contents.document(CONTENTS) == contents.document(CONTENTS)
    assert contents.bodies(CONTENTS) == contents.bodies(CONTENTS)
    assert len(set(contents.bodies(CONTENTS))) == len(contents.bodies(CONTENTS))


def test_contents__of_other_size__have_so_many() -> None:
    """Projects, flags of each and persons are as many as the drill says."""
    projects = json.loads(contents.document(Contents(projects=4, flags=30, persons=7)))["projects"]
    assert [project["token"] for project in projects] == [contents.token(number) for number in (1, 2, 3, 4)]
    assert {len(project["flags"]) for project in projects} == {30}
    assert [person["distinct_ids"][0] for person in projects[0]["persons"]] == [f"u{it}" for it in range(7)]
