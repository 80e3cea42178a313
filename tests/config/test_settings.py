"""The tree of settings by itself: what its types promise, and what contradicts what."""

import pickle

import msgspec
import pytest

from config.address import Address
from config.backends import Breakers, Redis, WriterPool
from config.builder import Builder
from config.management import Api
from config.settings import FIELDS, Problem, Requests, Settings, Store, advise, check, expects

DATABASE = "postgresql://flagstone@localhost/flags"


def test_settings__left_alone__contradict_nothing() -> None:
    """The defaults are a configuration a service starts with."""
    assert check(Settings()) == []


def test_settings__changed_in_place__refuse() -> None:
    """Nobody changes a setting under a request that reads it."""
    with pytest.raises(AttributeError):
        Settings().server.port = 1  # type: ignore[misc]


def test_settings__pickled__arrive_equal() -> None:
    """Settings reach a worker process unchanged."""
    settings = Settings(store=Store(url=Address("file:flags.json")))
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_settings__every_default__is_what_its_field_accepts() -> None:
    """A person may write down any default and nothing changes."""
    for field in FIELDS.values():
        assert msgspec.convert(field.default, field.type) == field.default


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("server.host", "text, not empty"),
        ("server.port", "a whole number from 0 to 65535"),
        ("requests.body_timeout_s", "a number from 0.1 to 600"),
        ("store.url", "text"),
        ("log.format", '"json" or "text"'),
    ],
)
def test_expects__field__says_kind_and_range(path: str, expected: str) -> None:
    """A person learns from one phrase what a setting takes."""
    assert expects(FIELDS[path]) == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sqlite:/var/lib/flagstone.sqlite3", "sqlite:/var/lib/flagstone.sqlite3"),
        ("postgres://flagstone@db/flags", "postgres://flagstone@db/flags"),
        ("postgres://flagstone:hunter2@db/flags", "postgres://flagstone:***@db/flags"),
        ("postgres://flagstone:hu@nt/er2@db/flags", "postgres://flagstone:***@db/flags"),
        ("redis://:hunter\n2@cache", "redis://:***@cache"),
    ],
)
def test_store_url__shown__masks_the_password_only(text: str, shown: str) -> None:
    """A password cannot reach a log or a terminal through a store's address."""
    url = Address(text)
    assert (str(url), repr(url)) == (shown, f"Address({shown!r})")
    assert "hunter" not in repr(Settings(store=Store(url=url)))


def test_store_url__taken_apart__gives_scheme_and_whole_path() -> None:
    """A path may itself hold colons."""
    url = Address("file:/srv/a:b.json")
    assert (url.scheme, url.path) == ("file", "/srv/a:b.json")


def test_store_url__compared__is_its_text() -> None:
    """Two addresses are the same exactly when their whole text is, the masked part too."""
    url = Address("postgres://u:one@db")
    assert url == Address("postgres://u:one@db")
    assert hash(url) == hash(Address("postgres://u:one@db"))
    assert url != Address("postgres://u:two@db")
    assert url != "postgres://u:one@db"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:hunter2@db/flags", "starts with none of file:, sqlite: and postgresql://"),
        ("flagstone.sqlite3", "starts with none of file:, sqlite: and postgresql://"),
        ("", "starts with none of file:, sqlite: and postgresql://"),
        ("postgresql:flags", "names nothing after postgresql://"),
        ("postgres://", "names nothing after postgres://"),
        ("sqlite:", "names no path after sqlite:"),
        ("sqlite::memory:", "names no file: several connections are to share what is stored"),
        ("sqlite:///flagstone.sqlite3", "the path follows sqlite: directly, without //"),
    ],
)
def test_check__store_nobody_can_open__is_a_problem_without_the_value(url: str, message: str) -> None:
    """A store's address is refused before anything opens it, and never repeated."""
    assert check(Settings(store=Store(url=Address(url)))) == [Problem(("store.url",), message)]


@pytest.mark.parametrize("pool", ["definitions_pool", "persons_pool", "writer_pool"])
@pytest.mark.parametrize(
    ("store", "url", "expected"),
    [
        ("postgresql://db/flags", "", None),
        ("postgresql://db/flags", "postgres://replica/flags", None),
        ("postgresql://db/flags", "postgres:replica", "names nothing after postgres://"),
        ("postgresql://db/flags", "sqlite:x", "starts with neither postgresql:// nor postgres://"),
        ("sqlite:x", "postgres://db/flags", "a pool has a database of its own only beside postgresql://"),
    ],
)
def test_check__database_of_a_pool__must_be_one_beside_a_database(
    pool: str, store: str, url: str, expected: str | None
) -> None:
    """A pool reads another database only where the store is one."""
    sections = {"store": {"url": Address(store)}, pool: {"url": Address(url)}}
    assert [problem.message for problem in check(msgspec.convert(sections, Settings))] == [expected] * bool(expected)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", None),
        ("redis://cache", None),
        ("rediss://:hunter2@cache:6380/1", None),
        ("redis+sentinel://a,b/main", None),
        ("redis+cluster://a:7000", None),
        ("memcached://a", "starts with none of redis://, rediss://, redis+sentinel://, redis+cluster://"),
        ("redis:cache", "names nothing after redis://"),
    ],
)
def test_check__shared_cache__must_be_some_redis(url: str, expected: str | None) -> None:
    """An address that no client understands is refused before anything connects."""
    problems = check(Settings(redis=Redis(url=Address(url))))
    assert [problem.message for problem in problems] == [expected] * bool(expected)


def test_check__longest_open_time_below_the_first__is_a_problem() -> None:
    """A breaker's periods can only grow."""
    (problem,) = check(Settings(breakers=Breakers(open_s=2, max_open_s=1)))
    assert problem.paths == ("breakers.max_open_s", "breakers.open_s")
    assert check(Settings(breakers=Breakers(open_s=2, max_open_s=2))) == []


@pytest.mark.parametrize(
    ("store", "budget_ms", "is_advised"),
    [("postgresql://db", 1000, False), ("postgresql://db", 949, True), ("sqlite:x", 500, False)],
)
def test_advise__bounds_that_do_not_fit_into_the_budget__are_told(store: str, budget_ms: int, is_advised: bool) -> None:
    """Who allows a connection and a statement more than a request has is told so; nothing is refused for it."""
    settings = Settings(store=Store(url=Address(store)), requests=Requests(budget_ms=budget_ms))
    assert len(list(advise(settings))) == is_advised
    assert check(settings) == []


@pytest.mark.parametrize(
    ("elsewhere", "is_enabled", "is_advised"),
    [("", True, False), (DATABASE, True, False), (DATABASE + "2", True, True), (DATABASE + "2", False, False)],
)
def test_advise__persons_in_another_database__are_not_where_the_api_puts_them(
    elsewhere: str, is_enabled: bool, is_advised: bool
) -> None:
    """Whoever keeps persons apart learns that those imported through the API would not be among them."""
    store, writer = Store(url=Address(DATABASE)), WriterPool(url=Address(elsewhere))
    settings = Settings(store=store, writer_pool=writer, api=Api(is_enabled=is_enabled))
    advice = [problem for problem in advise(settings) if "writer_pool.url" in problem.paths]
    assert len(advice) == is_advised


@pytest.mark.parametrize(("minimum_ms", "is_problem"), [(5000, False), (5001, True)])
def test_check__rests_of_the_builder__must_be_in_order(minimum_ms: int, is_problem: bool) -> None:
    """A longest rest below the first is told with both settings."""
    problems = check(Settings(builder=Builder(min_rest_ms=minimum_ms, max_rest_ms=5000)))
    assert [it.paths for it in problems] == [("builder.max_rest_ms", "builder.min_rest_ms")] * is_problem


@pytest.mark.parametrize(("reserve_ms", "is_problem"), [(999, False), (1000, True), (1001, True)])
def test_check__reserve_against_budget__must_leave_something(reserve_ms: int, is_problem: bool) -> None:
    """At least a millisecond of the budget is left to work with."""
    problems = check(Settings(requests=Requests(budget_ms=1000, answer_reserve_ms=reserve_ms)))
    assert [problem.paths for problem in problems] == [
        ("requests.answer_reserve_ms", "requests.budget_ms"),
    ] * is_problem


@pytest.mark.parametrize(("decoded_bytes", "is_problem"), [(100, False), (99, True)])
def test_check__decoded_bound_against_received__must_hold_an_uncompressed_body(
    decoded_bytes: int, is_problem: bool
) -> None:
    """A body that may be received uncompressed may also be decoded."""
    problems = check(Settings(requests=Requests(max_body_bytes=100, max_decoded_bytes=decoded_bytes)))
    assert [problem.paths for problem in problems] == [
        ("requests.max_decoded_bytes", "requests.max_body_bytes"),
    ] * is_problem


def test_check__several_contradictions__reports_all() -> None:
    """One look at the problems is enough to mend the settings."""
    requests = Requests(budget_ms=10, answer_reserve_ms=10, max_body_bytes=10, max_decoded_bytes=9)
    assert len(check(Settings(store=Store(url=Address("file:")), requests=requests))) == 3


def test_problem__shown__names_settings_and_origins() -> None:
    """A problem reads as a line that says what, why, and from where."""
    assert str(Problem(("a.b", "a.c"), "too much", ("--set", "default"))) == "a.b, a.c: too much [--set, default]"
    assert str(Problem(("a.b",), "too much")) == "a.b: too much"
