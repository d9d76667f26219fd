"""kcat: the commands become runs of the program."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from typing import Any

from agent import Agent

PATIENCE_S = 60


class Kcat(Agent):
    def about(self) -> dict[str, Any]:
        said = subprocess.run(["kcat", "-V"], capture_output=True, text=True, check=True).stdout
        version, librdkafka = re.findall(r"(?:Version|librdkafka) (\d+[.\d]+)", said)
        return {"client": "kcat", "version": f"{version} (librdkafka {librdkafka})"}

    def _command(self, *arguments: str) -> list[str]:
        patience = ["-m", str(PATIENCE_S), "-X", "reconnect.backoff.max.ms=200"]
        return ["kcat", "-b", self.bootstrap, *patience, *arguments]

    # -- producing ---------------------------------------------------------------------

    def produce(
        self, topic: str, records: list[Any], codec: str = "none", idempotent: bool = False
    ) -> dict[str, Any]:
        for record in records:
            arguments = ["-P", "-t", topic, "-p", str(record["partition"]), "-z", codec]
            arguments += ["-X", f"enable.idempotence={str(idempotent).lower()}"]
            for name, value in record.get("headers", ()):
                arguments += ["-H", name if value is None else f"{name}={value}"]
            run = subprocess.run(
                self._command(*arguments, "-K", "|", "-Z"),  # what is empty, is null
                input=f"{record.get('key') or ''}|{record['value'] or ''}\n",
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            if run.returncode:
                return {"error": run.stderr.strip()}
        return {"offsets": None}

    def stream(
        self, topic: str, count: int, pause_ms: float, partition: int = 0, idempotent: bool = True
    ) -> dict[str, Any]:
        settings = ["-X", f"enable.idempotence={str(idempotent).lower()}", "-X", "linger.ms=5"]
        command = self._command("-E", "-P", "-t", topic, "-p", str(partition), *settings)
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, bufsize=1) as kcat:
            assert kcat.stdin is not None
            for number in range(count):
                kcat.stdin.write(f"{number}\n")
                time.sleep(pause_ms / 1000)
                if number % 20 == 0:
                    self.say(event="acked", count=number)
            kcat.stdin.close()
            status = kcat.wait(3 * PATIENCE_S)
        return {"error": f"kcat ended with {status}"} if status else {"offsets": None}

    # -- consuming ---------------------------------------------------------------------

    def consume(
        self, topic: str, count: int, begin: str | int = "start", partition: int = 0
    ) -> dict[str, Any]:
        places = {"start": "beginning", "end": "end"}
        place = places.get(str(begin), f"s@{begin}")
        command = self._command("-C", "-t", topic, "-p", str(partition), "-o", place, "-J", "-u")
        with subprocess.Popen(
            [*command, "-c", str(count)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as kcat:
            assert kcat.stdout is not None
            assert kcat.stderr is not None
            if begin == "end":
                for line in kcat.stderr:
                    if "Reached end" in line:
                        break
            self.say(event="ready")
            threading.Thread(target=kcat.stderr.read, daemon=True).start()
            timer = threading.Timer(PATIENCE_S, kcat.kill)
            timer.start()
            records = [as_said(json.loads(line)) for line in kcat.stdout]
            timer.cancel()
        return {"records": records}

    def member(self, topic: str, group: str, session_timeout_ms: int) -> dict[str, Any]:
        settings = {
            "session.timeout.ms": session_timeout_ms,
            "heartbeat.interval.ms": min(1000, session_timeout_ms // 4),
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": 50,
        }
        arguments = ["-E", "-G", group, "-J", "-u"]
        for name, value in settings.items():
            arguments += ["-X", f"{name}={value}"]
        with subprocess.Popen(
            self._command(*arguments, topic),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as kcat:

            def follow_rebalances() -> None:
                assert kcat.stderr is not None
                for line in kcat.stderr:
                    if found := re.search(r"(assigned|revoked): (.*)", line):
                        numbers = [int(each) for each in re.findall(r"\[(\d+)\]", found[2])]
                        self.say(event=found[1], partitions=numbers)

            def follow_records() -> None:
                assert kcat.stdout is not None
                for line in kcat.stdout:
                    said = json.loads(line)
                    self.say(
                        event="record",
                        partition=said["partition"],
                        offset=said["offset"],
                        value=said["payload"],
                    )

            threads = [
                threading.Thread(target=each) for each in (follow_rebalances, follow_records)
            ]
            for thread in threads:
                thread.start()
            while not self.is_called_away() and kcat.poll() is None:
                time.sleep(0.05)
            if kcat.poll() is not None:
                return {"error": f"kcat ended with {kcat.returncode}"}
            kcat.terminate()
            status = kcat.wait(PATIENCE_S)
            for thread in threads:
                thread.join()
        return {"error": f"kcat ended with {status}"} if status else {"left": True}


def as_said(said: dict[str, Any]) -> dict[str, Any]:
    headers = said.get("headers", [])
    return {
        "offset": said["offset"],
        "timestamp": said["ts"],
        "key": said["key"],
        "value": said["payload"],
        "headers": [list(each) for each in zip(headers[::2], headers[1::2], strict=True)],
    }


if __name__ == "__main__":
    Kcat(sys.argv[1]).main()
