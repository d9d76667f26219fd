"""`seawall info`: what there is, in a table and as JSON."""

from __future__ import annotations

import json
import platform
from pathlib import Path

from commands import Cli


def test_info(cli: Cli, orders: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a\nb\n")
    cli("produce", orders, tmp_path / "x")
    facts = json.loads(cli("info", "--json").out)
    assert facts["path"] == str(data)
    assert facts["cluster_id"] in (data / "FORMAT").read_text()
    assert (facts["format"], facts["python_version"]) == ("seawall 1", platform.python_version())
    assert (facts["topics"], facts["partitions"], facts["records"]) == (1, 1, 2)
    assert isinstance(facts["is_codec_compiled"], bool)

    shown = cli("info").out.decode().splitlines()
    assert shown[0].split() == ["NAME", "VALUE"]
    assert dict(line.split("  ", 1) for line in shown)["cluster id"].strip() == facts["cluster_id"]
