"""The command line, as called: what it prints, where, and its exit codes. The server itself is in test_server.py."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.servers import Postgres
from gateway.__main__ import DEMO, main
from gateway.commands.transfer import PROGRESS_INTERVAL_S, Progress
from gateway.document import read_document
from tests.builders import NOW, condition, flag, person, project
from tests.conftest import PATIENCE_S

Run = Callable[..., tuple[int, str, str]]

ALICE = {"distinct_ids": ["alice"], "properties": {"plan": "team"}}
FOR_TEAMS = flag("for-teams", condition(person("plan", "team")))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in an empty folder, where the default store is; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments: str) -> tuple[int, str, str]:
        exit_code = main(arguments)
        return exit_code, *capsys.readouterr()

    return run_command


def write(name: str, *projects: dict[str, Any]) -> None:
    Path(name).write_bytes(msgspec.json.encode({"projects": projects}))


def test_import__document__can_be_exported_again(run: Run) -> None:
    """What was imported is what an export gives back, on stdout or in a file."""
    write("in.json", project(FOR_TEAMS, persons=[ALICE]))
    assert run("import", "in.json") == (0, "Imported projects: 1, flags: 1, cohorts: 0, persons: 1, groups: 0\n", "")
    exit_code, exported, _ = run("export")
    assert exit_code == 0
    assert json.loads(exported)["projects"][0]["flags"] == [FOR_TEAMS]
    assert json.loads(exported)["projects"][0]["persons"][0]["properties"] == ALICE["properties"]
    assert run("export", "-o", "out.json") == (0, "", "")
    assert Path("out.json").read_text() == exported


def test_import__dry_run__stores_nothing(run: Run) -> None:
    """A dry run tells what would be imported, and leaves even the store's file alone."""
    write("in.json", project(FOR_TEAMS))
    exit_code, told, _ = run("import", "in.json", "--dry-run")
    assert exit_code == 0
    assert told.startswith("Nothing wrong; would import projects: 1, flags: 1,")
    assert [path.name for path in Path().iterdir()] == ["in.json"]


def test_import__problems__are_all_listed_with_their_paths(run: Run) -> None:
    """Somebody who has to mend a document sees every place at once, and the store stays as it was."""
    write("in.json", project({"key": "no-id"}, FOR_TEAMS, FOR_TEAMS), {"id": "two", "token": "phc_two"})
    exit_code, told, errors = run("import", "in.json")
    assert (exit_code, told) == (1, "")
    assert "\n  $.projects[0].flags[0]" in errors
    assert "\n  $.projects[0].flags[2].key: " in errors
    assert "\n  $.projects[1].id: " in errors
    assert not Path("flagstone.sqlite3").exists()


def test_import__flag_that_can_never_match__is_imported_with_a_warning(run: Run) -> None:
    """What can be stored but will surprise is told with its path, and does not stop the import."""
    write("in.json", project(flag("odd", condition(person("plan", "(", "regex")))))
    exit_code, _, errors = run("import", "in.json")
    assert exit_code == 0
    assert errors.startswith("warning: $.projects[0].flags[0]")


def test_import__file_that_is_not_there__is_told(run: Run) -> None:
    """A wrong file name is one sentence."""
    assert run("import", "nope.json") == (1, "", "flagstone: Cannot read nope.json: No such file or directory\n")


def test_import__into_a_file_store__is_refused(run: Run) -> None:
    """A store that is only read says so."""
    write("in.json", project(FOR_TEAMS))
    exit_code, _, errors = run("import", "in.json", "--set", "store.url=file:in.json")
    assert exit_code == 1
    assert "read-only" in errors


def test_export__to_a_place_that_cannot_be_written__is_told(run: Run) -> None:
    """A wrong output path is one sentence."""
    exit_code, _, errors = run("export", "--demo", "-o", "no/such/folder.json")
    assert (exit_code, errors) == (1, "flagstone: Cannot write no/such/folder.json: No such file or directory\n")


def test_progress__time_passing__is_told_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """A short import is silent, a long one says every other second how far it is."""

    class Clock:
        elapsed_s = 0.0

        def now(self) -> Any:
            return NOW

        def monotonic(self) -> float:
            return self.elapsed_s

    clock = Clock()
    progress = Progress(clock)
    progress(1000, 9000)
    clock.elapsed_s = PROGRESS_INTERVAL_S
    progress(2000, 9000)
    progress(3000, 9000)
    assert capsys.readouterr().err == "2000 of 9000 persons\n"


def test_explain__stored_person__tells_each_step(run: Run) -> None:
    """The value, the reason, and what each filter and bucket said stand there, with where properties came from."""
    write("in.json", project(flag("mine", condition(person("plan", "team"), rollout=0), condition()), persons=[ALICE]))
    run("import", "in.json")
    exit_code, told, _ = run("explain", "mine", "alice")
    assert exit_code == 0
    assert told.splitlines() == [
        "mine = true for alice",
        "  reason: Matched condition set 2 (condition_match)",
        "",
        "condition set 1: its filters hold",
        '  + plan exact "team"; "team" from the store',
        "  bucket 0.111749 is beyond 0",
        "",
        "condition set 2: its filters hold",
        "  bucket 0.111749 is within the rollout of 1",
    ]


def test_explain__properties_given__are_taken_as_a_request_would_send_them(run: Run) -> None:
    """Properties may be text, JSON, or an object of several; the explanation can be read by a program."""
    arguments = ("--person-property", "email=u@example.com", "--person-property", '{"seats": 9, "x": 1}')
    exit_code, told, _ = run(
        "explain", "--demo", "internal-tools", "u1", *arguments, "--person-property", "seats=10", "--json"
    )
    explanation = json.loads(told)
    assert exit_code == 0
    assert explanation["value"] is True
    assert [(step["source"], step["seen"]) for step in explanation["conditions"][0]["filters"]] == [
        ("request", "u@example.com"),
        ("request", 10),
    ]


def test_explain__property_that_nobody_has__is_shown_as_not_set(run: Run) -> None:
    """Somebody unknown to the store has no properties, which is said rather than guessed."""
    _, told, _ = run("explain", "--demo", "beta-search", "nobody")
    assert '  - email ends_with "@example.com"; not set\n' in told


@pytest.mark.parametrize("given", ["plan", '{"plan": ', '{"plan": 1} x'])
def test_explain__property_that_is_neither__is_wrong_usage(
    run: Run, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    """A property that cannot be understood is refused instead of being left out."""
    with pytest.raises(SystemExit) as refused:
        run("explain", "--demo", "beta-search", "nobody", "--person-property", given)
    assert refused.value.code == 2
    assert "--person-property" in capsys.readouterr().err


def test_explain__inactive_flag__is_told_by_name(run: Run) -> None:
    """A flag that is off or unknown has nothing to explain."""
    exit_code, _, errors = run("explain", "--demo", "old-checkout", "alice")
    assert (exit_code, errors) == (1, "flagstone: The project 'Flagstone demo' has no active flag old-checkout\n")


def test_explain__several_projects__wants_one_named(run: Run) -> None:
    """With more than one project nothing is guessed; with a token that no project has neither."""
    write("in.json", project(FOR_TEAMS, token="phc_a"), project(FOR_TEAMS, id=2, token="phc_b"))
    run("import", "in.json")
    exit_code, _, errors = run("explain", "for-teams", "alice")
    assert (exit_code, errors.splitlines()[1:]) == (1, ["  phc_a", "  phc_b"])
    exit_code, told, _ = run("explain", "for-teams", "u1", "--project", "phc_b", "--person-property", "plan=team")
    assert (exit_code, told.splitlines()[0]) == (0, "for-teams = true for u1")
    assert run("explain", "for-teams", "alice", "--project", "phc_c")[0] == 1


def test_check__settings__are_shown_with_their_origins(run: Run) -> None:
    """What is in force can be read, with where each value came from."""
    exit_code, told, _ = run("check", "--set", "server.port=9000")
    assert exit_code == 0
    assert " ".join(next(line for line in told.splitlines() if line.startswith("port = ")).split()) == (
        "port = 9000 # --set"
    )


def test_check__problems__are_all_listed(run: Run) -> None:
    """Everything wrong is told at once, and the exit code says that there was something."""
    exit_code, told, errors = run("check", "--set", "server.port=x", "--config", "nope.toml")
    assert (exit_code, told) == (1, "")
    assert "  server.port: " in errors
    assert "nope.toml" in errors


def test_check__bounds_that_cannot_be_reached__are_warned_about(run: Run) -> None:
    """What works and is probably not meant is told beside the settings."""
    database = ("--set", "store.url=postgresql://db/flags")
    assert run("check", *database)[2] == ""
    exit_code, told, errors = run("check", *database, "--set", "requests.budget_ms=300")
    assert exit_code == 0
    assert told
    assert errors.startswith("warning: persons_pool.acquire_timeout_ms, ")


def test_migrate__store_that_needs_none__says_so(run: Run) -> None:
    """Who migrates an embedded store learns that nothing has to be done."""
    assert run("migrate") == (0, "Nothing to do: a sqlite: store needs no migrating by hand\n", "")


def test_migrate__database__is_set_up_once(run: Run, postgres: Postgres, database: str) -> None:
    """The command names what it applied, and can be repeated; then definitions go in and come out."""
    chosen = ("--set", f"store.url={postgres.url(database)}")
    assert run("migrate", *chosen) == (
        0,
        "Applied 0001_projects_and_persons.sql\nApplied 0002_editing_and_building.sql\n",
        "",
    )
    assert run("migrate", *chosen) == (0, "Nothing to do: the schema is up to date\n", "")
    assert run("import", str(DEMO), *chosen)[0] == 0
    exit_code, told, _ = run("export", *chosen)
    assert exit_code == 0
    assert '"token": "phc_demo"' in told
    exit_code, told, _ = run("explain", "checkout-button", "alice", *chosen)
    assert exit_code == 0
    assert told.startswith('checkout-button = "green" for alice')


def test_migrate__database_is_not_there__is_told_in_a_sentence(run: Run) -> None:
    """A wrong address is a sentence without a traceback and without the password."""
    exit_code, _, errors = run("migrate", "--set", "store.url=postgresql://me:hunter2@127.0.0.1:1/x")
    assert exit_code == 1
    assert errors.startswith("flagstone: database: ")
    assert "hunter2" not in errors


def test_version__command__prints_it(run: Run) -> None:
    """The version that is installed can be asked for."""
    assert run("version") == (0, "flagstone 0.1.0\n", "")


@pytest.mark.parametrize("command", ["serve", "check", "migrate", "import", "export", "explain"])
def test_help__every_command__shows_an_example(run: Run, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Help has an example to copy."""
    with pytest.raises(SystemExit) as ended:
        run(command, "--help")
    assert ended.value.code == 0
    assert f"examples:\n  flagstone {command} " in capsys.readouterr().out


def test_help__asked_for__loads_no_server_and_no_store() -> None:
    """Help is quick because nothing that a command needs is loaded for it."""
    script = (
        "import sys\nfrom gateway.__main__ import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*{'hypercorn', 'starlette', 'sqlite3', 'msgspec'} & sys.modules.keys(), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert ran.stderr == "\n"


def test_export__reader_that_has_seen_enough__is_no_crash() -> None:
    """Piping an export into `head` ends without a traceback."""
    command = f"{sys.executable} -m gateway export --demo | head -n 1"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert (ran.stdout, ran.stderr) == ("{\n", "")


def test_demo__document__is_without_problems(run: Run) -> None:
    """The demo would import without an error or a warning, and has the people it is said to have."""
    assert run("import", str(DEMO), "--dry-run")[::2] == (0, "")
    (demo,) = read_document(DEMO.read_bytes())
    assert demo.token == "phc_demo"
    assert {distinct_id for one in demo.persons for distinct_id in one.distinct_ids} >= {"alice", "bob"}


def test_explain__groups_cohorts_and_dependencies__are_told_in_depth(run: Run) -> None:
    """What a cohort is made of, what another flag said, and who is hashed stand in the steps."""
    cohort = {"id": 4, "name": "Paying", "filters": {"properties": {"type": "AND", "values": [person("plan", "team")]}}}
    in_cohort = {"key": "id", "type": "cohort", "value": 4}
    on_first = {"key": "1", "type": "flag", "value": True, "operator": "flag_evaluates_to"}
    size = {"key": "size", "type": "group", "value": 3, "operator": "gt"}
    held = {"holdout": {"id": 1, "exclusion_percentage": 0}, "feature_enrollment": True}
    first = flag("first", condition(in_cohort), id=1, filters=held)
    second = flag("second", condition(on_first, size), id=2, filters={"aggregation_group_type_index": 0})
    groups = [{"type": "organization", "key": "acme", "properties": {"size": 5}}]
    document = project(first, second, persons=[ALICE], cohorts=[cohort], groups=groups, group_types=["organization"])
    write("in.json", document)
    run("import", "in.json")
    _, told, _ = run("explain", "first", "alice")
    assert told.splitlines()[2:9] == [
        "  enrollment: not set",
        "  holdout of 0: bucket 0.235534, let through",
        "",
        "condition set 1: its filters hold",
        "  + id in 4; true from the cohort",
        "    + cohort 4 (Paying)",
        "      + all of",
    ]
    _, told, _ = run("explain", "second", "alice", "--group", "organization=acme")
    assert "  + 1 flag_evaluates_to true; true from the flag" in told.splitlines()
    assert "    + first: Matched condition set 1" in told.splitlines()
    assert "  + size gt 3; 5 from the store" in told.splitlines()
    _, told, _ = run("explain", "second", "alice")
    assert told.splitlines()[-1] == "  there is nobody to hash"


def test_explain__derived_and_overridden__says_so(run: Run) -> None:
    """A property that follows from another, and an identifier kept from before, are told as such."""
    write("in.json", project(flag("mine", condition(person("distinct_id", "alice"))), persons=[ALICE]))
    run("import", "in.json")
    _, told, _ = run("explain", "mine", "alice", "--anon-distinct-id", "anon", "--device-id", "d1")
    assert '  + distinct_id exact "alice"; "alice", which follows from the request or from another property' in told


def test_explain__group_that_is_no_pair__is_wrong_usage(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A group is named by type and key."""
    with pytest.raises(SystemExit):
        run("explain", "--demo", "beta-search", "nobody", "--group", "acme")
    assert "is not TYPE=KEY" in capsys.readouterr().err
