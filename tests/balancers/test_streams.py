"""Streams of events through HAProxy and nginx as `deploy/` has them."""

from tests.balancers.conftest import Balancer
from tests.processes.listening import Listener


def test_stream__through_a_balancer__comes_at_once_and_stays(before_flagstone: Balancer) -> None:
    """streams.heartbeat_s: the default is often enough for the timeouts of both, and neither keeps anything back."""
    with Listener(before_flagstone.port) as listener:
        assert listener.begun().status == 200
        assert listener.signs_of_life == 0
        listener.wait_for(lambda it: it.signs_of_life)
