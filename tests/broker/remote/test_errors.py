"""What librdkafka says, and whether waiting could change it. The texts are its own."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from seawall.broker.errors import AccessRefused, AuthenticationFailed, TlsFailed
from seawall.broker.remote.errors import AWAY, refusal

WHEN = " (after 2ms in state SSL_HANDSHAKE)"
AUTH, SSL, TRANSPORT = KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._TRANSPORT


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (AUTH, "SASL authentication error: Authentication failed: Invalid username or password"
        " (after 301ms in state AUTH_REQ)", AuthenticationFailed),
        (AUTH, "SASL SCRAM-SHA-512 mechanism handshake failed: Broker: Unsupported SASL mechanism: "
        "broker's supported mechanisms: PLAIN (after 3ms in state AUTH_HANDSHAKE)",
         AuthenticationFailed),
        # The connection was cut meanwhile.
        (AUTH, "SASL authentication error: Local: Broker transport failure (after 9ms in state "
        "AUTH_REQ)", None),
        (AUTH, "SASL PLAIN mechanism handshake failed: Local: Timed out: broker's supported "
        "mechanisms:  (after 9ms in state AUTH_HANDSHAKE)", None),
        (SSL, "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: "
        "broker certificate could not be verified" + WHEN, TlsFailed),
        (TRANSPORT, "error:0A000086:SSL routines::certificate verify failed" + WHEN, TlsFailed),
        (TRANSPORT, "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: "
        "SSL alert number 42" + WHEN, TlsFailed),
        (SSL, "SSL handshake failed: SSL routines::tlsv13 alert certificate required: SSL alert "
        "number 116" + WHEN, TlsFailed),
        # An error of the server's own, and a connection that was cut.
        (SSL, "SSL handshake failed: SSL routines::tlsv1 alert internal error: SSL alert number 80"
         + WHEN, None),
        (SSL, "SSL handshake failed: error:0A000126:SSL routines::unexpected eof while reading"
         + WHEN, None),
        (TRANSPORT, "Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state "
        "CONNECT)", None),
        (KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down", None),
    ],
)  # fmt: skip
def test_refusals_and_outages(code: int, text: str, kind: type[AccessRefused] | None) -> None:
    found = refusal(KafkaError(code, text), "kafka://h:1")
    assert type(found) is (kind or type(None))
    if found is not None:
        assert found.location == "kafka://h:1"
        assert "(after" not in found.reason
        assert "error:0A" not in found.reason


@pytest.mark.parametrize("code", [KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH])
def test_who_knows_another_leader_is_asked_again(code: int) -> None:
    """Apache Kafka says so for a moment, of a topic that was only just made, or after it died."""
    assert code in AWAY
