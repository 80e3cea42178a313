"""Flags from the command line, straight on a store: what is written, what is shown, and what is left alone.

What a flag may look like is tested behind the API.
"""

import json
from pathlib import Path
from typing import Any

from tests.builders import condition, person
from tests.gateway.commands.conftest import Run


def shown(run: Run, key: str = "beta") -> dict[str, Any]:
    exit_code, flag, errors = run("flags", "show", key, "--json")
    assert exit_code == 0, errors
    value: dict[str, Any] = json.loads(flag)
    return value


def write(name: str, value: object) -> None:
    Path(name).write_text(json.dumps(value))


def test_set__new_key__makes_a_flag(shop: Run) -> None:
    """A flag is there, and on, after one command; its key, id and state are told."""
    exit_code, told, errors = shop("flags", "set", "beta", "--name", "New search")
    flag = shown(shop)
    assert (exit_code, told, errors) == (0, f"Created beta (id {flag['id']}, version 1, on)\n", "")
    assert (flag["key"], flag["name"], flag["active"], flag["filters"]) == ("beta", "New search", True, {"groups": []})


def test_set__known_key__changes_only_what_is_given(shop: Run) -> None:
    """What is not given stays, in the flag and in its filters."""
    write("beta.json", {"name": "New search", "filters": {"groups": [condition(person("plan", "team"), rollout=5)]}})
    shop("flags", "set", "beta", "--file", "beta.json")
    before = shown(shop)
    exit_code, told, _ = shop("flags", "set", "beta", "--variant", "a=25", "--variant", "b=75%", "--payload", "a=[1]")
    after = shown(shop)
    assert exit_code == 0
    assert told.startswith("Changed beta (")
    assert after["name"] == "New search"
    assert after["filters"]["groups"] == before["filters"]["groups"]
    assert [(it["key"], it["rollout_percentage"]) for it in after["filters"]["multivariate"]["variants"]] == [
        ("a", 25),
        ("b", 75),
    ]
    assert after["filters"]["payloads"] == {"a": "[1]"}
    shop("flags", "set", "beta", "--payload", "b=2")
    assert shown(shop)["filters"]["payloads"] == {"a": "[1]", "b": "2"}


def test_set__answer_of_show__can_be_edited_and_sent_back(shop: Run) -> None:
    """What show prints is what set takes, held to the version that was edited."""
    shop("flags", "set", "beta")
    flag = shown(shop)
    write("beta.json", {**flag, "name": "Edited"})
    assert shop("flags", "set", "beta", "--file", "beta.json")[0] == 0
    assert shown(shop)["name"] == "Edited"
    exit_code, told, errors = shop("flags", "set", "beta", "--file", "beta.json", "--name", "Edited again")
    assert (exit_code, told) == (1, "")
    assert "version" in errors


def test_set__id__keeps_the_key(shop: Run) -> None:
    """A flag can be named by its id, which never becomes its key, nor the key of a new one."""
    shop("flags", "set", "beta")
    assert shop("flags", "set", str(shown(shop)["id"]), "--name", "New search")[1].startswith("Changed beta (")
    assert shop("flags", "set", "999") == (1, "", "flagstone: Not found.\n")


def test_set__several_things_wrong__are_told_with_their_paths(shop: Run) -> None:
    """Everything wrong with a file stands there at once, and nothing is written."""
    write("bad.json", {"filters": {"groups": [{"rollout_percentage": 101}, {"rollout_percentage": -1}]}})
    exit_code, told, errors = shop("flags", "set", "beta", "--file", "bad.json")
    assert (exit_code, told) == (1, "")
    assert "\n  $.filters.groups[0].rollout_percentage: " in errors
    assert "\n  $.filters.groups[1].rollout_percentage: " in errors
    assert shop("flags", "show", "beta")[0] == 1


def test_set__file_without_an_object__is_told(shop: Run) -> None:
    """A wrong file is one sentence."""
    Path("list.json").write_text("[]")
    exit_code, _, errors = shop("flags", "set", "beta", "--file", "list.json")
    assert exit_code == 1
    assert errors.startswith("flagstone: list.json has no JSON object: ")


def test_enable_and_disable__flag__is_switched(shop: Run) -> None:
    """A flag goes off and on again, and list says which it is."""
    shop("flags", "set", "beta", "--name", "New search")
    assert shop("flags", "disable", "beta")[1].endswith(", off)\n")
    assert shown(shop)["active"] is False
    exit_code, told, _ = shop("flags", "list")
    assert exit_code == 0
    heading, row = told.splitlines()
    assert heading.split() == ["ID", "KEY", "STATE", "FOR", "VERSION", "NAME"]
    assert row.split()[1:4] == ["beta", "off", "nobody"]
    assert shop("flags", "enable", "beta")[1].endswith(", on)\n")
    assert shown(shop)["active"] is True


def test_rollout__only_condition__is_set(shop: Run) -> None:
    """One number is enough for a flag with one condition, or with none yet."""
    shop("flags", "set", "beta")
    shop("flags", "rollout", "beta", "25")
    assert [it["rollout_percentage"] for it in shown(shop)["filters"]["groups"]] == [25]
    shop("flags", "rollout", "beta", "2.5%")
    assert [it["rollout_percentage"] for it in shown(shop)["filters"]["groups"]] == [2.5]


def test_rollout__several_conditions__must_be_told_apart(shop: Run) -> None:
    """Which condition is meant is not guessed; the refusal shows them, counted as show and reasons do."""
    write("beta.json", {"filters": {"groups": [condition(person("plan", "team")), condition(rollout=10)]}})
    shop("flags", "set", "beta", "--file", "beta.json")
    exit_code, _, errors = shop("flags", "rollout", "beta", "25")
    assert exit_code == 1
    assert errors.splitlines()[1:] == [
        '  --condition 1: 100 % of plan exact "team"',
        "  --condition 2: 10 % of everybody",
    ]
    assert shop("flags", "rollout", "beta", "25", "--condition", "2")[0] == 0
    assert [it.get("rollout_percentage") for it in shown(shop)["filters"]["groups"]] == [100, 25]
    assert "has no condition 3" in shop("flags", "rollout", "beta", "25", "--condition", "3")[2]


def test_dry_run__any_change__tells_who_and_writes_nothing(shop: Run) -> None:
    """Everybody whose value would change is counted, with some of their ids; the flag stays as it is."""
    Path("people.ndjson").write_text("".join(json.dumps({"distinct_id": f"u{n}"}) + "\n" for n in range(9)))
    shop("persons", "import", "people.ndjson")
    told_of_all = (
        "9 of 9 known would see another value; nothing was changed",
        "  false -> true: 9, such as ",
    )
    shop("flags", "set", "beta")
    before = shown(shop)
    exit_code, told, _ = shop("flags", "rollout", "beta", "100", "--dry-run")
    assert exit_code == 0
    assert all(line.startswith(start) for line, start in zip(told.splitlines(), told_of_all, strict=True))
    shop("flags", "disable", "beta", "--dry-run")
    shop("flags", "delete", "beta", "--dry-run")
    shop("flags", "set", "beta", "--name", "Other", "--dry-run")
    assert shown(shop) == before
    assert shop("flags", "set", "gamma", "--dry-run")[1].startswith("0 of 9 known")
    assert shop("flags", "show", "gamma")[0] == 1


def test_delete__flag__can_be_restored(shop: Run) -> None:
    """Deleting says how to take it back, a deleted flag is found among the deleted, and restoring does it."""
    shop("flags", "set", "beta")
    number = str(shown(shop)["id"])
    told = shop("flags", "delete", "beta")[1]
    assert told == f"Deleted beta; `flagstone flags restore {number}` brings it back\n"
    assert shop("flags", "show", "beta")[0] == 1
    assert "beta" not in shop("flags", "list")[1]
    assert "deleted" in shop("flags", "list", "--deleted")[1]
    assert shop("flags", "restore", number)[1].startswith("Restored beta (")
    assert shown(shop)["deleted"] is False


def test_rollback__earlier_version__is_in_force_again(shop: Run) -> None:
    """A flag is what it was, as a new version, and its history tells of each with who did it."""
    shop("flags", "set", "beta", "--name", "First")
    shop("flags", "set", "beta", "--name", "Second")
    exit_code, told, _ = shop("flags", "rollback", "beta", "1")
    assert exit_code == 0
    assert told.startswith("Rolled back to version 1: beta (")
    assert shown(shop)["name"] == "First"
    heading, *rows = shop("flags", "history", "beta")[1].splitlines()
    assert heading.split() == ["VERSION", "AT", "(UTC)", "BY", "WHAT"]
    assert [row.split()[0] for row in rows] == ["3", "2", "1"]
    assert all(" cli:" in row for row in rows)
    assert shop("flags", "rollback", "beta", "9")[0] == 1


def test_show__flag__tells_whom_it_is_for(shop: Run) -> None:
    """A person reads variants, payloads and conditions, and who changed it last."""
    conditions = [condition(person("plan", "team"), rollout=5, variant="a"), condition(rollout=None)]
    write("beta.json", {"name": "New search", "filters": {"groups": conditions}})
    shop("flags", "set", "beta", "--file", "beta.json", "--variant", "a=50", "--variant", "b=50", "--payload", 'a="x"')
    first, *lines = shop("flags", "show", "beta")[1].splitlines()
    assert first.startswith("beta (id ")
    assert lines[:-1] == [
        "  New search",
        "  variants: a 50 %, b 50 %",
        '  payload of a: "x"',
        '  condition 1: 5 % of plan exact "team", who get a',
        "  condition 2: 100 % of everybody",
    ]
    assert " by cli:" in lines[-1]
