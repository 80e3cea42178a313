"""Whoever watches a drill for what must never happen: a wrong answer, and an instance that says it is ready and is not.

That requests fail is not looked at here; the load counts them. Invariant: a flag is right when it is as it was when all
was well, or says itself that it failed; and an instance that ends while it is asked has done nothing wrong.
"""

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from drills.flagstone import Instance

PERIOD_S: Final = 0.1
TIMEOUT_S: Final = 3.0
PATIENCE_S: Final = 30.0
"""How long answers may take to be whole before there is nothing to compare with."""
LOOKS_AT_ONCE: Final = 64
SOURCE: Final = "127.0.0.2"
"""Where it asks from. From 127.0.0.1 it would be taken for a balancer that names nobody."""

BUSY: Final = "The server is busy. Please try again in a moment."
"""What an instance says that has more to do than it can."""

Flags = Mapping[str, Mapping[str, Any]]


class Seen(msgspec.Struct, frozen=True):
    """Something that went wrong. `at` is in seconds since 1970, `what` tells flag, expected, and got."""

    at: float
    is_wrong: bool
    is_unready: bool
    what: str


class NotHealthy(Exception):
    """Answers are not whole, or not the same everywhere, though nothing is wrong yet; the text is the last trouble."""


class Witness:
    """Asks `url` and, one after the other, each instance itself for the flags of these requests, ten times a second."""

    def __init__(self, url: str, instances: Sequence[Instance], bodies: Sequence[bytes]) -> None:
        self.seen: list[Seen] = []
        self._url = url
        self._instances = instances
        self._bodies = bodies
        self._healthy: dict[bytes, Flags] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)
        self._looks: list[Future[None]] = []

    def __repr__(self) -> str:
        return f"<Witness of {len(self._bodies)} requests, {len(self.seen)} seen>"

    def begin(self) -> None:
        """Watch from now on, once it is known what is right. Raises NotHealthy."""
        self.learn()
        self._thread.start()

    def learn(self) -> None:
        """Take what everybody answers now for right, once that is whole and the same. Raises NotHealthy."""
        ends_at = time.monotonic() + PATIENCE_S
        learnt: dict[bytes, Flags] = {}
        while len(learnt) < len(self._bodies):
            try:
                learnt = {body: self._agreed(body) for body in self._bodies}
            except (NotHealthy, OSError, http.client.HTTPException) as error:
                if time.monotonic() > ends_at:
                    raise NotHealthy(f"no whole answers after {PATIENCE_S:g} s: {error!r}") from error
                time.sleep(PERIOD_S)
        self._healthy = learnt

    def end(self) -> None:
        """No longer. Raises what kept it from watching, if anything did."""
        self._is_over.set()
        with suppress(RuntimeError):  # It never began.
            self._thread.join(PATIENCE_S)
        for look in self._looks:
            look.result()

    def _agreed(self, body: bytes) -> Flags:
        """What a request is answered with by all who are ready."""
        ready = [instance for instance in self._instances if instance.is_ready()]
        answers = [_asked(url, body) for url in (self._url, *(instance.url for instance in ready))]
        for status, answer in answers:
            if status != http.HTTPStatus.OK or answer.get("errorsWhileComputingFlags") is not False:
                raise NotHealthy(f"{status}: {answer}")
        flags: Flags = answers[0][1]["flags"]
        for _, answer in answers:
            if found := [*differences(flags, answer), *differences(answer["flags"], answers[0][1])]:
                raise NotHealthy(f"not the same everywhere: {'; '.join(found)}")
        return flags

    def _watch(self) -> None:
        whom = itertools.cycle(itertools.product(self._bodies, self._instances))
        with ThreadPoolExecutor(LOOKS_AT_ONCE, "witness") as pool:
            for body, instance in whom:
                if self._is_over.wait(PERIOD_S):
                    break
                self._looks = [look for look in self._looks if not look.done() or look.exception()]
                self._looks += [pool.submit(self._look, body), pool.submit(self._look_at, instance, body)]

    def _look(self, body: bytes) -> None:
        with suppress(OSError, http.client.HTTPException):
            healthy = self._healthy[body]
            status, answer = _asked(self._url, body)
            if status == http.HTTPStatus.OK:
                self._compare(healthy, answer, body, "a client")

    def _look_at(self, instance: Instance, body: bytes) -> None:
        """Ask an instance that says it is ready."""
        if not instance.is_ready():
            return
        healthy = self._healthy[body]
        try:
            status, answer = _asked(instance.url, body)
        except TimeoutError:
            self._was_unready(f"{instance.name} did not answer within {TIMEOUT_S:g} s")
            return
        except (OSError, http.client.HTTPException) as error:
            told = f"did not answer: {error!r}"
        else:
            if status == http.HTTPStatus.OK:
                self._compare(healthy, answer, body, instance.name)
                return
            if status == http.HTTPStatus.TOO_MANY_REQUESTS or answer.get("unreadable") == BUSY:
                return  # It could have answered, and chose not to.
            told = f"answered {status}: {answer}"
        # One that has just ended, or no longer says so, has just stopped to be asked.
        if instance.is_ready():
            self._was_unready(f"{instance.name} {told}")

    def _compare(self, healthy: Flags, answer: dict[str, Any], body: bytes, who: str) -> None:
        found = list(differences(healthy, answer))
        # What was learnt while it was asked is as right.
        if found and (found := list(differences(self._healthy[body], answer))):
            whose = json.loads(body).get("distinct_id")
            self.seen.append(
                Seen(time.time(), is_wrong=True, is_unready=False, what=f"{who}, {whose}: {'; '.join(found)}")
            )

    def _was_unready(self, what: str) -> None:
        self.seen.append(Seen(time.time(), is_wrong=False, is_unready=True, what=what))


def differences(healthy: Flags, answer: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with an answer: flags that are not as when all was well, and do not say that they failed."""
    flags = answer.get("flags")
    if not isinstance(flags, dict):
        yield f"no flags, but {answer}"
        return
    for key, record in healthy.items():
        got = flags.get(key)
        if not isinstance(got, dict):
            yield f"{key}: expected {_said(record)}, got {got}"
        elif got.get("failed") and not got.get("enabled"):
            if answer.get("errorsWhileComputingFlags") is not True:
                yield f"{key}: failed, but the answer calls itself whole"
        elif _said(got) != _said(record):
            yield f"{key}: expected {_said(record)}, got {_said(got)}"


def _said(record: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """The value, the variant and the payload."""
    return record.get("enabled"), record.get("variant"), (record.get("metadata") or {}).get("payload")


def _asked(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the answer, on a connection of its own, with no flags in it when it cannot be read."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S, source_address=(SOURCE, 0))
    try:
        connection.request("POST", "/flags?v=2", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    try:
        told = json.loads(data)
    except ValueError:
        told = None
    return answer.status, told if isinstance(told, dict) else {"unreadable": data.decode(errors="replace")[:200]}
