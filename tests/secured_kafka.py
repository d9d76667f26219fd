"""Apache Kafka with listeners that want TLS, a name and a password, or both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from certificates import Certificates, make_certificates
from clients.endpoints import Kafka, free_port

USER = "alice"
# Characters that a location has to escape, and that no message may show.
PASSWORD = "s3cr&t=pa?ss"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
PROTOCOLS = {"TLS": "SSL", "MUTUAL": "SSL", "SASL": "SASL_PLAINTEXT", "SASLTLS": "SASL_SSL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuredKafka:
    """It, while it runs. ``ports``: by the listener's name."""

    kafka: Kafka
    ports: dict[str, int]
    certificates: Certificates

    @property
    def plain(self) -> str:
        """The location of the listener that lets everybody in."""
        return f"kafka://{self.kafka.address}"

    def location(self, listener: str, **settings: str | Path) -> str:
        """A location: of the listener, with librdkafka's settings, ``_`` for their dots."""
        given = urlencode({name.replace("_", "."): str(each) for name, each in settings.items()})
        return f"kafka://127.0.0.1:{self.ports[listener]}?{given}"

    def tls(self, listener: str = "TLS", **settings: str | Path) -> str:
        """The location of a listener with TLS."""
        return self.location(
            listener,
            **{
                "security_protocol": PROTOCOLS[listener].lower(),
                "ssl_ca_location": self.certificates.authority,
                **settings,
            },
        )

    def sasl(self, mechanism: str, listener: str = "SASL", **settings: str | Path) -> str:
        """The location of a listener that wants a name and a password."""
        given: dict[str, str | Path] = {
            "security_protocol": PROTOCOLS[listener].lower(),
            "sasl_mechanism": mechanism,
            "sasl_username": USER,
            "sasl_password": PASSWORD,
        }
        if listener == "SASLTLS":
            given["ssl_ca_location"] = self.certificates.authority
        return self.location(listener, **{**given, **settings})


@contextmanager
def secured_kafka(lib: Path) -> Iterator[SecuredKafka]:
    """Run one, from the folder with its jars."""
    with tempfile.TemporaryDirectory(prefix="seawall-kafka-") as name:
        folder = Path(name)
        certificates = make_certificates(folder)
        ports = {listener: free_port() for listener in PROTOCOLS}
        settings = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certificates.server),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(certificates.authority),
            "listener.name.mutual.ssl.client.auth": "required",
        }
        for listener in ("sasl", "sasltls"):
            prefix = f"listener.name.{listener}"
            settings[f"{prefix}.sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256"
            settings[f"{prefix}.plain.sasl.jaas.config"] = (
                f'{PLAIN} required user_{USER}="{PASSWORD}";'
            )
            settings[f"{prefix}.scram-sha-256.sasl.jaas.config"] = f"{SCRAM} required;"
        kafka = Kafka(
            folder,
            lib,
            listeners={name: (ports[name], protocol) for name, protocol in PROTOCOLS.items()},
            settings=settings,
            arguments=("--add-scram", f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]"),
        )
        with kafka:
            yield SecuredKafka(kafka=kafka, ports=ports, certificates=certificates)
