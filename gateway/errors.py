"""The GatewayError family: everything a request can be refused with, in one table.

Services raise these, endpoints let them pass, and the boundary at the edge sends them, as refusing.py says. An
infrastructure failure is never a 401. Clients retry only 502 and 504, so shedding uses 503.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from evaluator.types import Problem


class GatewayError(Exception):
    """A refusal: `code` is stable, `detail` is for people, `retry_after_s` becomes an integer Retry-After."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    json_body: ClassVar[bool] = True
    """PostHog answers some errors as text/plain; its SDKs show the text."""

    def __init__(self, detail: str, *, retry_after_s: int | None = None, allow: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.allow = allow
        self.headers: list[tuple[bytes, bytes]] = []
        self.members: Mapping[str, object] = {}
        """What a JSON body has beside its usual members."""


class BadRequest(GatewayError):
    status = 400
    type = "validation_error"
    code = "invalid_request"
    json_body = False


class MissingToken(BadRequest):
    code = "missing_token"
    json_body = True

    def __init__(self) -> None:
        super().__init__("The token parameter is missing. Please put the project's public token into the query.")


class MissingDistinctId(BadRequest):
    code = "missing_distinct_id"

    def __init__(self) -> None:
        super().__init__("The distinct_id field is missing from the request. Please include a valid identifier.")


class UndecodableBody(BadRequest):
    code = "undecodable_body"

    def __init__(self, why: str) -> None:
        super().__init__(f"Failed to decode request: {why}. Please check your request format and try again.")
        self.why = why


class InvalidContext(GatewayError):
    """An OFREP context in which something has the wrong type."""

    status = 400
    type = "validation_error"
    code = "invalid_context"


class TargetingKeyMissing(GatewayError):
    """An OFREP context that names nobody."""

    status = 400
    type = "validation_error"
    code = "targeting_key_missing"

    def __init__(self) -> None:
        super().__init__("The context has no targetingKey, or an empty one.")


class UnreadableBody(BadRequest):
    code = "unreadable_body"

    def __init__(self) -> None:
        super().__init__("Failed to buffer the request body")


class BodyTimeout(GatewayError):
    status = 408
    type = "validation_error"
    code = "body_timeout"
    json_body = False

    def __init__(self) -> None:
        super().__init__("The request body did not arrive in time. Please try again.")


class BodyTooLarge(GatewayError):
    status = 413
    type = "validation_error"
    code = "body_too_large"
    json_body = False

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request body is larger than {limit_bytes} bytes.")


class AmbiguousLength(BadRequest):
    code = "ambiguous_length"

    def __init__(self) -> None:
        super().__init__("The request has both Content-Length and Transfer-Encoding.")


class CleartextHttp2(GatewayError):
    status = 421
    type = "validation_error"
    code = "cleartext_http2"
    json_body = False

    def __init__(self) -> None:
        super().__init__("HTTP/2 is spoken over TLS only. Please use HTTP/1.1 here.")


class HeadersTooLarge(GatewayError):
    status = 431
    type = "validation_error"
    code = "headers_too_large"
    json_body = False

    def __init__(self) -> None:
        super().__init__("The request has too many headers, or they are too large.")


class NotFound(GatewayError):
    status = 404
    type = "invalid_request"
    code = "not_found"

    def __init__(self, detail: str = "Not found.") -> None:
        super().__init__(detail)


class FlagNotFound(NotFound):
    code = "flag_not_found"

    def __init__(self, key: str) -> None:
        super().__init__(f"There is no flag {key!r} for this caller.")


class MethodNotAllowed(GatewayError):
    status = 405
    type = "invalid_request"
    code = "method_not_allowed"

    def __init__(self, allow: str) -> None:
        super().__init__(f"Method not allowed. Allowed: {allow}.", allow=allow)


class NotAuthenticated(GatewayError):
    status = 401
    type = "authentication_error"
    code = "not_authenticated"

    def __init__(
        self, detail: str = "No API token provided. Please include a valid API token in your request."
    ) -> None:
        super().__init__(detail)


class AuthenticationFailed(GatewayError):
    status = 401
    type = "authentication_error"
    code = "authentication_failed"

    def __init__(
        self, detail: str = "The provided API key is invalid or has expired. Please check your API key and try again."
    ) -> None:
        super().__init__(detail)


class PermissionDenied(GatewayError):
    """The credential is good, and not for this."""

    status = 403
    type = "authentication_error"
    code = "permission_denied"


class Invalid(GatewayError):
    """What was sent would not work; `problems` has everything wrong with it, each with its path."""

    status = 400
    type = "validation_error"
    code = "invalid_input"

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__(f"{first.path}: {first.message}" + ("; and more" if len(problems) > 1 else ""))
        self.problems = tuple(problems)
        self.members = {
            "attr": first.path,
            "problems": [{"code": it.code, "path": it.path, "message": it.message} for it in problems],
        }


class Conflict(GatewayError):
    """Somebody else was first; `version` is what is there now."""

    status = 409
    type = "validation_error"
    code = "conflict"

    def __init__(self, detail: str, version: int | None = None) -> None:
        super().__init__(detail)
        self.members = {"version": version}


class ReadOnlyStore(GatewayError):
    status = 409
    type = "invalid_request"
    code = "read_only_store"

    def __init__(self) -> None:
        super().__init__("The store is a file, which is edited by hand: nothing can be managed through the API.")


class Unavailable(GatewayError):
    """Nothing is left to answer from: no snapshot of the project in any tier."""

    status = 503
    type = "server_error"
    code = "dependency_unavailable"
    json_body = False

    def __init__(self) -> None:
        super().__init__("A service dependency is temporarily unavailable. Please try again later.", retry_after_s=1)


class Stopping(GatewayError):
    """The process is told to stop, and the time for requests in flight is over."""

    status = 503
    code = "stopping"
    json_body = False

    def __init__(self) -> None:
        super().__init__("The server is stopping. Please try again.", retry_after_s=1)


class Overloaded(GatewayError):
    """More is asked than can be answered in time."""

    status = 503
    code = "overloaded"
    json_body = False

    def __init__(self) -> None:
        super().__init__("The server is busy. Please try again in a moment.", retry_after_s=1)


class LocalEvaluationUnsupported(GatewayError):
    """SDKs would find other values than the service does."""

    status = 400
    type = "invalid_request"
    code = "local_evaluation_unsupported"


class UndecryptablePayload(GatewayError):
    code = "remote_config_decrypt_failed"

    def __init__(self) -> None:
        super().__init__("The payload of this flag is encrypted, and there are no keys here to decrypt it with.")


class OverQuota(GatewayError):
    """The project has used what it has for this day or month."""

    status = 402
    type = "quota_limited"
    code = "payment_required"

    def __init__(self) -> None:
        super().__init__("You have exceeded your feature flag request quota")


class RateLimited(GatewayError):
    """Somebody asks too often. The numbers are those of the rate that decided; times are in whole seconds."""

    status = 429
    type = "validation_error"
    code = "rate_limit_exceeded"

    def __init__(self, limit: int, remaining: int, reset_s: int, retry_after_s: int) -> None:
        super().__init__("Rate limit exceeded", retry_after_s=retry_after_s)
        self.headers = [
            (b"ratelimit-limit", b"%d" % limit),
            (b"ratelimit-remaining", b"%d" % remaining),
            (b"ratelimit-reset", b"%d" % reset_s),
        ]


class InternalError(GatewayError):
    def __init__(self) -> None:
        super().__init__("An internal error occurred. Please try again later.")


class StoreError(Exception):
    """A backend failed. Adapters raise only these; `missing_code` is what a flag that needed it reports."""

    missing_code: ClassVar[str] = "database_error"


class StoreTimeout(StoreError):
    missing_code = "timeout"


class StoreUnavailable(StoreError):
    missing_code = "database_unavailable"
