"""Settings that change while the service runs."""

from config.address import Address
from config.backends import Store
from config.edge import Limits, Proxies
from config.networks import Networks
from config.operating import Log
from config.rates import Rates, RateTable
from config.reload import RELOADABLE, Live, dumps, loads, plan
from config.server import Server
from config.settings import FIELDS, Requests, Settings


def test_plan__nothing_differs__changes_nothing() -> None:
    """The same settings again are no change, though they were read anew."""
    planned = plan(Settings(), loads(dumps(Settings())))
    assert planned.changed == planned.needs_restart == ()
    assert planned.settings == Settings()


def test_plan__both_kinds_differ__has_in_force_what_can_be() -> None:
    """What needs a restart is named and stays as it was; the rest is in the new settings."""
    new = Settings(
        server=Server(port=9000, lame_duck_s=1), store=Store(url=Address("file:b")), requests=Requests(budget_ms=5),
        proxies=Proxies(trusted=Networks("10.0.0.0/8")), log=Log(level="error"),
    )  # fmt: skip
    planned = plan(Settings(), new)
    assert planned.changed == ("server.lame_duck_s", "proxies.trusted", "requests.budget_ms", "log.level")
    assert planned.needs_restart == ("server.port", "store.url")
    assert planned.settings.server == Server(lame_duck_s=1)
    assert planned.settings.store == Settings().store
    assert planned.settings.requests.budget_ms == 5


def test_dumps__every_kind_of_value__is_the_same_in_another_process() -> None:
    """A worker runs under exactly the settings of its supervisor, passwords included."""
    settings = Settings(
        store=Store(url=Address("postgresql://flagstone:se@cret@db/flags")),
        proxies=Proxies(trusted=Networks("10.0.0.0/8, ::1")),
        limits=Limits(address=Rates("5/second"), tokens=RateTable({"phc_one": "1/minute", "phc_two": ""})),
    )
    assert loads(dumps(settings)) == settings


def test_reloadable__its_paths__are_settings() -> None:
    """The list follows the tree: no setting that is gone, and none of a section that must stay."""
    assert set(FIELDS) > RELOADABLE
    assert not {path for path in RELOADABLE if path.startswith(("store.", "disk.", "metrics."))}
    assert not {path for path in RELOADABLE if path.endswith((".url", ".path", ".port", ".transaction_pooling"))}


def test_live__with_followers__tells_each_what_is_in_force() -> None:
    """Who keeps what it was made with learns of everything that is put in force, when the rest sees it too."""
    live = Live(Settings())
    told: list[tuple[str, Settings, Settings]] = []
    for name in ("a", "b"):
        live.follow(lambda new, name=name: told.append((name, new, live.settings)))  # type: ignore[misc]
    new = Settings(requests=Requests(budget_ms=5))
    live.put_in_force(new, 4)
    assert told == [("a", new, new), ("b", new, new)]
    assert live.generation == 4


def test_live__in_a_log__says_what_is_in_force() -> None:
    """Whoever looks at a worker sees its generation."""
    live = Live(Settings(), 3)
    assert repr(live) == "<Live generation 3>"
    live.is_leaving = True
    assert repr(live) == "<Live generation 3, leaving>"
