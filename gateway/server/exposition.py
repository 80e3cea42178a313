"""Metrics of several processes as one text in the format of Prometheus.

Invariant: each sample says which worker it is of, and the samples of a family stand together.
"""

from collections.abc import Mapping


def merged(texts: Mapping[str, bytes]) -> bytes:
    """One text of several; each sample gains the label `worker` with its key, unless that is empty."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for worker, text in sorted(texts.items()):
        label = b'worker="%s"' % worker.encode() if worker else b""
        family = b""
        for line in text.splitlines():
            if line.startswith(b"# "):
                kind, family = line.split(b" ", 3)[1:3]
                head = heads.setdefault(family, [])
                if (kind == b"HELP" and not head) or (kind == b"TYPE" and len(head) == 1):
                    head.append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, label) if label else line)
    lines = (line for family, head in heads.items() for line in (*head, *samples.get(family, ())))
    return b"\n".join(lines) + b"\n"


def _labelled(sample: bytes, label: bytes) -> bytes:
    name, space, value = sample.partition(b" ")
    if b"{" in name:
        name, brace, rest = sample.partition(b"{")
        return name + brace + label + b"," + rest
    return name + b"{" + label + b"}" + space + value
