"""The edge where every exception ends: a GatewayError is sent as it says, anything else as a 500.

It stands inside CORS and the record, so that a refusal carries the same headers as any other answer. Invariant:
nothing is raised further once an answer can still be sent.
"""

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import GatewayError, InternalError
from gateway.refusing import reject
from gateway.telemetry import RequestRecord, log_event


class ErrorBoundary:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record: RequestRecord = scope["state"]["record"]
        try:
            await self._app(scope, receive, send)
        except GatewayError as error:
            record.error = error.code
            await reject(send, error)
        except Exception as error:
            record.error = InternalError.code
            log_event("request_crashed", logging.ERROR, request_id=record.request_id, exception=error)
            if record.status is not None:
                raise  # The answer has begun; only closing the connection can tell the client.
            await reject(send, InternalError())
