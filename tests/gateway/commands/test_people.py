"""Persons, groups, cohorts and their members from the command line, straight on a store."""

import json
from pathlib import Path

from tests.gateway.commands.conftest import Run


def write(name: str, *lines: object) -> None:
    Path(name).write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))


def cohort_of(run: Run, *arguments: str) -> str:
    exit_code, told, errors = run("cohorts", "set", *arguments, "--json")
    assert exit_code == 0, errors
    return str(json.loads(told)["id"])


def test_import__persons__are_stored_and_repeating_changes_nothing(shop: Run) -> None:
    """What was imported is in the store, and a second time nobody is new."""
    write("people", {"distinct_ids": ["u1", "u1-phone"], "properties": {"plan": "team"}}, {"distinct_id": "u2"})
    assert shop("persons", "import", "people") == (0, "2 new, 0 known before, 0 refused\n", "")
    assert shop("persons", "import", "people") == (0, "0 new, 2 known before, 0 refused\n", "")
    persons = json.loads(shop("export")[1])["projects"][0]["persons"]
    assert [it["distinct_ids"] for it in persons] == [["u1", "u1-phone"], ["u2"]]
    assert persons[0]["properties"] == {"plan": "team"}


def test_import__lines_that_make_no_sense__are_named_and_the_others_stored(shop: Run) -> None:
    """A bad line costs itself; the exit code says that there was one."""
    write("people", {"distinct_id": "u1"}, "{", "", {"distinct_ids": []}, {"distinct_id": "u2"})
    exit_code, told, errors = shop("persons", "import", "people")
    assert (exit_code, told) == (1, "2 new, 0 known before, 2 refused\n")
    assert [line.partition(":")[0] for line in errors.splitlines()] == ["line 2", "line 4"]


def test_import__many_rows__all_arrive(shop: Run) -> None:
    """More rows than fit into a batch or a part are all stored."""
    write("people", *({"distinct_id": f"u{n}", "properties": {"n": n}} for n in range(5000)))
    assert shop("persons", "import", "people", "--json")[0] == 0
    assert shop("persons", "import", "people")[1] == "0 new, 5000 known before, 0 refused\n"


def test_import__groups__need_a_type_of_the_project(shop: Run) -> None:
    """Groups of a type that the project has are stored, others refused with their lines."""
    write("groups", {"type": "company", "key": "acme", "properties": {"seats": 9}}, {"type": "team", "key": "a"})
    exit_code, told, errors = shop("groups", "import", "groups")
    assert (exit_code, told) == (1, "1 new, 0 known before, 1 refused\n")
    assert errors.startswith("line 2: ")
    groups = json.loads(shop("export")[1])["projects"][0]["groups"]
    assert groups == [{"type": "company", "key": "acme", "properties": {"seats": 9}}]


def test_cohorts__made_and_changed__are_listed_and_deleted(shop: Run) -> None:
    """A cohort is made without an id, changed with one, shown and deleted."""
    number = cohort_of(shop, "--name", "Testers", "--static")
    assert shop("cohorts", "set", number, "--description", "Friendly ones")[1] == (
        f"Changed cohort {number} Testers (version 2, static)\n"
    )
    assert shop("cohorts", "list")[1].splitlines()[1].split() == [number, "Testers", "static", "2"]
    assert shop("cohorts", "show", number)[1].splitlines()[1:] == ["  Friendly ones", "  members: 0"]
    assert shop("cohorts", "delete", number) == (0, f"Deleted cohort {number}\n", "")
    assert len(shop("cohorts", "list")[1].splitlines()) == 1


def test_members__added_removed_and_replaced__are_who_was_named(shop: Run) -> None:
    """Members come and go by their distinct ids, which need not be text that looks like JSON; strangers are refused."""
    write("people", *({"distinct_id": it} for it in ("u1", "u2", '"u3"', "7")))
    shop("persons", "import", "people")
    number = cohort_of(shop, "--name", "Testers", "--static")
    write("ids", "u1", '"u3"', "7", "stranger")
    exit_code, told, errors = shop("cohorts", "members", "add", number, "ids")
    assert (exit_code, told) == (1, "3 put in, 0 in it before, 1 refused\n")
    assert errors == "line 4: nobody has this distinct id\n"
    assert shop("cohorts", "show", number)[1].endswith("members: 3\n")
    write("ids", "u1", "u2")
    assert shop("cohorts", "members", "remove", number, "ids")[1] == "1 taken out, 1 not in it before, 0 refused\n"
    assert shop("cohorts", "members", "replace", number, "ids")[1] == "2 put in, 0 in it before, 0 refused\n"
    assert shop("cohorts", "show", number)[1].endswith("members: 2\n")


def test_members__of_a_cohort_by_properties__are_refused(shop: Run) -> None:
    """Who is in a cohort by properties is decided by their properties alone."""
    filters = {"properties": {"type": "OR", "values": [{"key": "plan", "value": "team", "type": "person"}]}}
    write("cohort.json", {"name": "Teams", "filters": filters})
    number = cohort_of(shop, "--file", "cohort.json")
    assert '"plan"' in shop("cohorts", "show", number)[1]
    write("ids", "u1")
    exit_code, _, errors = shop("cohorts", "members", "add", number, "ids")
    assert exit_code == 1
    assert "not static" in errors
