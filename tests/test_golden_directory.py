"""Directories that other versions wrote open with all they hold, or are refused by name."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from brokers import put, read_all, values
from storage import memory_folder

from seawall.broker import Broker
from seawall.broker.errors import UnsupportedFormat

GOLDEN = Path(__file__).with_name("golden")


def load_maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_directory", GOLDEN / "make_directory.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy() -> Iterator[Path]:
    with memory_folder() as folder:
        path = Path(folder, "data")
        shutil.copytree(GOLDEN / "directory-1", path)
        yield path


def test_it_opens_with_everything(copy: Path) -> None:
    expected = json.loads((GOLDEN / "directory-1.json").read_text())
    maker = load_maker()
    for _ in range(2):  # recovered, and again as it was left
        with Broker.open(copy, create=False) as broker:
            assert maker.describe(broker) == expected
            assert list(broker.verify()) == []
    assert list(Path(copy, "quarantine").iterdir()) == []


def test_the_cache_is_not_needed(copy: Path) -> None:
    shutil.rmtree(copy / "index.lmdb")
    with Broker.open(copy, create=False) as broker:
        assert load_maker().describe(broker) == json.loads(
            (GOLDEN / "directory-1.json").read_text()
        )


def test_it_goes_on(copy: Path) -> None:
    with Broker.open(copy) as broker:
        end = broker.ends("orders", 1).durable_end
        put(broker, b"new", partition=1)
        assert broker.ends("orders", 1).durable_end == end + 1
        assert values(read_all(broker, partitions=[1]))[-1] == b"new"
        broker.create_topic("deleted")
        assert read_all(broker, "deleted") == []
        with broker.consumer(["orders", "trimmed"], group="billing") as consumer:
            for place in consumer.assignment():
                assert consumer.position(*place) == consumer.committed(*place)
            while consumer.poll():
                pass
            consumer.ack()
            assert set(consumer.lag().values()) == {0}


def test_another_version_is_refused_by_name(copy: Path) -> None:
    text = Path(copy, "FORMAT").read_text()
    Path(copy, "FORMAT").write_text(text.replace("seawall 1", "seawall 9"))
    with pytest.raises(UnsupportedFormat) as caught:
        Broker.open(copy)
    assert (caught.value.found, caught.value.supported) == ("seawall 9", "seawall 1")


def test_what_this_version_makes_is_described_alike(tmp_path: Path) -> None:
    """So that the maker does not rot, and the layout has the files it is said to have."""
    maker = load_maker()
    with Broker.open(tmp_path / "made") as broker:
        maker.fill(broker)
        made = maker.describe(broker)
    expected = json.loads((GOLDEN / "directory-1.json").read_text())
    assert list(made["records"]) == list(expected["records"])
    assert made["groups"] == expected["groups"]
    for name, topic in expected["topics"].items():
        assert made["topics"][name]["partition_ids"] == topic["partition_ids"]
        assert made["topics"][name]["ends"] == topic["ends"]
