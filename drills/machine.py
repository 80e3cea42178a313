"""The machine that figures were taken on. Nothing is measured here."""

import os
import platform
from datetime import UTC, datetime


def machine() -> str:
    """One line that says when and where a figure was taken."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{when}, {os.cpu_count()} x {model}, {platform.system()}, Python {platform.python_version()}"
