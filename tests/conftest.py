"""What all tests share: Hypothesis profiles, the watch for leaks, and a folder in memory."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import leaks
import pytest
from hypothesis import HealthCheck, settings
from storage import memory_folder

# Slow or busy machines are no reason to fail, so there is no deadline. The gate runs the
# same examples each time; everyday runs explore. `HYPOTHESIS_PROFILE=thorough` explores far.
_COMMON = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
# Every run looks elsewhere, so a few examples each time go a long way.
settings.register_profile("everyday", _COMMON, max_examples=60)
settings.register_profile("gate", _COMMON, max_examples=60, derandomize=True)
settings.register_profile("thorough", _COMMON, max_examples=2000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "gate" if os.environ.get("CI") else "everyday")
)

leaks.adopt_orphans()

# What a shell runs in the background ignores Ctrl-C, what nohup runs a hang-up, and so would all
# that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Modules that take longest, as a whole or in a single test: they begin first, and nobody waits for
# them at the end.
LONGEST = {
    *("test_install.py", "test_readme.py", "test_state_machine.py", "test_web_app.py"),
    *("test_clients.py", "test_planted.py", "test_group_machine.py", "test_shutdown.py"),
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest; all else stays in the random order that it is in."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Modules stay to the end, so no collection of garbage has to look at what they hold."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def folder() -> Iterator[str]:
    """An empty folder, in memory if that can be had."""
    with memory_folder() as path:
        yield path


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread, a process, a socket or a descriptor behind.

    What fixtures of a wider scope hold is theirs: they are set up before this one.
    """
    before = leaks.snapshot()
    yield
    found = leaks.leaks_since(before)
    if found:
        pytest.fail("the test left behind:\n  " + "\n  ".join(found), pytrace=False)
