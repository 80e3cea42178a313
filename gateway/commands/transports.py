"""The two ways to the management API: over HTTP, or in process straight on the store. Both take the same call.

What is asked and what is made of the answer lives in the commands. Invariant: a call ends, with the service's answer or
with CommandFailed, and an upload never has more of its file in memory than a few parts.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from getpass import getuser
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from config.reload import Live
from config.settings import Settings
from gateway.commands import CommandFailed
from gateway.editing_ports import Actor
from gateway.refusing import Message, Send
from gateway.telemetry import TextFormatter, logger

MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
"""More than any document that the API takes or gives; beyond it something else is answering."""

JSON: Final = "application/json"

Content = bytes | Iterator[bytes]
"""A whole body, or the parts of one that is sent as it is read."""

App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]


class Answer(NamedTuple):
    """What the API answered; names of headers are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    def value(self) -> Any:
        """The body, which is JSON."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise CommandFailed(f"The answer is not one of flagstone's management API: {error}") from None


class Transport(Protocol):
    def call(self, method: str, path: str, content: Content = b"", media_type: str = JSON) -> Answer:
        """What the API answers; `path` is quoted and may have a query."""
        ...


class HttpTransport:
    """Each call on a connection of its own, as there may be minutes between two. Redirects are not followed: the key
    would go wherever they point."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._url = _checked(url)
        self._timeout_s = timeout_s
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": "flagstone", "Connection": "close"}
        if not (key.isascii() and key.isprintable() and key and " " not in key):
            raise CommandFailed("The key has characters that no key has.")

    def call(self, method: str, path: str, content: Content = b"", media_type: str = JSON) -> Answer:
        connection = self._connection()
        headers = {**self._headers, "Content-Type": media_type} if content else self._headers
        try:
            # Whoever answers before the end of a body, closes.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, self._url.path.rstrip("/") + path, content or None, headers)
            return _read(connection.getresponse())
        except TimeoutError:
            raise CommandFailed(f"{self._where} did not answer within {self._timeout_s:g} s.") from None
        except HTTPException as error:
            raise CommandFailed(f"{self._where} broke off ({type(error).__name__}).") from None
        except OSError as error:
            raise CommandFailed(f"{self._where} cannot be reached: {error.strerror or error}") from None
        finally:
            connection.close()

    @property
    def _where(self) -> str:
        return f"{self._url.scheme}://{self._url.netloc}"

    def _connection(self) -> HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            return HTTPSConnection(host, port, timeout=self._timeout_s, context=ssl.create_default_context())
        return HTTPConnection(host, port, timeout=self._timeout_s)


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or parts.query or parts.fragment or parts.username is not None:
        raise CommandFailed("The URL of the API must be like https://flags.example.com, with nothing more than a path.")
    return parts


def _read(response: HTTPResponse) -> Answer:
    body = response.read(MAX_ANSWER_BYTES + 1)
    if len(body) > MAX_ANSWER_BYTES:
        raise CommandFailed(f"The answer is larger than {MAX_ANSWER_BYTES} bytes.")
    if response.length:  # A bounded read of the library's does not mind.
        raise IncompleteRead(body, response.length)
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


class LocalTransport:
    """Drives the API's own app, as somebody who needs no key: who can open the store may do everything."""

    def __init__(self, runner: asyncio.Runner, app: App, actor: Actor) -> None:
        self._runner = runner
        self._app = app
        self._actor = actor
        self.has_written = False

    def call(self, method: str, path: str, content: Content = b"", media_type: str = JSON) -> Answer:
        answer = self._runner.run(self._call(method, path, content, media_type))
        self.has_written = self.has_written or (method != "GET" and answer.status < 300)
        return answer

    async def _call(self, method: str, path: str, content: Content, media_type: str) -> Answer:
        plain, _, query = path.partition("?")
        parts = iter([content]) if isinstance(content, bytes) else content
        scope: Message = {
            "type": "http",
            "method": method,
            "path": unquote(plain),
            "raw_path": plain.encode(),
            "query_string": query.encode(),
            "headers": [(b"content-type", media_type.encode())] if content else [],
            "state": {"actor": self._actor},
        }
        sent: list[Message] = []
        has_more = True

        async def receive() -> Message:
            nonlocal has_more
            if not has_more:
                await asyncio.get_running_loop().create_future()  # Who waits for us to go away is ended by the answer.
            # Read here and not in a thread: nothing else runs, and Ctrl-C must reach whoever waits for the file.
            part = next(parts, None)
            has_more = part is not None
            return {"type": "http.request", "body": part or b"", "more_body": has_more}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0].get("headers", [])}
        return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


@contextmanager
def open_local(settings: Settings) -> Iterator[LocalTransport]:
    """The API over the store that the settings name. What was written is published before it is closed, as there need
    be no service running that would."""
    # A client of a running service needs nothing of what the service is made of.
    from gateway.api.app import ManagementApi
    from gateway.wiring import open_store, publish

    with _telling(), asyncio.Runner() as runner:
        opened = AsyncExitStack()
        try:
            store = runner.run(opened.enter_async_context(open_store(settings)))
            transport = LocalTransport(runner, ManagementApi(store.managed, Live(settings)), Actor(f"cli:{_user()}"))
            try:
                yield transport
            finally:
                if transport.has_written:
                    runner.run(publish(store, settings))
        finally:
            runner.run(opened.aclose())


@contextmanager
def _telling() -> Iterator[None]:
    """Warnings go to stderr meanwhile: nobody else has the reason when a store cannot be reached."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(TextFormatter())
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # A container may run under a number that has no name.
        return str(os.getuid())
