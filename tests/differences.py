"""Where seawall answers otherwise than Apache Kafka on purpose, and why.

`docs/kafka.md` has the sentences under "Differences from Apache Kafka"; a test holds the two
together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """``where``: conversation/step/path, each with the wildcards of a shell."""

    why: str
    where: tuple[str, ...]


WANTED = (
    Difference(
        "A topic that is created by asking for its metadata is there in the answer. Kafka says "
        "`UNKNOWN_TOPIC_OR_PARTITION` first, and has it when the client asks again.",
        ("metadata/created by asking/topics.0.*",),
    ),
    Difference(
        "An offset beyond the end of the log cannot be committed: `OFFSET_OUT_OF_RANGE`. Kafka "
        "takes any number. A group here never stands where no record was.",
        (
            "committed_offsets/beyond the log/*.error_code",
            "committed_offsets/both/*committed_offset",
            "committed_offsets/all/*committed_offset",
        ),
    ),
    Difference(
        "Records that belong to a transaction are refused as `INVALID_RECORD`, there being no "
        "transactions. Kafka, too, refuses them outside of one, as "
        "`TRANSACTIONAL_ID_AUTHORIZATION_FAILED`.",
        ("producing/transactional batch without a transaction/*.error_code",),
    ),
    Difference(
        "There are no transactions: a `transactional.id` is "
        "`TRANSACTIONAL_ID_AUTHORIZATION_FAILED`, which clients report at once.",
        ("producing/of an unknown transaction/*.error_code",),
    ),
    Difference(
        "A record batch that is cut off is `CORRUPT_MESSAGE`, which clients send again; in Kafka "
        "it is `INVALID_RECORD`.",
        ("producing/cut off/*.error_code",),
    ),
    Difference(
        "A refused batch is never answered with a log start offset; Kafka sometimes has one.",
        (
            "producing/a control batch/*.log_start_offset",
            "idempotent_producing/*/*.log_start_offset",
        ),
    ),
    Difference(
        "A batch that was stored before is answered with its offset and without a time; Kafka "
        "puts the batch's newest timestamp where the time of appending belongs.",
        ("idempotent_producing/*/*.log_append_time",),
    ),
    Difference(
        "`InitProducerId` with the id that the producer has gives the next epoch of that id, as "
        "it does for transactional producers. Kafka gives a new id.",
        (
            "idempotent_producing/the next epoch/producer_id",
            "idempotent_producing/the next epoch/producer_epoch",
            "idempotent_producing/who produces here/*producer_id",
        ),
    ),
    Difference(
        "`CreateTopics` that only looks (`validate_only`) answers without a topic id. Kafka makes "
        "one up that is never used.",
        ("creating_topics/only looked at/topics.0.topic_id",),
    ),
    Difference(
        "What one may do with a topic that is not there is not said, instead of everything.",
        ("metadata/partitions of an unknown topic/*.topic_authorized_operations",),
    ),
    Difference(
        "`compression.type` can only be `producer`, so it is read-only.",
        ("topic_settings/*/*.configs.1.read_only",),
    ),
    Difference(
        "`segment.bytes` is 64 MiB by default, not 1 GiB: whole segments are what is removed.",
        ("topic_settings/*/*.configs.4.value",),
    ),
    Difference(
        "The synonyms of a setting end with seawall's default under the same name; Kafka has the "
        "names of its server properties there, and for `retention.ms` none.",
        ("topic_settings/where they come from/*.synonyms",),
    ),
    Difference(
        "A setting that was set to what is its default is told as a default.",
        ("topic_settings/in the end/*.config_source",),
    ),
    Difference(
        "`IncrementalAlterConfigs` with an operation that does not exist is `INVALID_REQUEST`; in "
        "Kafka it is `UNKNOWN_SERVER_ERROR`.",
        ("topic_settings/no such operation/*.error_code",),
    ),
)

# Versions that Apache Kafka 4.1 does not advertise: DescribeLogDirs 5 came later (KIP-1066).
WIDER = {35: [1, 5]}
