"""Pages that use posthog-js as its documentation says, and what a test asks of them.

A page keeps what each call of `onFeatureFlags` said in `seen`, first to last.
"""

import json
from typing import Any

from tests.clients.browser_session import Visit
from tests.clients.stage import TOKEN

_RECORD = """window.seen = [];
posthog.onFeatureFlags((_, variants, told) => seen.push({variants, errorsLoading: Boolean(told?.errorsLoading)}))"""


def script(text: str, nonce: str = "") -> str:
    return f'<script nonce="{nonce}">{text}</script>' if nonce else f"<script>{text}</script>"


def as_script(value: object) -> str:
    """The value as it may stand in a script of a page."""
    return json.dumps(value).replace("<", "\\u003c")


def posthog_page(url: str, *, nonce: str = "", first: str = "", then: str = "", **options: Any) -> str:
    """The body of a page on which posthog-js is told of this server.

    `first` and `then` are scripts that run right before and after it is started.
    """
    wanted = {"api_host": url, **options}
    start = f"posthog.init({as_script(TOKEN)}, Object.assign({as_script(wanted)}, window.options)); {then}; {_RECORD}"
    clients = f'<script src="/clients.js" nonce="{nonce}"></script>'
    return (script(first, nonce) if first else "") + clients + script(start, nonce)


def loaded(visit: Visit) -> None:
    """Return once the flags of the page are there, or could not be had."""
    visit.wait_for("seen.length > 0")


def values(visit: Visit, *keys: str) -> dict[str, Any]:
    """What posthog-js says of these flags; one that it does not know is None."""
    found: dict[str, Any] = visit.run("keys => keys.map(key => [key, posthog.getFeatureFlag(key) ?? null])", keys)
    return dict(found)


def refresh(visit: Visit, then: str = "posthog.reloadFeatureFlags()") -> None:
    """Return once flags were fetched again because of this script, or could not be."""
    before = visit.run("seen.length")
    visit.run(f"() => {{ {then} }}")
    visit.wait_for("before => seen.length > before", before)


def ofrep_page(url: str, context: dict[str, Any] | None, *, token: str = TOKEN, **options: Any) -> str:
    """The body of a page on which OpenFeature's own provider is told of this server, and of this context if any.

    What the provider tells of itself is in `heard`; `ready` is true once it has settled, for good or ill.
    """
    wanted = {"baseUrl": url, "headers": [["Authorization", f"Bearer {token}"]], **options}
    return '<script src="/clients.js"></script>' + script(
        f"""window.heard = []; window.client = OpenFeature.getClient();
        for (const event of Object.values(ProviderEvents)) OpenFeature.addHandler(event, () => heard.push(event));
        OpenFeature.setContext({as_script(context or {})})
            .then(() => OpenFeature.setProviderAndWait(new OFREPWebProvider({as_script(wanted)})))
            .catch(() => null).then(() => window.ready = true)"""
    )


DEFAULTS = {"Boolean": False, "String": "default", "Number": -1, "Object": {"default": True}}


def details(visit: Visit, kind: str, key: str, domain: str | None = None) -> dict[str, Any]:
    """All that OpenFeature says of a flag when it is asked for this kind of value."""
    found: dict[str, Any] = visit.run(
        "([domain, kind, key, other]) => OpenFeature.getClient(...domain)[`get${kind}Details`](key, other)",
        [[domain] if domain else [], kind, key, DEFAULTS[kind]],
    )
    return found


def set_context(visit: Visit, context: dict[str, Any]) -> None:
    """Return once the provider is through with this context."""
    visit.run("context => OpenFeature.setContext(context)", context)
