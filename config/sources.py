"""Where settings come from: defaults < TOML file < environment < secret files < --set, later wins.

Touches nothing but its arguments and the files they name. Invariant: every problem of every source is reported at once,
also for a value that a later source overrides, and refused content of a secret file is never repeated.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import asdict, replace

from config.rates import RateTable
from config.settings import FIELDS, SECTIONS, Problem, Settings, check, expects

PREFIX: Final = "FLAGSTONE__"
"""Two underscores: Kubernetes sets FLAGSTONE_PORT and its like for a service of that name."""

MAX_FILE_CHARACTERS: Final = 1 << 20
MAX_SHOWN_CHARACTERS: Final = 60

_CONFIG_FILE: Final = "--config"
_SET: Final = "--set"
_VARIABLES: Final = {PREFIX + path.replace(".", "__").upper(): path for path in FIELDS}


class Loaded(msgspec.Struct, frozen=True):
    """The settings in force, and where the value at each path came from."""

    settings: Settings
    provenance: Mapping[str, str]


class InvalidConfiguration(Exception):
    """Settings nobody should start with; `problems` has every reason found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Given(msgspec.Struct, frozen=True):
    """A value somebody gave for a setting. One that `is_text` is converted, any other must have the type already."""

    path: str
    value: object
    origin: str
    is_text: bool = True
    is_secret: bool = False


def load(config_path: Path | None, environ: Mapping[str, str], overrides: Sequence[str]) -> Loaded:
    """The settings from all sources. Raises InvalidConfiguration with everything that is wrong in any of them."""
    problems: list[Problem] = []
    sections: dict[str, dict[str, object]] = {}
    provenance = dict.fromkeys(FIELDS, "default")
    for found in (*_from_file(config_path), *_from_environment(environ), *_from_overrides(overrides)):
        given = _converted(found) if isinstance(found, Given) else found
        if isinstance(given, Problem):
            problems.append(given)
        else:
            section, name = given.path.split(".")
            sections.setdefault(section, {})[name] = given.value
            provenance[given.path] = given.origin
    settings = msgspec.convert(sections, Settings)
    # Where a value is unusable the default stands in for it, which would contradict what nobody said.
    unusable = {path for problem in problems for path in problem.paths}
    for problem in check(settings):
        if unusable.isdisjoint((_CONFIG_FILE, *problem.paths)):
            origins = tuple(provenance[path] for path in problem.paths)
            problems.append(replace(problem, origins=origins))
    if problems:
        raise InvalidConfiguration(problems)
    return Loaded(settings, provenance)


def render(loaded: Loaded) -> str:
    """The settings in force as TOML, passwords masked, each with its origin in an aligned comment."""
    sections = {
        section: {f"{section}.{name}": f"{name} = {_toml(value)}" for name, value in asdict(values).items()}
        for section, values in asdict(loaded.settings).items()
    }
    width = max(len(entry) for entries in sections.values() for entry in entries.values())
    return "\n".join(
        f"[{section}]\n"
        + "".join(f"{entry:<{width}}  # {loaded.provenance[path]}\n" for path, entry in entries.items())
        for section, entries in sections.items()
    )


def _from_file(config_path: Path | None) -> Iterator[Given | Problem]:
    if config_path is None:
        return
    origin = f"file {config_path}"
    try:
        document = _parsed(_text_of(config_path))
    except (OSError, ValueError, RecursionError) as error:
        yield _unreadable(_CONFIG_FILE, error, origin)
        return
    for section, content in document.items():
        if section not in SECTIONS:
            yield Problem((section,), "unknown section" + _suggestion(section, SECTIONS), (origin,))
        elif not isinstance(content, dict):
            yield Problem((section,), f"expected a table [{section}]", (origin,))
        else:
            for name, value in content.items():
                path = f"{section}.{name}"
                yield Given(path, value, origin, is_text=False) if path in FIELDS else _unknown(path, origin)


def _from_environment(environ: Mapping[str, str]) -> Iterator[Given | Problem]:
    # Sorted, a variable stands before its _FILE form, which wins over it.
    for name in sorted(name for name in environ if name.startswith(PREFIX)):
        plain_name = name.removesuffix("_FILE")
        if name in _VARIABLES:
            yield Given(_VARIABLES[name], environ[name], f"environment {name}")
        elif plain_name in _VARIABLES:
            yield from _from_secret_file(_VARIABLES[plain_name], environ[name], f"secret file {environ[name]} ({name})")
            if plain_name in environ:
                message = f"set both as {plain_name} and as {name}; keep one"
                yield Problem((_VARIABLES[plain_name],), message, ("environment",))
        else:
            path = plain_name.removeprefix(PREFIX).lower().replace("__", ".", 1)
            message = "unknown setting" + _suggestion(name.upper(), _VARIABLES)
            yield Problem((path,), message, (f"environment {name}",))


def _from_secret_file(path: str, file: str, origin: str) -> Iterator[Given | Problem]:
    try:
        text = _text_of(file)
    except (OSError, ValueError) as error:
        yield _unreadable(path, error, origin)
    else:
        yield Given(path, text.removesuffix("\n"), origin, is_secret=True)


def _from_overrides(overrides: Sequence[str]) -> Iterator[Given | Problem]:
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals:
            yield Problem((path,), "expected section.key=value", (_SET,))
        else:
            yield Given(path, value, _SET) if path in FIELDS else _unknown(path, _SET)


def _text_of(file: Path | str) -> str:
    """The text of a file, with every line end as a newline. Raises OSError or ValueError."""
    with open(file, encoding="utf-8") as opened:
        try:
            text = opened.read(MAX_FILE_CHARACTERS + 1)
        except UnicodeDecodeError:
            # The error itself quotes a byte, which may be a secret's.
            raise ValueError("not UTF-8 text") from None
    if len(text) > MAX_FILE_CHARACTERS:
        raise ValueError(f"longer than {MAX_FILE_CHARACTERS} characters")
    return text


def _parsed(text: str) -> dict[str, Any]:
    """The TOML document. Raises ValueError with line and column, or RecursionError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
        raise ValueError(str(error).replace("end of document", f"line {line}, column {column}")) from error


def _converted(given: Given) -> Given | Problem:
    """The same with a value of the setting's type, or what is wrong with it."""
    field = FIELDS[given.path]
    try:
        value = msgspec.convert(given.value, field.type, strict=not given.is_text, dec_hook=custom)
    except msgspec.ValidationError:
        got = "" if given.is_secret else f", got {_shown(given.value)}"
        return Problem((given.path,), f"expected {expects(field)}{got}", (given.origin,))
    return replace(given, value=value)


def custom(shape: type[Any], value: object) -> object:
    """Values of the types that msgspec does not know: made of text, or of a table."""
    if not isinstance(value, str) and shape is not RateTable:
        raise TypeError
    return shape(value)


def _unreadable(path: str, error: Exception, origin: str) -> Problem:
    reason = error.strerror if isinstance(error, OSError) else error
    return Problem((path,), f"cannot be read: {reason}", (origin,))


def _unknown(path: str, origin: str) -> Problem:
    return Problem((path,), "unknown setting" + _suggestion(path, FIELDS), (origin,))


def _suggestion(wrong: str, right: Iterable[str]) -> str:
    # Names share their section, so the library's own cutoff of 0.6 would find a neighbour for anything.
    nearest = get_close_matches(wrong, right, n=1, cutoff=0.8)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _toml(value: object) -> str:
    # JSON's escapes are TOML's too, and keep to ASCII, which every terminal and log takes.
    return json.dumps(value, default=str)


def _shown(value: object) -> str:
    """The value as TOML writes it, cut short. Neither containers, which may hold a password, nor endless numbers."""
    if isinstance(value, str):
        return _toml(value[:MAX_SHOWN_CHARACTERS])
    return _toml(value) if isinstance(value, int | float) and abs(value) < 1e15 else "something else"
