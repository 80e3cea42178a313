"""Loading: which source wins, how text becomes a value, and that every mistake is reported at once."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from config.address import Address
from config.settings import FIELDS, SECTIONS, Problem, Settings
from config.sources import MAX_FILE_CHARACTERS, InvalidConfiguration, load, render

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a TOML file and gives its path."""

    def write_toml(text: str) -> Path:
        path = tmp_path / "flagstone.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_toml


def problems_of(
    config_path: Path | None = None, environ: Mapping[str, str] | None = None, overrides: Sequence[str] = ()
) -> list[str]:
    """The lines a person sees when these sources are refused."""
    with pytest.raises(InvalidConfiguration) as refusal:
        load(config_path, environ or {}, overrides)
    assert str(refusal.value).split("\n") == [str(problem) for problem in refusal.value.problems]
    return [str(problem) for problem in refusal.value.problems]


def test_load__no_sources__gives_the_defaults() -> None:
    """A service starts from nothing."""
    loaded = load(None, {}, [])
    assert loaded.settings == Settings()
    assert loaded.provenance == dict.fromkeys(FIELDS, "default")


def test_load__one_more_source_each__the_later_wins(write: Write, tmp_path: Path) -> None:
    """File < environment < secret file < --set, and each setting remembers its source."""
    config = write('server.host = "file"\nserver.port = 1\nserver.backlog = 1\nstore.url = "file:a"\n')
    secret = tmp_path / "secret"
    secret.write_text("sqlite:b\n", encoding="utf-8")
    environ = {
        "FLAGSTONE__SERVER__PORT": "2",
        "FLAGSTONE__SERVER__BACKLOG": "2",
        "FLAGSTONE__STORE__URL_FILE": str(secret),
        "FLAGSTONE_PORT": "tcp://10.0.0.1:80",
        "PATH": "/bin",
    }
    loaded = load(config, environ, ["server.backlog=3", "server.backlog=4"])
    assert loaded.settings.server.host == "file"
    assert loaded.settings.server.port == 2
    assert loaded.settings.server.backlog == 4
    assert loaded.settings.store.url == Address("sqlite:b")
    assert {path: origin for path, origin in loaded.provenance.items() if origin != "default"} == {
        "server.host": f"file {config}",
        "server.port": "environment FLAGSTONE__SERVER__PORT",
        "server.backlog": "--set",
        "store.url": f"secret file {secret} (FLAGSTONE__STORE__URL_FILE)",
    }


def test_load__override_of_a_secret_file__wins(tmp_path: Path) -> None:
    """What is typed at start wins over everything."""
    (tmp_path / "secret").write_text("sqlite:b", encoding="utf-8")
    loaded = load(None, {"FLAGSTONE__STORE__URL_FILE": str(tmp_path / "secret")}, ["store.url=file:a=b"])
    assert loaded.settings.store.url == Address("file:a=b")


@pytest.mark.parametrize(
    ("content", "host"),
    [(b"h", "h"), (b"h\n", "h"), (b"h\r\n", "h"), (b"h\n\n", "h\n"), (b" h ", " h "), ("ü".encode(), "ü")],
)
def test_load__secret_file__loses_one_newline_at_its_end(tmp_path: Path, content: bytes, host: str) -> None:
    """The newline an editor adds is not part of a secret; everything else is."""
    (tmp_path / "secret").write_bytes(content)
    loaded = load(None, {"FLAGSTONE__SERVER__HOST_FILE": str(tmp_path / "secret")}, [])
    assert loaded.settings.server.host == host


@pytest.mark.parametrize(
    ("override", "section", "value"),
    [
        ("server.port=0", "server", 0),
        ("server.port=65535", "server", 65535),
        ("server.drain_timeout_s=2", "server", 2.0),
        ("server.drain_timeout_s=2.5", "server", 2.5),
        ("log.level=debug", "log", "debug"),
        ("server.host=8", "server", "8"),
    ],
)
def test_load__text__becomes_a_value_of_the_settings_type(override: str, section: str, value: object) -> None:
    """Text from outside a TOML file is converted."""
    name = override.partition("=")[0].partition(".")[2]
    converted = getattr(getattr(load(None, {}, [override]).settings, section), name)
    assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("server.port=", 'expected a whole number from 0 to 65535, got ""'),
        ("server.port= 80", 'expected a whole number from 0 to 65535, got " 80"'),
        ("server.port=8_0", 'expected a whole number from 0 to 65535, got "8_0"'),
        ("server.port=65536", 'expected a whole number from 0 to 65535, got "65536"'),
        ("server.port=-1", 'expected a whole number from 0 to 65535, got "-1"'),
        ("server.host=", 'expected text, not empty, got ""'),
        ("snapshots.refresh_s=nan", 'expected a number from 0.01 to 3600, got "nan"'),
        ("snapshots.refresh_s=inf", 'expected a number from 0.01 to 3600, got "inf"'),
        ("log.format=xml\x1b", 'expected "json" or "text", got "xml\\u001b"'),
        ("log.level=" + "x" * 100, 'expected "debug" or "info" or "warning" or "error", got "' + "x" * 60 + '"'),
    ],
)
def test_load__text_that_is_no_such_value__is_refused(override: str, message: str) -> None:
    """A mistyped value never becomes another value, and is shown escaped and cut."""
    assert problems_of(overrides=[override]) == [f"{override.partition('=')[0]}: {message} [--set]"]


def test_load__toml_integer_for_a_number__is_accepted(write: Write) -> None:
    """Nobody needs to write 2.0 for two seconds."""
    assert load(write("[server]\ndrain_timeout_s = 2"), {}, []).settings.server.drain_timeout_s == 2.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('server.port = "80"', 'server.port: expected a whole number from 0 to 65535, got "80"'),
        ("server.port = 80.0", "server.port: expected a whole number from 0 to 65535, got 80.0"),
        ("server.port = true", "server.port: expected a whole number from 0 to 65535, got true"),
        ("server.port = 70000", "server.port: expected a whole number from 0 to 65535, got 70000"),
        ("server.port.x = 1", "server.port: expected a whole number from 0 to 65535, got something else"),
        (
            f"server.port = 0x{'f' * 5000}",
            "server.port: expected a whole number from 0 to 65535, got something else",
        ),
        ("server.host = 1979-05-27", "server.host: expected text, not empty, got something else"),
        ("store.url = 5", "store.url: expected text, got 5"),
        ('store.url = ["postgres://u:hunter2@db"]', "store.url: expected text, got something else"),
        ("server = 5", "server: expected a table [server]"),
        ("[[server]]", "server: expected a table [server]"),
    ],
)
def test_load__toml_value_of_another_type__is_refused(write: Write, line: str, message: str) -> None:
    """A TOML value has its setting's type already; nothing is guessed."""
    config = write(line)
    assert problems_of(config) == [f"{message} [file {config}]"]


def test_load__unknown_names__are_refused_everywhere_with_the_nearest_known(write: Write) -> None:
    """A misspelt setting is never silently without effect."""
    config = write("[servr]\nport = 1\n[server]\nprot = 1\ncolour = 1\n[nonsense]\n")
    environ = {
        "FLAGSTONE__SERVER__PRT": "1",
        "FLAGSTONE__server__port": "1",
        "FLAGSTONE__LOG__LEVL_FILE": "/nowhere",
        "FLAGSTONE__": "1",
    }
    assert problems_of(config, environ, ["requests.budget=1", "port=1", "=1"]) == [
        f"servr: unknown section; did you mean server? [file {config}]",
        f"server.prot: unknown setting; did you mean server.port? [file {config}]",
        f"server.colour: unknown setting [file {config}]",
        f"nonsense: unknown section [file {config}]",
        ": unknown setting [environment FLAGSTONE__]",
        "log.levl: unknown setting; did you mean FLAGSTONE__LOG__LEVEL? [environment FLAGSTONE__LOG__LEVL_FILE]",
        "server.prt: unknown setting; did you mean FLAGSTONE__SERVER__PORT? [environment FLAGSTONE__SERVER__PRT]",
        "server.port: unknown setting; did you mean FLAGSTONE__SERVER__PORT? [environment FLAGSTONE__server__port]",
        "requests.budget: unknown setting; did you mean requests.budget_ms? [--set]",
        "port: unknown setting [--set]",
        ": unknown setting [--set]",
    ]


def test_load__override_without_a_value__is_refused() -> None:
    """--set says what it wants."""
    assert problems_of(overrides=["server.port"]) == ["server.port: expected section.key=value [--set]"]


def test_load__mistakes_in_every_source__are_reported_together(write: Write) -> None:
    """A person mends everything in one go, also what a later source hides and what only contradicts."""
    config = write('server.port = "x"\nrequests.max_body_bytes = 9000000\n')
    environ = {"FLAGSTONE__LOG__LEVEL": "loud"}
    overrides = ["server.port=80", "server.backlog=no", "requests.budget_ms=50"]
    assert problems_of(config, environ, overrides) == [
        f'server.port: expected a whole number from 0 to 65535, got "x" [file {config}]',
        'log.level: expected "debug" or "info" or "warning" or "error", got "loud" [environment FLAGSTONE__LOG__LEVEL]',
        'server.backlog: expected a whole number from 1 to 65535, got "no" [--set]',
        (
            "requests.answer_reserve_ms, requests.budget_ms: a reserve of 50 ms leaves nothing of a budget of 50 ms "
            "[default, --set]"
        ),
        (
            "requests.max_decoded_bytes, requests.max_body_bytes: a decoded body of at most 4194304 bytes rules out "
            f"received bodies of up to 9000000 bytes [default, file {config}]"
        ),
    ]


def test_load__contradiction_with_an_unusable_value__is_not_invented() -> None:
    """A default that stands in for a mistyped value is not held against anybody."""
    assert problems_of(overrides=["requests.budget_ms=2s", "requests.answer_reserve_ms=1500"]) == [
        'requests.budget_ms: expected a whole number from 1 to 60000, got "2s" [--set]'
    ]


def test_load__contradiction_while_the_file_is_unreadable__is_not_invented(tmp_path: Path) -> None:
    """What an unreadable file might say is not guessed."""
    missing = tmp_path / "missing.toml"
    assert problems_of(missing, {}, ["requests.answer_reserve_ms=1500"]) == [
        f"--config: cannot be read: No such file or directory [file {missing}]"
    ]


def test_load__problem__is_also_there_for_programs() -> None:
    """A caller need not take a message apart."""
    with pytest.raises(InvalidConfiguration) as refusal:
        load(None, {}, ["server.prt=1"])
    message = "unknown setting; did you mean server.port?"
    assert refusal.value.problems == (Problem(("server.prt",), message, ("--set",)),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[server]\nport = = 1", "Invalid value (at line 2, column 8)"),
        (b"[server]\nport = 1\nport = 2", "Cannot overwrite a value (at line 3, column 9)"),
        (b"[server", "Expected ']' at the end of a table declaration (at line 1, column 8)"),
        (b"[server]\nhost = '\xff'", "not UTF-8 text"),
        (b"#" * (MAX_FILE_CHARACTERS + 1), f"longer than {MAX_FILE_CHARACTERS} characters"),
    ],
)
def test_load__file_that_is_no_toml__says_where(tmp_path: Path, content: bytes, reason: str) -> None:
    """A person finds the mistake by its line and column."""
    config = tmp_path / "flagstone.toml"
    config.write_bytes(content)
    assert problems_of(config) == [f"--config: cannot be read: {reason} [file {config}]"]


def test_load__file_nested_without_end__is_refused(write: Write) -> None:
    """No file makes loading end in anything but settings or problems."""
    [problem] = problems_of(write("x = " + "[" * 10_000))
    assert problem.startswith("--config: cannot be read: ")


def test_load__directory_as_file__is_refused(tmp_path: Path) -> None:
    """A mount that became a directory is named as such."""
    assert problems_of(tmp_path) == [f"--config: cannot be read: Is a directory [file {tmp_path}]"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"hunter\xff", "cannot be read: not UTF-8 text"),
        (b"hunter2", "expected a whole number from 0 to 65535"),
        (b"x" * (MAX_FILE_CHARACTERS + 1), f"cannot be read: longer than {MAX_FILE_CHARACTERS} characters"),
    ],
)
def test_load__unusable_secret_file__is_refused_without_its_content(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    """No message repeats what stands in a secret file."""
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    assert problems_of(environ={"FLAGSTONE__SERVER__PORT_FILE": str(secret)}) == [
        f"server.port: {message} [secret file {secret} (FLAGSTONE__SERVER__PORT_FILE)]"
    ]


def test_load__variable_and_secret_file_for_one_setting__is_a_problem(tmp_path: Path) -> None:
    """Nobody wonders which of two values for one setting counts."""
    (tmp_path / "secret").write_text("file:a", encoding="utf-8")
    environ = {"FLAGSTONE__STORE__URL": "file:a", "FLAGSTONE__STORE__URL_FILE": str(tmp_path / "secret")}
    assert problems_of(environ=environ) == [
        "store.url: set both as FLAGSTONE__STORE__URL and as FLAGSTONE__STORE__URL_FILE; keep one [environment]"
    ]


def test_render__settings__align_their_origins() -> None:
    """A person sees every setting in force and where it came from."""
    lines = render(load(None, {"FLAGSTONE__LOG__LEVEL": "debug"}, ['server.host=a"b'])).splitlines()
    told = [" ".join(line.split()) for line in lines]
    assert told[:3] == ["[server]", 'host = "a\\"b" # --set', "port = 8000 # default"]
    at = told.index("[log]")
    assert told[at + 1 : at + 3] == ['level = "debug" # environment FLAGSTONE__LOG__LEVEL', 'format = "json" # default']
    assert len({line.index("#") for line in lines if "#" in line}) == 1


def test_render__written_to_a_file__loads_to_the_same_settings(write: Write) -> None:
    """What is shown can be copied."""
    overrides = ["server.host=bücher\x7f", "snapshots.refresh_s=1e3", "store.url=file:/srv/flags.json"]
    loaded = load(None, {}, overrides)
    assert load(write(render(loaded)), {}, []).settings == loaded.settings
    assert list(tomllib.loads(render(loaded))) == list(SECTIONS)
