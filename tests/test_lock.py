"""The development lock (.ci/requirements.lock) fits pyproject.toml; `make lock` writes it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / ".ci" / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked() -> dict[str, Requirement]:
    lines = re.findall(r"^(\S+==.*?)(?: \\)?$", LOCK, flags=re.MULTILINE)
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(each.name): each for each in requirements}


@pytest.mark.parametrize(
    "wanted",
    [
        *PROJECT["project"]["dependencies"],
        *PROJECT["dependency-groups"]["dev"],
        *PROJECT["build-system"]["requires"],
    ],
)
def test_lock_fits(wanted: str) -> None:
    requirement = Requirement(wanted)
    found = locked().get(canonicalize_name(requirement.name))
    assert found is not None, "run `make lock`"
    (pin,) = found.specifier
    assert pin.operator == "=="
    assert requirement.specifier.contains(pin.version), "run `make lock`"


def test_every_pin_has_hashes() -> None:
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(entries) == len(locked())
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_lock_names_no_index() -> None:
    assert re.findall(r"https?://\S+|^-.*|.* @ .*", LOCK, flags=re.MULTILINE) == []
