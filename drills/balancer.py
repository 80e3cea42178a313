"""HAProxy as `deploy/haproxy.cfg` has it, before the instances of a drill; and how addresses get into such files.

Invariant: only the lines that are marked for a change are changed, and what is asked to know who is ready; a file that
has lost such a line is refused.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from drills.servers import Server, accepts, found

BACKENDS: Final = ("192.0.2.11:8000", "192.0.2.12:8000")
"""The addresses in the files, which are nobody's."""
CHECK: Final = "/_readiness"


class HAProxy(Server):
    """HAProxy before whoever listens on these ports of 127.0.0.1, told apart by what they answer to `check`."""

    def __init__(self, ports: Sequence[int], check: str = CHECK) -> None:
        super().__init__("haproxy")
        text = _deployed("haproxy.cfg").read_text(encoding="utf-8")
        asked = f"http-check send meth GET uri {CHECK} "
        if text.count(asked) != 1:
            raise ValueError(f"haproxy.cfg must have one line with {asked!r}")
        text = addressed(text.replace(f" {CHECK} ", f" {check} "), "bind :8080", [f"127.0.0.1:{self.port}"], ports)
        self._configuration = self.write("haproxy.cfg", text)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.launch([found("haproxy"), "-f", self._configuration], lambda: accepts(self.port))


def addressed(text: str, listens: str, addresses: Sequence[str], ports: Sequence[int]) -> str:
    """The text with its line `listens` once for each address, and one for a backend at each of these ports."""
    line = _marked(text, listens)
    keyword = listens.split(maxsplit=1)[0]
    text = text.replace(line, "".join(line.replace(listens, f"{keyword} {address}") for address in addresses))
    first, second = (_marked(text, backend) for backend in BACKENDS)
    if first + second not in text:
        raise ValueError("lines for backends must follow each other")
    lines = [
        first.replace(BACKENDS[0], f"127.0.0.1:{port}").replace("server one", f"server number-{number}")
        for number, port in enumerate(ports)
    ]
    return text.replace(first + second, "".join(lines))


def _marked(text: str, value: str) -> str:
    """The one line that is marked for a change and has this value."""
    lines: list[str] = re.findall(rf"^.*{re.escape(value)}.*# CHANGE.*\n", text, re.MULTILINE)
    if len(lines) != 1:
        raise ValueError(f"{value} must stand on one line, marked CHANGE")
    return lines[0]


def _deployed(name: str) -> Path:
    """The file of deploy/, which is inside of this package once that is installed, and beside it in a checkout."""
    here = Path(__file__).parent
    inside = here / "deploy" / name
    return inside if inside.exists() else here.parent / "deploy" / name
