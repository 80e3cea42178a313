"""When a certificate expires, read from its file: the standard library tells that of the other side's only.

Invariant: what is no certificate has no moment; whether TLS can be spoken with it is not judged here.
"""

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION: Final = 0xA0
_LAYOUTS: Final = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
"""Of moments, by their tag."""


def expires_at(path: str) -> float | None:
    """The Unix time at which the first one of the certificates in this file expires; None if that cannot be told."""
    try:
        texts = _PEM.findall(Path(path).read_text(encoding="ascii", errors="replace"))
        return min((_not_after(ssl.PEM_cert_to_DER_cert(text)) for text in texts), default=None)
    except (OSError, ValueError, IndexError, KeyError):
        return None


def _not_after(der: bytes) -> float:
    """Certificate -> what is signed: version, serial number, algorithm, issuer, validity, and more."""
    _, certificate = _parts(der)[0]
    _, signed = _parts(certificate)[0]
    parts = [content for tag, content in _parts(signed) if tag != _VERSION]
    tag, moment = _parts(parts[3])[1]
    return datetime.strptime(moment.decode("ascii"), _LAYOUTS[tag]).replace(tzinfo=UTC).timestamp()


def _parts(der: bytes) -> list[tuple[int, bytes]]:
    """The tag and the content of each element that stands here one after the other."""
    found, at = [], 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            wide = length & 0x7F
            length, at = int.from_bytes(der[at : at + wide], "big"), at + wide
        found.append((tag, der[at : at + length]))
        at += length
    return found
