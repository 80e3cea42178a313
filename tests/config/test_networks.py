"""Sets of addresses as an operator writes them."""

import pickle
from ipaddress import ip_address

import pytest

from config.edge import Proxies
from config.networks import Networks
from config.settings import Settings, check


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["11.0.0.0", "::1", "9.255.255.255"]),
        (" 192.0.2.7 , 198.51.100.0/24,", ["192.0.2.7", "198.51.100.200"], ["192.0.2.8"]),
        ("fd00::/8,::1", ["fd12::1", "::1"], ["fe80::1", "127.0.0.1"]),
        ("10.1.2.3/8", ["10.9.9.9"], ["11.1.2.3"]),
        ("::ffff:10.0.0.0/104", ["10.9.9.9"], ["11.1.2.3"]),
        ("::ffff:0:0/90", ["::ffff:1.2.3.4"], ["1.2.3.4"]),
        ("", [], ["127.0.0.1", "::1", "0.0.0.0"]),
    ],
)
def test_networks__written__hold_what_they_say(text: str, inside: list[str], outside: list[str]) -> None:
    """Networks, single addresses and both versions of IP; an empty text holds nobody."""
    networks = Networks(text)
    assert all(ip_address(address) in networks for address in inside)
    assert not any(ip_address(address) in networks for address in outside)
    assert bool(networks) is bool(inside)
    assert list(networks.problems()) == []


@pytest.mark.parametrize("text", ["10.0.0.0/33", "localhost", "*", "10.0.0", "fe80::1%eth0/64"])
def test_networks__part_that_is_none__is_a_problem_and_holds_nobody(text: str) -> None:
    """A slip of the pen is told, and never trusts anybody."""
    problems = check(Settings(proxies=Proxies(trusted=Networks(f"192.0.2.7, {text}"))))
    assert [problem.paths for problem in problems] == [("proxies.trusted",)]
    assert f'"{text}"' in problems[0].message
    assert not Networks(text)


def test_networks__compared_and_shown__are_their_text() -> None:
    """Two sets are the same when they are written the same, also in another process."""
    networks = Networks("10.0.0.0/8")
    assert networks == Networks("10.0.0.0/8")
    assert networks != Networks("11.0.0.0/8")
    assert networks != "10.0.0.0/8"
    assert hash(networks) == hash(Networks("10.0.0.0/8"))
    assert (str(networks), repr(networks)) == ("10.0.0.0/8", "Networks('10.0.0.0/8')")
    assert pickle.loads(pickle.dumps(networks)) == networks
