"""Hold the conversations with a real Apache Kafka, and keep its answers.

    python tests/record_kafka.py [FOLDER WITH KAFKA'S JARS]

Without a folder, Maven fetches the jars from Maven Central. Java 17 and Maven are needed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from clients.endpoints import Kafka
from conversations import hold_all
from conversing import VERSIONS
from wire import Wire

RECORDED = Path(__file__).parent / "broker" / "kafka" / "recorded"
VERSION = "4.1.0"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>seawall</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""


def fetch_kafka(folder: Path) -> Path:
    """Have Maven put Kafka's jars into a folder."""
    folder.joinpath("pom.xml").write_text(POM)
    lib = folder / "lib"
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={lib}"]
    subprocess.run(command, cwd=folder, check=True)
    return lib


def main(lib: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="seawall-kafka-") as name:
        folder = Path(name)
        with Kafka(folder, lib or fetch_kafka(folder)) as kafka:
            held = hold_all(kafka.address)
            wire = Wire(kafka.address)
            told = wire.ask(18, 4, client_software_name="seawall", client_software_version="1")
            wire.close()
        properties = (folder / "server.properties").read_text().replace(name, "FOLDER")
        properties = re.sub(r":\d{4,5}\b", ":PORT", properties)
    origin = {
        "broker": f"Apache Kafka {VERSION}, one node, KRaft; from Maven Central",
        "recorded": time.strftime("%Y-%m-%d"),
        "by": "tests/record_kafka.py",
        "server.properties": sorted(properties.splitlines()),
        "versions": {
            str(each.api_key): [each.min_version, each.max_version] for each in told.api_keys
        },
        "asked": {str(key): list(versions) for key, versions in VERSIONS.items()},
    }
    RECORDED.mkdir(exist_ok=True)
    for old in RECORDED.glob("*.json"):
        old.unlink()
    write("origin", origin)
    for conversation, steps in held.items():
        write(conversation, steps)
    print(f"{sum(map(len, held.values()))} answers in {len(held)} conversations: {RECORDED}")


def write(name: str, content: list[Any] | dict[str, Any]) -> None:
    """As JSON, a line for each answer, so that changes can be read."""
    if isinstance(content, list):
        text = "[\n" + ",\n".join(json.dumps(each) for each in content) + "\n]\n"
    else:
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
    (RECORDED / f"{name}.json").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
