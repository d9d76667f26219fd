"""The arithmetic of settings, held against Kafka's rules as a dict model."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.config import SETTINGS
from seawall.broker.kafka.config_changes import incremented, replaced, topic_rules
from seawall.broker.kafka.settings import ServerSettings

RULES = topic_rules(ServerSettings())
POLICIES = ("delete", "compact", "compact,delete")
KEPT = {
    "retention.ms": st.integers(-1, 99).map(str),
    "segment.bytes": st.integers(4096, 9999).map(str),
    "cleanup.policy": st.sampled_from(POLICIES),
}
IGNORED = {"min.insync.replicas": st.just("1"), "flush.ms": st.integers(0, 9).map(str)}
CONFIGS = st.fixed_dictionaries({}, optional=KEPT)
GIVEN = st.fixed_dictionaries({}, optional={**KEPT, **IGNORED})


def after(stored: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    """What is stored then."""
    merged = {**stored, **changes}
    return {key: value for key, value in merged.items() if value is not None}


@given(CONFIGS, GIVEN)
def test_replaced_is_what_was_given(stored: dict[str, str], given_: dict[str, str]) -> None:
    configs = [SimpleNamespace(name=key, value=value) for key, value in given_.items()]
    changes = replaced(stored, configs, RULES)
    expected = {key: value for key, value in given_.items() if key in SETTINGS}
    assert after(stored, changes) == expected


@given(CONFIGS, GIVEN, st.sets(st.sampled_from([*KEPT, *IGNORED])))
def test_incremented_touches_what_is_named_alone(
    stored: dict[str, str], given_: dict[str, str], removed: set[str]
) -> None:
    sets = {key: value for key, value in given_.items() if key not in removed}
    configs = [
        SimpleNamespace(name=key, value=value, config_operation=0) for key, value in sets.items()
    ] + [SimpleNamespace(name=key, value=None, config_operation=1) for key in removed]
    changes = incremented(stored, configs, RULES)
    expected = {**stored, **{key: value for key, value in sets.items() if key in SETTINGS}}
    assert after(stored, changes) == {
        key: value for key, value in expected.items() if key not in removed
    }


@given(
    st.sampled_from(POLICIES),
    st.lists(st.sampled_from(["delete", "compact"]), max_size=3),
    st.sampled_from([2, 3]),
)
def test_lists_are_sets_of_words(before: str, words: list[str], operation: int) -> None:
    each = SimpleNamespace(name="cleanup.policy", value=",".join(words), config_operation=operation)
    old, given_ = set(before.split(",")), set(words)
    expected = old | given_ if operation == 2 else old - given_
    if not expected:
        return
    changes = incremented({"cleanup.policy": before}, [each], RULES)
    assert set((changes["cleanup.policy"] or "").split(",")) == expected
