"""W3C Trace Context, to the letter: what is taken, what is passed over, and what is told to others."""

import pytest

from gateway.traces import Parent, Trace
from gateway.wire.trace_context import MAX_MEMBERS, headers_of, parent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def parse(*traceparents: str, states: tuple[str, ...] = ()) -> Parent | None:
    return parent_of(
        [
            (b"host", b"x"),
            *((b"traceparent", it.encode("latin-1")) for it in traceparents),
            *((b"tracestate", it.encode("latin-1")) for it in states),
        ]
    )


@pytest.mark.parametrize(
    ("traceparent", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be", True),
    ],
)
def test_parent_of__as_the_standard_has_it__is_taken(traceparent: str, is_sampled: bool) -> None:
    """Also of versions to come, of which the beginning is understood."""
    assert parse(traceparent) == Parent(TRACE, SPAN, is_sampled, "")


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0x",
        f"0-{TRACE}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"zz-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01x",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        f"00-{TRACE[:-1]}\xb2-{SPAN}-01",
    ],
)
def test_parent_of__anything_else__is_passed_over(traceparent: str) -> None:
    """What is nearly right is not guessed at."""
    assert parse(traceparent) is None


def test_parent_of__several_or_none__is_passed_over() -> None:
    """Nobody can tell which of two is meant, and a state without a parent says nothing."""
    good = f"00-{TRACE}-{SPAN}-01"
    assert parse(good, good) is None
    assert parse(states=("vendor=x",)) is None


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        (("a=1",), "a=1"),
        (("a=1,b=2", "c=3"), "a=1,b=2,c=3"),
        ((" a=1 ,\tb=2\t, ,",), "a=1,b=2"),
        (("4tenant@vendor=x y;z",), "4tenant@vendor=x y;z"),
        ((",".join(f"k{i}=v" for i in range(MAX_MEMBERS)),), ",".join(f"k{i}=v" for i in range(MAX_MEMBERS))),
        ((",".join(f"k{i}=v" for i in range(MAX_MEMBERS + 1)),), ""),
        (("a=1,a=2",), ""),
        (("a=1,B=2",), ""),
        (("a=1,b",), ""),
        (("a=",), ""),
        (("a=b=c\xe9",), ""),
        (("a@b@c=1",), ""),
        (("a=1\r\nx-evil: 1",), ""),
        (("a" * 257 + "=1",), ""),
        (("a=" + "1" * 257,), ""),
        (("a=" + "1" * 256,), "a=" + "1" * 256),
        (("",), ""),
    ],
)
def test_parent_of__state__goes_on_whole_or_not_at_all(states: tuple[str, ...], kept: str) -> None:
    """One bad member spoils the state, and never the trace."""
    assert parse(f"00-{TRACE}-{SPAN}-01", states=states) == Parent(TRACE, SPAN, True, kept)


def test_headers_of__own_span__is_what_others_are_part_of() -> None:
    """Whoever is called next belongs below this service's span, in the same trace, with the state of all before."""
    trace = Trace(Parent(TRACE, SPAN, True, "a=1"))
    assert trace.span_id != SPAN
    told = dict(headers_of(trace))
    assert told == {b"traceparent": f"00-{TRACE}-{trace.span_id}-01".encode(), b"tracestate": b"a=1"}
    assert parent_of(list(told.items())) == Parent(TRACE, trace.span_id, True, "a=1")


def test_headers_of__not_sampled__is_the_caller_s_own() -> None:
    """There is no span here to be below, so that the caller's stands."""
    assert headers_of(Trace(Parent(TRACE, SPAN, False, ""))) == [(b"traceparent", f"00-{TRACE}-{SPAN}-00".encode())]


def test_headers_of__begun_here__can_be_read_again() -> None:
    """Ids made here are as the standard has them."""
    trace = Trace(None)
    assert parent_of(headers_of(trace)) == Parent(trace.trace_id, trace.span_id, True, "")
