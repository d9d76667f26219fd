"""What librdkafka is told: its settings from the location's and from ours.

Names and meanings: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seawall.broker.remote.probe import Security

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

    from seawall.broker.location import Cluster
    from seawall.broker.membership import MemberSettings
    from seawall.broker.remote.supervisor import ReconnectSettings

Settings = dict[str, Any]

# librdkafka tries so often by itself, so that it is there as soon as the server is.
RECONNECT_MS = 50
RECONNECT_MAX_MS = 250
# A request that is not answered counts as lost then; a server that hangs is noticed.
SOCKET_TIMEOUT_MS = 10_000
# What is prefetched, for all partitions: a consumer that stops has not read the whole topic.
QUEUED_MAX_KBYTES = 16 * 1024
# How long it looks away once it has so much; by itself a second, in which a quick reader starves.
QUEUE_BACKOFF_MS = 20
MOST_MESSAGE_BYTES = 1_000_000_000
# Settings that some kind of client does not know would be logged with each client.
_ONLY_CONSUMERS = ("fetch.", "queued.", "isolation.level", "check.crcs", "auto.commit")
_ONLY_PRODUCERS = ("queue.buffering", "batch.", "linger.ms", "compression.", "partitioner")
# Where a client's own certificate may be.
_CERTIFICATES = ("ssl.certificate.location", "ssl.certificate.pem", "ssl.keystore.location")


def probing(cluster: Cluster, reconnect: ReconnectSettings) -> ReconnectSettings:
    """How to probe: no longer than a request may take."""
    given = cluster.settings.get("socket.timeout.ms", "")
    if not given.isdigit() or not int(given):
        return reconnect
    return replace(reconnect, probe_timeout_ms=min(reconnect.probe_timeout_ms, int(given)))


def security(cluster: Cluster) -> Security:
    """What the location says that the servers speak."""
    given = cluster.settings
    protocol = given.get("security.protocol", "").lower()
    certificate = given.get("ssl.certificate.location")
    return Security(
        is_tls="ssl" in protocol,
        is_sasl="sasl" in protocol,
        has_certificate=any(given.get(name) for name in _CERTIFICATES),
        certificate=(certificate, given.get("ssl.key.location"), given.get("ssl.key.password"))
        if certificate
        else None,
    )


def common(cluster: Cluster, on_error: Callable[[KafkaError], object]) -> Settings:
    """What every client gets. The location's own settings come last."""
    return {
        "bootstrap.servers": cluster.bootstrap,
        "client.id": "seawall",
        "error_cb": on_error,
        "log_level": 2,  # the rest is said by the supervisor, and by errors
        "reconnect.backoff.ms": RECONNECT_MS,
        "reconnect.backoff.max.ms": RECONNECT_MAX_MS,
        "retry.backoff.ms": 50,
        "retry.backoff.max.ms": 250,
        "socket.timeout.ms": SOCKET_TIMEOUT_MS,
        "socket.keepalive.enable": True,
        "socket.nagle.disable": True,
        "allow.auto.create.topics": False,
        # Topics are looked up before they are used, so that unknown means gone.
        "topic.metadata.propagation.max.ms": 2_000,
    }


def _given(cluster: Cluster, not_for: tuple[str, ...]) -> Mapping[str, str]:
    return {name: value for name, value in cluster.settings.items() if not name.startswith(not_for)}


def for_admin(cluster: Cluster, on_error: Callable[[KafkaError], object]) -> Settings:
    """Of a client that asks and changes. It checks all settings of the location."""
    return {**common(cluster, on_error), **cluster.settings}


def for_producer(
    cluster: Cluster,
    on_error: Callable[[KafkaError], object],
    *,
    linger_ms: float,
    batch_bytes: int,
    buffer_bytes: int,
    compression: str,
    idempotent: bool,
    delivery_timeout_ms: float | None,
) -> Settings:
    """Of a producer; the arguments are those of `RemoteBroker.producer`."""
    settings = {
        **common(cluster, on_error),
        "acks": "all",
        "enable.idempotence": idempotent,
        "linger.ms": linger_ms,
        "batch.size": max(1, batch_bytes),
        "queue.buffering.max.kbytes": max(1, -(-buffer_bytes // 1024)),
        "queue.buffering.max.messages": 0,  # no limit but the bytes
        "message.max.bytes": MOST_MESSAGE_BYTES,  # the topic's own limit is what counts
        "message.timeout.ms": 0 if delivery_timeout_ms is None else max(1, delivery_timeout_ms),
        "compression.type": compression,
        "partitioner": "murmur2_random",  # as everywhere else in seawall
    }
    if not idempotent:
        # Records of a partition keep their order when one is tried again.
        settings["max.in.flight.requests.per.connection"] = 1
    return {**settings, **_given(cluster, _ONLY_CONSUMERS)}


def for_consumer(
    cluster: Cluster,
    on_error: Callable[[KafkaError], object],
    *,
    group: str | None,
    auto_offset_reset: str,
    fetch_bytes: int,
    member: MemberSettings,
) -> Settings:
    """Of a consumer; the arguments are those of `RemoteBroker.consumer`."""
    settings = {
        **common(cluster, on_error),
        # librdkafka wants a name. Without a group nothing is ever asked of a coordinator.
        "group.id": group if group is not None else "seawall-without-group",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": group is None,
        "auto.offset.reset": auto_offset_reset,
        "max.partition.fetch.bytes": fetch_bytes,
        "fetch.wait.max.ms": 250,
        "fetch.error.backoff.ms": 50,
        "fetch.queue.backoff.ms": QUEUE_BACKOFF_MS,
        "queued.max.messages.kbytes": QUEUED_MAX_KBYTES,
        "check.crcs": True,
        "coordinator.query.interval.ms": 1_000,
        "topic.metadata.refresh.interval.ms": 10_000,
    }
    if group is not None:
        settings |= {
            "session.timeout.ms": member.session_timeout_ms,
            "heartbeat.interval.ms": member.heartbeat_interval_ms,
            "max.poll.interval.ms": max(member.max_poll_interval_ms, member.session_timeout_ms),
            "partition.assignment.strategy": ",".join(member.partition_assignment_strategy),
        }
        if member.group_instance_id is not None:
            settings["group.instance.id"] = member.group_instance_id
        if member.client_id != "seawall":
            settings["client.id"] = member.client_id
    return {**settings, **_given(cluster, _ONLY_PRODUCERS)}
