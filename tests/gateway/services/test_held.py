"""The snapshots in memory: bounds that hold, and times that spread."""

from gateway.ports import Definitions
from gateway.services import held
from gateway.services.held import Held, HeldSnapshots


def held_of(size: int) -> Held:
    class Nothing:
        version = 1
        flags = ()

    return Held(Nothing(), Definitions(1, 1, b"x" * size), "store", 0.0, 0.0)  # type: ignore[arg-type]


def test_held__more_bytes_than_there_is_room__drops_the_least_used() -> None:
    """The bound on bytes holds as well as the bound on projects, and one project may fill it alone."""
    evictions: list[None] = []
    cache = HeldSnapshots(100, 10, lambda: evictions.append(None))
    for name in "abc":
        cache[name] = held_of(40)
    assert list(cache) == ["b", "c"]
    cache["huge"] = held_of(1000)
    assert list(cache) == ["huge"]
    assert len(evictions) == 3


def test_held__put_off__waits_longer_each_time_up_to_a_longest() -> None:
    """Pauses grow, and what confirms starts them over."""
    it = held_of(1)
    pauses = []
    for _ in range(7):
        it.put_off(0.0)
        pauses.append(it.check_at)
    assert pauses == [0.5, 1, 2, 4, 5, 5, 5]
    it.confirm(0.0, 8.0)
    it.put_off(0.0)
    assert it.check_at == held.RETRY_S
    assert repr(it) == "<Held v1 from store, 1 bytes>"


def test_held__looked_through__keeps_its_order_of_use() -> None:
    """Comparing versions and measuring do not count as use: only requests do."""
    cache = HeldSnapshots(10_000, 2, lambda: None)
    cache["a"], cache["b"] = held_of(1), held_of(1)
    assert cache.get("a") is not None
    assert list(cache.everything) == ["a", "b"]
    assert [it.bytes for it in cache.everything.values()] == [1, 1]
    cache["c"] = held_of(1)
    assert list(cache.everything) == ["a", "c"]
    cache.pop("a")
    assert list(cache.everything) == ["c"]
