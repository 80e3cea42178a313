"""When certificates expire, as made for the occasion: one alone, a chain, and files that are none."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import trustme

from gateway.server.certificate import expires_at
from tests.conftest import ServerProcess

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
SOON = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certificate(authority: trustme.CA, expires: datetime) -> str:
    return authority.issue_cert("localhost", not_after=expires).cert_chain_pems[0].bytes().decode()


@pytest.mark.parametrize("expires", [SOON, datetime(2051, 1, 2, tzinfo=UTC), datetime(1999, 12, 31, tzinfo=UTC)])
def test_expires_at__a_certificate__is_its_end(tmp_path: Path, authority: trustme.CA, expires: datetime) -> None:
    """Past or future, in either of the two ways in which years are written."""
    issued = authority.issue_cert("localhost", not_before=expires - timedelta(days=9), not_after=expires)
    (tmp_path / "a.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    assert expires_at(str(tmp_path / "a.pem")) == expires.timestamp()


def test_expires_at__a_chain__is_the_end_of_the_first_to_end(tmp_path: Path, authority: trustme.CA) -> None:
    """A chain holds no longer than its weakest part; what stands between the parts is nobody's business."""
    later, sooner = (certificate(authority, SOON + timedelta(days=days)) for days in (9, 0))
    (tmp_path / "a.pem").write_text(f"a comment\n{later}another one: ü\n{sooner}")
    assert expires_at(str(tmp_path / "a.pem")) == SOON.timestamp()


@pytest.mark.parametrize(
    "text",
    ["", "nothing", *(f"{BEGIN}\n{it}\n{END}\n" for it in ("MA==", "!", "MAMwAQE="))],
)
def test_expires_at__no_certificate__is_not_told(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file, nothing is raised and nothing is made up."""
    (tmp_path / "a.pem").write_text(text)
    assert expires_at(str(tmp_path / "a.pem")) is None
    assert expires_at(str(tmp_path / "missing.pem")) is None


def test_certificate__served__is_watched_in_the_metrics(
    tmp_path: Path, authority: trustme.CA, start_server: Callable[..., ServerProcess]
) -> None:
    """What is served is what the metrics tell the end of, beside what there is of the process and its container."""
    issued = authority.issue_cert("localhost", not_after=SOON)
    issued.cert_chain_pems[0].write_to_path(tmp_path / "a.pem")
    issued.private_key_pem.write_to_path(tmp_path / "a.key")
    files = (f"server.tls_certificate={tmp_path / 'a.pem'}", f"server.tls_key={tmp_path / 'a.key'}")
    server = start_server("--demo", *(it for setting in files for it in ("--set", setting))).wait_until_ready()
    told = httpx.get(server.metrics_url).text
    (moment,) = re.findall(r'^flagstone_certificate_expires_timestamp_seconds\{worker="0"\} (\S+)$', told, re.MULTILINE)
    assert float(moment) == SOON.timestamp()
    for name in ("cpu_seconds_total", "max_descriptors"):
        (value,) = re.findall(rf'^flagstone_{name}\{{worker="0"\}} (\S+)$', told, re.MULTILINE)
        assert float(value) > 0
    assert told.count("\n# TYPE flagstone_container_memory_bytes gauge\n") == 1
