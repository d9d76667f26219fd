"""Lengths of time on the command line."""

import re

from seawall.cli.errors import WrongUsage

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600}


def seconds(text: str, option: str) -> float:
    """A time such as ``90``, ``60s``, ``1.5m`` or ``2h``. Raises `WrongUsage`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or not float(match[1]):
        raise WrongUsage(f"{option}: {text!r} is not a time such as 60s, 10m or 2h")
    return float(match[1]) * _UNITS_S[match[2]]
