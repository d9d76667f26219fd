"""The admin clients that users have: librdkafka's, kafka-python's, aiokafka's, and kcat."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import warnings
from typing import Any

import pytest

from seawall.broker import Broker
from seawall.broker.kafka.threaded import ServerThread

TIMEOUT_S = 60.0


def fill(broker: Broker, topic: str) -> None:
    """Ten records in partition 0."""
    with broker.producer() as producer:
        for number in range(10):
            producer.send(topic, b"%d" % number, partition=0)


def test_confluent(server: ServerThread, broker: Broker) -> None:
    from confluent_kafka import KafkaException, TopicCollection, TopicPartition
    from confluent_kafka.admin import (
        AdminClient,
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
        ConfigSource,
        NewPartitions,
        NewTopic,
    )

    admin = AdminClient({"bootstrap.servers": server.address})

    def results(futures: dict[Any, Any]) -> dict[Any, Any]:
        found = {}
        for key, future in futures.items():
            try:
                found[key] = future.result(TIMEOUT_S)
            except KafkaException as error:
                found[key] = error.args[0].name()
        return found

    settings = {"retention.ms": "5000", "min.insync.replicas": "1"}
    topics = [
        NewTopic("new", 2, 1, config=settings),
        NewTopic("orders", 1, 1),
        NewTopic("three", 1, 3),
        NewTopic("bad name", 1, 1),
        NewTopic("lz4", 1, 1, config={"compression.type": "lz4"}),
        NewTopic("defaults"),
    ]
    checked = results(admin.create_topics(topics, validate_only=True))
    assert [info.name for info in broker.topics()] == ["orders"]
    assert results(admin.create_topics(topics)) == checked
    assert checked == {
        "new": None,
        "orders": "TOPIC_ALREADY_EXISTS",
        "three": "INVALID_REPLICATION_FACTOR",
        "bad name": "TOPIC_EXCEPTION",
        "lz4": "INVALID_CONFIG",
        "defaults": None,
    }
    assert len(broker.topic("new").partitions) == 2

    assert results(admin.create_partitions([NewPartitions("new", 3)])) == {"new": None}
    described = admin.describe_topics(TopicCollection(["new"]))["new"].result(TIMEOUT_S)
    assert [each.id for each in described.partitions] == [0, 1, 2]

    resource = ConfigResource("topic", "new")
    [entries] = results(admin.describe_configs([resource])).values()
    assert (entries["retention.ms"].value, entries["retention.ms"].is_default) == ("5000", False)
    assert (entries["cleanup.policy"].value, entries["cleanup.policy"].is_default) == (
        "delete",
        True,
    )
    [entries] = results(admin.describe_configs([ConfigResource("broker", "1")])).values()
    assert entries["num.partitions"].source == ConfigSource.DEFAULT_CONFIG.value

    changes = [
        ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND),
        ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE),
        ConfigEntry("segment.bytes", "8192", incremental_operation=AlterConfigOpType.SET),
    ]
    incremental = ConfigResource("topic", "new", incremental_configs=changes)
    assert list(results(admin.incremental_alter_configs([incremental])).values()) == [None]
    assert broker.topic("new").config == {
        "cleanup.policy": "compact,delete",
        "segment.bytes": "8192",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        whole = ConfigResource("topic", "new", set_config={"retention.ms": "7000"})
        assert list(results(admin.alter_configs([whole])).values()) == [None]
    assert broker.topic("new").config == {"cleanup.policy": "delete", "retention.ms": "7000"}

    fill(broker, "new")
    place = TopicPartition("new", 0, 4)
    deleted = admin.delete_records([place])[place]
    assert deleted.result(TIMEOUT_S).low_watermark == 4
    assert broker.ends("new", 0).log_start == 4

    cluster = admin.describe_cluster().result(TIMEOUT_S)
    assert cluster.cluster_id == broker.cluster_id
    assert [f"{node.host}:{node.port}" for node in cluster.nodes] == [server.address]

    assert results(admin.delete_topics(["new", "nothing"])) == {
        "new": None,
        "nothing": "UNKNOWN_TOPIC_OR_PART",
    }
    assert [info.name for info in broker.topics()] == ["defaults", "orders"]


@pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning")
def test_kafka_python(server: ServerThread, broker: Broker) -> None:
    from kafka import TopicPartition
    from kafka.admin import ConfigResource, KafkaAdminClient, NewPartitions, NewTopic
    from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError

    admin = KafkaAdminClient(bootstrap_servers=server.address)
    try:
        admin.create_topics([NewTopic("new", 2, 1, topic_configs={"retention.ms": "5000"})])
        assert broker.topic("new").settings.retention_ms == 5000
        with pytest.raises(TopicAlreadyExistsError):
            admin.create_topics([NewTopic("new", 2, 1)])
        admin.create_partitions({"new": NewPartitions(3)})
        [topic] = admin.describe_topics(["new"])
        assert [each["partition_index"] for each in topic["partitions"]] == [0, 1, 2]
        page = admin.describe_topic_partitions(["new"], response_partition_limit=2)
        assert len(page["topics"][0]["partitions"]) == 2

        resource = ConfigResource("TOPIC", "new")
        modified = admin.describe_configs([resource])["topic"]["new"]
        assert {key: each["value"] for key, each in modified.items()} == {"retention.ms": "5000"}
        brokers = admin.describe_configs([ConfigResource("BROKER", "1")], config_filter="all")
        assert brokers["broker"]["1"]["num.partitions"]["value"] == "1"
        change = ConfigResource("TOPIC", "new", configs={"segment.bytes": "8192"})
        admin.alter_configs([change], incremental=True)
        assert broker.topic("new").settings.retention_ms == 5000
        admin.alter_configs([change], incremental=False)
        # This client names the other settings itself, from their description.
        assert broker.topic("new").settings.retention_ms == 5000
        admin.reset_configs([ConfigResource("TOPIC", "new", configs={"segment.bytes": None})])
        assert broker.topic("new").config == {"cleanup.policy": "delete", "retention.ms": "5000"}
        both = ConfigResource("TOPIC", "orders", configs={"segment.ms": "9000"})
        admin.alter_configs([both], incremental=False)
        assert broker.topic("orders").settings.cleanup_policy == "acknowledged"

        fill(broker, "new")
        admin.delete_records({TopicPartition("new", 0): 4})
        assert broker.ends("new", 0).log_start == 4
        [disk] = admin.describe_log_dirs()
        [directory] = disk["log_dirs"]
        sizes = {
            topic["name"]: sum(each["partition_size"] for each in topic["partitions"])
            for topic in directory["topics"]
        }
        assert sizes == {"new": broker.info().log_bytes, "orders": 0}
        assert admin.describe_cluster()["cluster_id"] == broker.cluster_id
        with broker.producer(idempotent=True) as producer:
            producer.send("new", b"x", partition=1).result(TIMEOUT_S)
        assert "producer_id" in str(admin.describe_producers([TopicPartition("new", 1)]))

        admin.delete_topics(["new"])
        with pytest.raises(UnknownTopicOrPartitionError):
            admin.delete_topics(["new"])
        assert [info.name for info in broker.topics()] == ["orders"]
    finally:
        admin.close()


def test_aiokafka(server: ServerThread, broker: Broker) -> None:
    from aiokafka import TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    async def scene() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=server.address)
        await admin.start()
        try:
            await admin.create_topics([NewTopic("new", 2, 1)])
            await admin.create_partitions({"new": NewPartitions(3)})
            [topic] = await admin.describe_topics(["new"])
            assert len(topic["partitions"]) == len(broker.topic("new").partitions) == 3
            assert sorted(await admin.list_topics()) == ["new", "orders"]
            resource = ConfigResource(ConfigResourceType.TOPIC, "new")
            [described] = await admin.describe_configs([resource], include_synonyms=True)
            [(code, _, _, name, entries)] = described.resources
            assert (code, name) == (0, "new")
            assert ("retention.ms", "604800000") in {entry[:2] for entry in entries}
            change = ConfigResource(ConfigResourceType.TOPIC, "new", {"retention.ms": "7000"})
            await admin.alter_configs([change])
            assert broker.topic("new").settings.retention_ms == 7000
            fill(broker, "new")
            place = TopicPartition("new", 0)
            deleted = await admin.delete_records({place: RecordsToDelete(before_offset=4)})
            assert deleted == {place: 4}
            assert (await admin.describe_cluster())["cluster_id"] == broker.cluster_id
            await admin.delete_topics(["new"])
            assert [info.name for info in broker.topics()] == ["orders"]
        finally:
            await admin.close()

    asyncio.run(scene())


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed")
def test_kcat_lists_topics(server: ServerThread, broker: Broker) -> None:
    broker.create_topic("bills", 3)
    ran = subprocess.run(
        ["kcat", "-L", "-J", "-m", "60", "-b", server.address],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    listed = json.loads(ran.stdout)
    assert listed["controllerid"] == 1
    assert {each["topic"]: len(each["partitions"]) for each in listed["topics"]} == {
        "bills": 3,
        "orders": 1,
    }
