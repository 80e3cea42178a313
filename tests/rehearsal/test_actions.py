"""Steps of a timeline, done to a stage of fakes and real proxies: who is meant, what becomes of them, what is left."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from drills.actions import Actions
from drills.faults import FaultProxy
from drills.model import Action, Step
from drills.stage import Stage


class Recorder:
    """Stands for a flagstone, a server or others; writes down what is done to it."""

    def __init__(self, name: str, done: list[str]) -> None:
        self._name = name
        self._done = done

    def __getattr__(self, what: str) -> Callable[..., Any]:
        if what.startswith("_"):
            raise AttributeError(what)

        def do(*arguments: Any) -> Any:
            told = " ".join(str(it) for it in arguments)
            self._done.append(f"{self._name}.{what}({told})")
            return {"wait_until_ready": 1.5, "url": "postgresql://it", "hold": 2}.get(what)

        return do


@pytest.fixture
def done() -> list[str]:
    return []


@pytest.fixture
def stage(done: list[str]) -> Iterator[Stage]:
    """Two instances, a builder, PostgreSQL and Redis."""
    with ExitStack() as opened:
        made: Any = Stage(Path(), Recorder("postgres", done), Recorder("redis", done))  # type: ignore[arg-type]
        made.instances = [Recorder("one", done), Recorder("two", done)]
        made.builder = Recorder("builder", done)
        made.proxies = {
            kind: [opened.enter_context(FaultProxy("127.0.0.1", 9)) for _ in range(3)] for kind in ("postgres", "redis")
        }
        yield made


@pytest.fixture
def actions(stage: Stage, done: list[str]) -> Iterator[Actions]:
    made = Actions(stage, Recorder("others", done))  # type: ignore[arg-type]
    yield made
    made.close()


def modes(stage: Stage, kind: str) -> list[str]:
    return [repr(proxy).split()[1].rstrip(",") for proxy in stage.proxies[kind]]


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("postgres", ["blackhole"] * 3),
        ("postgres.1", ["blackhole", "none", "none"]),
        ("postgres.builder", ["none", "none", "blackhole"]),
    ],
)
def test_fault__whom_it_is_for__has_it_until_it_is_healed(
    actions: Actions, stage: Stage, to: str, expected: list[str]
) -> None:
    """A fault of one instance is not one of the others."""
    actions.do(Step(at_s=0, do="blackhole", to=to))
    assert modes(stage, "postgres") == expected
    assert modes(stage, "redis") == ["none"] * 3
    actions.do(Step(at_s=0, do="heal", to=to))
    assert modes(stage, "postgres") == ["none"] * 3


@pytest.mark.parametrize(
    ("do", "to", "expected"),
    [
        ("stop", "redis", ["redis.stop()"]),
        ("start", "redis", ["redis.start()"]),
        ("restart", "redis", ["redis.stop()", "redis.start()"]),
        ("kill", "instance.2", ["two.kill()"]),
        ("stop", "builder", ["builder.stop()"]),
        (
            "start",
            "instances",
            ["one.start()", "two.start()", "one.wait_until_ready(60.0)", "two.wait_until_ready(60.0)"],
        ),
        ("restart", "instance.1", ["one.stop()", "one.start()", "one.wait_until_ready(60.0)"]),
        ("release", "", ["others.release()"]),
        ("still", "", ["others.still()"]),
    ],
)
def test_action__whom_it_is_for__has_it_done(
    actions: Actions, done: list[str], do: Action, to: str, expected: list[str]
) -> None:
    """Names in a file are those of what stands."""
    actions.do(Step(at_s=0, do=do, to=to))
    assert done == expected


def test_restart__of_all_instances__is_one_after_the_other(actions: Actions, done: list[str]) -> None:
    """As a roll-out does: the second is stopped once the first is ready."""
    actions.do(Step(at_s=0, do="restart", to="instances"))
    assert done.index("one.wait_until_ready(60.0)") < done.index("two.stop()")
    assert actions.ready_s == [1.5, 1.5]


def test_reload__with_settings__goes_to_all_instances(actions: Actions, done: list[str]) -> None:
    """The builder is not meant where nobody is named."""
    actions.do(Step(at_s=0, do="reload", settings={"limits.mode": "off"}))
    assert done == ["one.reload({'limits': {'mode': 'off'}})", "two.reload({'limits': {'mode': 'off'}})"]


def test_hold__of_a_server__takes_its_connections(actions: Actions, done: list[str]) -> None:
    """Others connect past the proxies, as they have their own way to it."""
    actions.do(Step(at_s=0, do="hold", to="postgres", count=2))
    assert "others.hold(postgresql://it 2)" in done


def test_burn__processes__are_gone_when_it_is_calm(actions: Actions) -> None:
    """Nothing goes on taking CPU after a drill."""
    actions.do(Step(at_s=0, do="burn", count=1))
    (burning,) = actions._burning
    assert burning.poll() is None
    actions.do(Step(at_s=0, do="calm"))
    assert burning.returncode is not None


@pytest.mark.parametrize(("do", "to"), [("stop", "pgbouncer"), ("delay", "nobody"), ("hold", "pgbouncer")])
def test_action__for_what_there_is_not__is_refused(actions: Actions, do: Action, to: str) -> None:
    """A mistake in a file is told, not passed over."""
    with pytest.raises(ValueError, match=to):
        actions.do(Step(at_s=0, do=do, to=to, count=1))
