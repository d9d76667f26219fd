"""The broker's errors: the drawn tree is the real one, and no storage error goes unmapped."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Iterator

import pytest

from seawall.broker import errors
from seawall.broker.errors import BrokerError
from seawall.broker.translation import TABLE, translate
from seawall.wal import errors as wal

SAMPLES: dict[str, object] = {
    "path": "data/logs/1-t-0",
    "reason": "why",
    "found": "x",
    "supported": "seawall 1",
    "key": "k",
    "namespace": "a",
    "own_namespace": "b",
    "what": "broker",
    "state": "creating",
    "allowed": "a number",
    "assignors": ("range",),
    "others": ("roundrobin",),
    "suggestion": "other.key",
    "value": "v",
    "group": "g",
    "topic": "orders",
    "holder_host": "host",
    "address": "127.0.0.1:9092",
}


def kinds(root: type[BaseException], module: str) -> Iterator[type[BaseException]]:
    for kind in root.__subclasses__():
        if kind.__module__.startswith(module):
            yield kind
        yield from kinds(kind, module)


def make(kind: type[BaseException]) -> BaseException:
    """One error of a kind, its fields told apart by their numbers."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    if any(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
        values = {p.name: SAMPLES.get(p.name, 0) for p in parameters[1:]}
        return kind("message", **values)
    values = {}
    for number, parameter in enumerate(parameters, 3):
        sample = SAMPLES.get(parameter.name, number)
        if parameter.name == "key" and parameter.annotation == "bytes":
            sample = b"k"
        values[parameter.name] = sample
    return kind(**values)


WAL_LEAVES = sorted(
    {
        kind
        for kind in kinds(wal.WalError, "seawall.wal")
        if not kind.__subclasses__() or kind is wal.LockTimeout
    },
    key=lambda kind: kind.__name__,
)
BROKER_KINDS = sorted(kinds(BrokerError, "seawall.broker"), key=lambda kind: kind.__name__)


def test_every_leaf_of_the_storage_engine_has_a_row() -> None:
    assert {kind for kind in WAL_LEAVES if kind not in TABLE} == set()
    assert {kind for kind in TABLE if kind not in WAL_LEAVES} == set()


@pytest.mark.parametrize("kind", WAL_LEAVES, ids=lambda kind: kind.__name__)
def test_rows_carry_the_fields_over(kind: type[wal.WalError]) -> None:
    error = make(kind)
    assert isinstance(error, wal.WalError)
    translated = translate(error, topic="orders", partition=7)
    assert isinstance(translated, BrokerError)
    assert type(translated) is not BrokerError
    lost = set(vars(error)) - set(vars(translated))
    if isinstance(error, wal.AppendLost):  # they are in the reason
        lost -= {"next_offset", "durable_end"}
        assert f"ends at offset {error.durable_end}" in str(translated)
    assert lost <= {"key", "partition_id", "holder_pid", "timeout_ms"} or kind is wal.LogGone
    for name in set(vars(error)) & set(vars(translated)) - {"reason"}:
        assert getattr(translated, name) == getattr(error, name)
    for name, value in (("topic", "orders"), ("partition", 7)):
        assert getattr(translated, name, value) == value
    assert translate(error).args[0]  # without a place, too


def test_a_kind_without_a_row_gets_the_one_above_it() -> None:
    class Later(wal.DirectoryUnusable):
        pass

    class Unheard(wal.WalError):
        pass

    translated = translate(Later(path="p", reason="r"))
    assert type(translated) is errors.DirectoryUnusable
    assert str(translate(Unheard("something"))) == "something"


@pytest.mark.parametrize("kind", BROKER_KINDS, ids=lambda kind: kind.__name__)
def test_each_error_is_one_line_with_its_facts(kind: type[BrokerError]) -> None:
    error = make(kind)
    assert str(error)
    assert "\n" not in str(error)
    assert "None" not in str(error)
    assert kind.__doc__
    for name in inspect.signature(kind.__init__).parameters:
        if name not in ("self", "message", "args", "kwargs"):
            assert hasattr(error, name), name
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), vars(again)) == (str(error), vars(error))


def drawn(docstring: str | None) -> list[tuple[int, str]]:
    """(depth, name) of each class in a tree that a docstring draws."""
    found = re.findall(r"^    ([│ ]*)[├└]── (\w+)", docstring or "", re.MULTILINE)
    return [(len(indent) // 4, name) for indent, name in found]


@pytest.mark.parametrize(
    ("module", "root", "package"),
    [(errors, BrokerError, "seawall.broker"), (wal, wal.WalError, "seawall.wal")],
)
def test_the_drawn_tree_is_the_real_one(
    module: object, root: type[BaseException], package: str
) -> None:
    lines = drawn(module.__doc__)
    parents: dict[int, str] = {-1: "SeawallError"}
    pairs = set()
    for depth, name in lines:
        parents[depth] = name
        pairs.add((parents[depth - 1], name))
    real = {(kind.__bases__[0].__name__, kind.__name__) for kind in kinds(root, package)}
    assert pairs == real | {("SeawallError", root.__name__)}


def test_all_are_in_one_module() -> None:
    assert set(errors.__all__) == {"BrokerError"} | {kind.__name__ for kind in BROKER_KINDS}
    assert errors.__all__ == sorted(errors.__all__)
