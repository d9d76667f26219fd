"""Lengths of time on the command line."""

from __future__ import annotations

import pytest

from seawall.cli.durations import seconds
from seawall.cli.errors import WrongUsage


def test_times() -> None:
    assert [seconds(text, "-x") for text in ("90", "60s", "1.5m", "2h")] == [90, 60, 90, 7200]


@pytest.mark.parametrize("text", ["", "0s", "-1s", "1d", "s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(WrongUsage, match="is not a time such as 60s"):
        seconds(text, "-x")
