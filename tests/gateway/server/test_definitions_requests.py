"""Definitions and remote config from a real server: bodies that are compressed, and answers without one.

What is in them is tested where they are made. Invariant: all requests go over one connection, so that an answer whose
end is not where its headers say spoils the next.
"""

import json
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.builders import flag, project
from tests.conftest import PATIENCE_S, ServerProcess

TOKEN = {"token": "phc_test"}
SECRET = {"authorization": "Bearer phs_one"}


def test_definitions__on_either_engine__end_where_they_say(
    start_server: Callable[..., ServerProcess], engine: str, tmp_path: Path
) -> None:
    """An SDK polls over one connection: all of it, nothing new, all of it uncompressed, headers alone, and again."""
    flags = [flag(f"flag-{number}", id=number) for number in range(1, 500)]
    empty = flag("empty", id=500, is_remote_configuration=True)
    store = tmp_path / "project.json"
    store.write_text(json.dumps({"projects": [project(*flags, empty, secret_tokens=["phs_one"])]}))
    settings = (f"server.engine={engine}", f"store.url=file:{store}", "requests.budget_ms=60000")
    server = start_server(*(it for setting in settings for it in ("--set", setting))).wait_until_ready()
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    with httpx.Client(base_url=server.url, headers=SECRET, params=TOKEN, limits=limits, timeout=PATIENCE_S) as client:
        first = client.get("/flags/definitions")
        assert (first.status_code, first.headers["content-encoding"]) == (200, "gzip")
        assert len(first.json()["flags"]) == 499
        known = client.get("/flags/definitions", headers={"if-none-match": first.headers["etag"]})
        assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", first.headers["etag"])
        plain = client.get("/api/feature_flag/local_evaluation", headers={"accept-encoding": "identity"})
        assert (plain.content, plain.headers["etag"]) == (first.content, first.headers["etag"])
        head = client.head("/flags/definitions")
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])
        config = client.get("/api/projects/1/feature_flags/empty/remote_config", params={"token": ""})
        assert (config.status_code, config.content) == (200, b"")
        assert client.get("/flags/definitions").content == first.content
        connections = {it.extensions["network_stream"].get_extra_info("client_addr") for it in (first, head, config)}
        assert len(connections) == 1
