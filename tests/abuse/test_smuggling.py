"""Requests whose length two machines may read differently.

Invariant: nobody gets two answers for what may be one request, and the connection does not go on.
"""

from tests.abuse.victim import BODY, LIVENESS, Victim, head

HIDDEN = b"0\r\n\r\n" + LIVENESS
"""Five bytes and a request, or the end of a chunked body and a request, or all one body."""
WHOLE = b"Content-Length: %d" % len(HIDDEN)
DOUBTFUL_LENGTHS = [
    [WHOLE, b"Transfer-Encoding: chunked"],
    [b"Transfer-Encoding: chunked", WHOLE],
    [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
    [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
    [b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"],
    [b"Transfer-Encoding: xchunked"],
    [b"Transfer-Encoding: chunked, identity"],
    [b"Transfer-Encoding:\x0bchunked", WHOLE],
    [b"Transfer-Encoding : chunked", WHOLE],
    [b"Transfer-Encoding:\r\n chunked", WHOLE],
    [b"Content-Length: 5", WHOLE],
    [WHOLE, b"Content-Length: 5"],
    [b"Content-Length: 5, 6"],
    [b"Content-Length: +5"],
    [b"Content-Length: -5"],
    [b"Content-Length: 0x5"],
    [b"Content-Length : 5"],
    [b"Content-Length: 5 5"],
]
DOUBTFUL_LINES = [
    head(b"X-Folded: a\r\n b", WHOLE, b"Connection: close") + HIDDEN,
    head(b"X-Folded: a\r\n\tTransfer-Encoding: chunked", WHOLE, b"Connection: close") + HIDDEN,
    head(WHOLE, b"Connection: close").replace(b"\r\n", b"\n") + HIDDEN,
    head(b"X-Bare: a\nTransfer-Encoding: chunked", WHOLE, b"Connection: close") + HIDDEN,
    head(b"X-Bare: a\rTransfer-Encoding: chunked", WHOLE, b"Connection: close") + HIDDEN,
    head(b"X-Nul: a\0b", WHOLE, b"Connection: close") + HIDDEN,
    head(b" Content-Length: 5") + HIDDEN,
]
DOUBTFUL_CHUNKS = [
    b"2a\n%s\n0\n\n",
    b"2a;\n%s\r\n0\r\n\r\n",
    b"2a\r\n%sXX0\r\n\r\n",
    b"0x2a\r\n%s\r\n0\r\n\r\n",
    b" 2a\r\n%s\r\n0\r\n\r\n",
    b"-1\r\n%s\r\n0\r\n\r\n",
    b"fffffffffffffffff2a\r\n%s\r\n0\r\n\r\n",
]


def is_refused_once(told: bytes) -> bool:
    return told.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501")) and told.count(b"HTTP/1.1") == 1


def test_request__of_doubtful_length__is_refused(victim: Victim) -> None:
    """It is refused, once, and what follows it is not looked at."""
    with victim.withstands():
        for target in (b"POST /flags?v=2", b"GET /_liveness"):
            told = {b", ".join(it): victim.answers(head(*it, target=target) + HIDDEN) for it in DOUBTFUL_LENGTHS}
            assert not {headers: answer for headers, answer in told.items() if not is_refused_once(answer)}


def test_request__with_doubtful_lines__brings_no_other_to_light(victim: Victim) -> None:
    """However lines are taken to end, what is hidden in a body is not answered."""
    with victim.withstands():
        told = {sent: victim.answers(sent) for sent in DOUBTFUL_LINES}
        assert not {sent: answer for sent, answer in told.items() if b"HTTP/1.1 200" in answer}


def test_chunks__that_are_none__are_not_guessed_at(victim: Victim) -> None:
    """A chunked body that is not exactly that is refused; the request hidden behind it is not answered."""
    start = head(b"Transfer-Encoding: chunked")
    with victim.withstands():
        told = {chunks: victim.answers(start + chunks % BODY + LIVENESS) for chunks in DOUBTFUL_CHUNKS}
        assert not {chunks: answer for chunks, answer in told.items() if not is_refused_once(answer)}
