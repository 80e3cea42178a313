"""The breaker walked through its states by a clock that is moved."""

import pytest
from msgspec.structs import replace

from gateway.resilience.breaker import Breaker, BreakerPolicy, State, Ticket
from tests.fakes import FakeClock

POLICY = BreakerPolicy(
    window_s=10, min_calls=4, failure_ratio=0.5, slow_ratio=0.75, slow_after_s=0.2, open_s=1, max_open_s=4
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def changes() -> list[State]:
    return []


@pytest.fixture
def breaker(clock: FakeClock, changes: list[State]) -> Breaker:
    return Breaker(POLICY, clock, jitter=lambda: 0.0, on_change=changes.append)


def admitted(breaker: Breaker) -> Ticket:
    ticket = breaker.admit()
    assert ticket is not None
    return ticket


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        admitted(breaker).failed()


def succeed(breaker: Breaker, times: int = 1, took_s: float = 0.01) -> None:
    for _ in range(times):
        admitted(breaker).succeeded(took_s)


def test_breaker__walked_through__closes_again(breaker: Breaker, clock: FakeClock, changes: list[State]) -> None:
    """Closed, open, half-open, closed: each for its reason, and told once."""
    fail(breaker, 4)
    assert (breaker.state, breaker.admit()) == (State.OPEN, None)
    clock.advance(0.99)
    assert breaker.admit() is None
    clock.advance(0.01)
    succeed(breaker)
    assert breaker.state is State.CLOSED
    succeed(breaker, 10)
    assert changes == [State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_breaker__few_calls__concludes_nothing(breaker: Breaker) -> None:
    """One bad call, or three, open nothing."""
    fail(breaker, 3)
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize(("successes", "failures", "state"), [(4, 3, State.CLOSED), (3, 3, State.OPEN)])
def test_breaker__share_of_failures__decides(breaker: Breaker, successes: int, failures: int, state: State) -> None:
    """The breaker opens when half of the calls fail, not before."""
    succeed(breaker, successes)
    fail(breaker, failures)
    assert breaker.state is state


@pytest.mark.parametrize(("quick", "slow", "state"), [(2, 5, State.CLOSED), (1, 3, State.OPEN)])
def test_breaker__share_of_slow_calls__decides(breaker: Breaker, quick: int, slow: int, state: State) -> None:
    """A dependency that answers late is left alone before it stops answering."""
    succeed(breaker, quick)
    succeed(breaker, slow, took_s=0.21)
    assert breaker.state is state


def test_breaker__failures_in_a_row_after_many_good_calls__open_at_once(breaker: Breaker, clock: FakeClock) -> None:
    """An outage of slow failures shows although thousands of quick calls went well just before."""
    succeed(breaker, 5000)
    fail(breaker, 3)
    succeed(breaker)
    fail(breaker, 3)
    assert breaker.state is State.CLOSED
    fail(breaker)
    assert breaker.state is State.OPEN


def test_breaker__failures_of_long_ago__are_forgotten(breaker: Breaker, clock: FakeClock) -> None:
    """Only the window counts."""
    fail(breaker, 3)
    clock.advance(POLICY.window_s + 1)
    fail(breaker, 3)
    assert breaker.state is State.CLOSED
    assert repr(breaker) == "<Breaker closed, 3 calls, 3 failed, 0 slow>"


def test_breaker__probes_that_fail__double_the_time_up_to_the_cap(breaker: Breaker, clock: FakeClock) -> None:
    """Each failed probe keeps the dependency alone for twice as long; a success starts over."""
    fail(breaker, 4)
    for open_s in (1, 2, 4, 4):
        clock.advance(open_s - 0.01)
        assert breaker.admit() is None
        clock.advance(0.01)
        fail(breaker)
    clock.advance(4)
    succeed(breaker)
    fail(breaker, 4)
    clock.advance(1)
    assert breaker.admit() is not None


def test_breaker__slow_probe__counts_as_failed(breaker: Breaker, clock: FakeClock) -> None:
    """A dependency that is only just back is not used yet."""
    fail(breaker, 4)
    clock.advance(1)
    succeed(breaker, took_s=0.3)
    assert breaker.state is State.OPEN


def test_breaker__jitter__takes_off_up_to_half(clock: FakeClock) -> None:
    """Processes do not probe together."""
    breaker = Breaker(POLICY, clock, jitter=lambda: 1.0)
    fail(breaker, 4)
    clock.advance(0.49)
    assert breaker.admit() is None
    clock.advance(0.01)
    assert breaker.admit() is not None


def test_breaker__half_open__lets_one_probe_through(breaker: Breaker, clock: FakeClock) -> None:
    """However many ask, the dependency gets one call."""
    fail(breaker, 4)
    clock.advance(1)
    assert sum(breaker.admit() is not None for _ in range(50)) == 1


def test_breaker__probe_whose_caller_left__frees_its_place(breaker: Breaker, clock: FakeClock) -> None:
    """A caller that goes away neither fails the dependency nor blocks the next probe."""
    fail(breaker, 4)
    clock.advance(1)
    probe = admitted(breaker)
    assert breaker.admit() is None
    probe.dropped()
    probe.dropped()
    assert breaker.state is State.HALF_OPEN
    succeed(breaker)
    assert breaker.state is State.CLOSED


def test_breaker__call_that_left__counts_for_nothing(breaker: Breaker) -> None:
    """Clients that go away cannot open a breaker."""
    for _ in range(50):
        admitted(breaker).dropped()
    fail(breaker, 3)
    assert breaker.state is State.CLOSED


def test_breaker__late_end_of_an_earlier_call__changes_nothing(breaker: Breaker, clock: FakeClock) -> None:
    """A call that began before the breaker opened is not the probe, whichever way it ends."""
    late = [admitted(breaker) for _ in range(3)]
    fail(breaker, 4)
    clock.advance(1)
    probe = admitted(breaker)
    late[0].failed()
    late[1].succeeded(0.01)
    late[2].dropped()
    assert breaker.state is State.HALF_OPEN
    assert breaker.admit() is None
    probe.succeeded(0.01)
    assert breaker.state is State.CLOSED


def test_ticket__ended_twice__counts_once(breaker: Breaker) -> None:
    """The first end of a call is its end."""
    for _ in range(2):
        ticket = admitted(breaker)
        ticket.failed()
        ticket.failed()
        ticket.dropped()
    assert repr(breaker) == "<Breaker closed, 2 calls, 2 failed, 0 slow>"


def test_breaker__left_alone_by_default__tells_nobody(clock: FakeClock) -> None:
    """Without somebody to tell, changes are silent."""
    breaker = Breaker(POLICY, clock)
    fail(breaker, 4)
    assert breaker.state is State.OPEN


def test_adopt__while_open__shortens_what_is_left_and_opens_nothing_anew(
    breaker: Breaker, clock: FakeClock, changes: list[State]
) -> None:
    """An operator who allows a breaker less time need not wait for the time it had been given before."""
    fail(breaker, 4)
    breaker.adopt(replace(POLICY, open_s=0.1, max_open_s=0.2))
    clock.advance(0.15)
    assert breaker.admit() is None
    clock.advance(0.1)
    assert breaker.admit() is not None
    assert changes == [State.OPEN, State.HALF_OPEN]


def test_adopt__while_closed__counts_what_was_seen_before(breaker: Breaker) -> None:
    """What is known of the dependency is judged by the new policy, from its next call on."""
    succeed(breaker, 5)
    fail(breaker, 2)
    breaker.adopt(replace(POLICY, failure_ratio=0.3, min_calls=3))
    fail(breaker)
    assert breaker.state is State.OPEN


@pytest.mark.parametrize(("window_s", "state"), [(2.0, State.CLOSED), (10.0, State.OPEN), (60.0, State.OPEN)])
def test_adopt__another_window__keeps_calls_for_as_long_as_it_says(
    breaker: Breaker, clock: FakeClock, window_s: float, state: State
) -> None:
    """Calls keep their time: a shorter window forgets what is older than it, a longer one keeps what there is."""
    fail(breaker, 3)
    clock.advance(4)
    breaker.adopt(replace(POLICY, window_s=window_s))
    fail(breaker)
    assert breaker.state is state


def test_adopt__window_again_and_again__loses_and_invents_nothing(breaker: Breaker) -> None:
    """However often it changes by a little, as many calls are remembered as there were."""
    succeed(breaker, 9)
    fail(breaker, 2)
    for window_s in (3.0, 11.0, 7.0, 20.0, 10.0):
        breaker.adopt(replace(POLICY, window_s=window_s))
    assert repr(breaker) == "<Breaker closed, 11 calls, 2 failed, 0 slow>"
