"""Play all scenarios with all clients, and write what came of it to `docs/compatibility.md`.

    PYTHONPATH=tests python -m clients.compatibility                 (make compatibility)
    PYTHONPATH=tests python -m clients.compatibility --kafka FOLDER

The second plays them with Apache Kafka, whose jars are in the folder, and only prints: what
fails there as well is the scenario's fault, or the client's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clients.endpoints import Endpoint, Kafka, Seawall
from clients.programs import BUILT, CLIENTS, ROOT, Client
from clients.scenarios import SCENARIOS, YES, play

DOCUMENT = ROOT / "docs" / "compatibility.md"
NO = "no"

# By client: what it is called with its version, and what came of each feature.
Results = dict[str, Any]


def run_all(server: Endpoint, clients: Sequence[Client]) -> Results:
    """Play every scenario with every client."""
    results: Results = {client.name: {"version": "?", "features": {}} for client in clients}
    versions: dict[str, str] = {}
    for scenario in SCENARIOS:
        for name, outcome in play(scenario, clients, server, versions).items():
            features = results[name]["features"]
            for feature, what in outcome.items():
                if features.setdefault(feature, what) == YES:
                    features[feature] = what
    for name, version in versions.items():
        results[name]["version"] = version
    return results


def failures(results: Results) -> list[str]:
    return [
        f"{client}, {feature}: {what}"
        for client, result in results.items()
        for feature, what in result["features"].items()
        if what.startswith("failed")
    ]


def document(results: Results) -> str:
    """The page."""
    clients = list(results)
    lines = [
        "# Compatibility",
        "",
        "What Kafka clients of several languages can do with `seawall serve`. `make compatibility`",
        "writes this page from a run of the scenarios in `tests/clients/`; `make test` plays them",
        "as well, with the clients that are there.",
        "",
        *table(["client", "version"], [[name, results[name]["version"]] for name in clients]),
        "",
        "Java is Apache Kafka's own client, kafka-clients.",
        "",
    ]
    notes: dict[str, list[str]] = {}
    for scenario in SCENARIOS:
        rows = []
        for feature in scenario.features:
            cells = []
            for client in clients:
                what = results[client]["features"][feature]
                cells.append("yes" if what == YES else NO)
                if what != YES:
                    notes.setdefault(f"{client}: {what.split(': ')[-1]}", []).append(feature)
            rows.append([feature, *cells])
        lines += [f"## {scenario.title}", "", *table(["", *clients], rows), ""]
    lines += [f"{NO} is what the client does not have:", ""]
    lines += [f"* {note} ({', '.join(features)})" for note, features in notes.items()]
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def features_of(page: str) -> Mapping[str, Mapping[str, str]]:
    """What a page says of each feature, by client."""
    found: dict[str, dict[str, str]] = {}
    head: list[str] = []
    for line in page.splitlines():
        cells = [each.strip() for each in line.strip("|").split("|")]
        if line.startswith("|  |"):
            head = cells[1:]
        elif head and line.startswith("|") and not line.startswith("|--"):
            found[cells[0]] = dict(zip(head, cells[1:], strict=True))
        elif not line.startswith("|"):
            head = []
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kafka", type=Path, metavar="FOLDER", help="play with Apache Kafka")
    kafka: Path | None = parser.parse_args().kafka
    missing = {client.name: client.missing for client in CLIENTS if client.missing}
    for name, why in missing.items():
        print(f"{name}: {why}", file=sys.stderr)
    present = [client for client in CLIENTS if not client.missing]
    with tempfile.TemporaryDirectory(prefix="seawall-clients-") as folder:
        server = Kafka(Path(folder), kafka) if kafka else Seawall(Path(folder))
        with server:
            results = run_all(server, present)
    page = document(results)
    failed = failures(results)
    if kafka:
        print(page)
    elif failed or missing:
        print(f"{DOCUMENT} is left as it is", file=sys.stderr)
    else:
        DOCUMENT.write_text(page)
        BUILT.joinpath("results.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(failed), file=sys.stderr)
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
