"""Every command and every program that README.md and docs/ show really runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.timeout(1000)

# What is not run from here, because another test does: `pip install .` in
# test_install.py, the demo in test_demo.py, and `make test` is what runs this.
ELSEWHERE = re.compile(r"^(make \w+|pip install \.)( +#.*)?$", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def commands_on_path(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "XDG_CONFIG_HOME": str(home / ".config"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.mark.parametrize("page", pages_with("sh"), ids=lambda page: page.name)
def test_commands_run(page: Path, tmp_path: Path) -> None:
    script = "\n".join(blocks(page, "sh"))
    script = ELSEWHERE.sub("", script)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=commands_on_path(tmp_path),
        capture_output=True,
        text=True,
        timeout=900,  # a page has up to sixty commands
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
def test_programs_run(page: Path, tmp_path: Path) -> None:
    program = "\n".join(blocks(page, "python"))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{program}\n{done.stdout}\n{done.stderr}"
    assert done.stdout


SHOWN_TESTS = [page for page in PAGES if any("\ndef test_" in b for b in blocks(page, "python"))]


@pytest.mark.parametrize("page", SHOWN_TESTS, ids=lambda page: page.name)
def test_tests_pass(page: Path, pytester: pytest.Pytester) -> None:
    shown = [block for block in blocks(page, "python") if "\ndef test_" in block]
    pytester.makepyfile("\n".join(shown))
    done = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider")
    done.assert_outcomes(passed="\n".join(shown).count("\ndef test_"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_whatever_is_shown_is_run(page: Path) -> None:
    """There is no block in a language that the tests above pass over."""
    fences = re.findall(r"^ *(`{3,}|~{3,})(.*)$", page.read_text(), re.MULTILINE)
    assert {language for _, language in fences[::2]} <= {"sh", "python"}
    assert [language for _, language in fences[1::2]] == [""] * (len(fences) // 2)
    assert len(BLOCK.findall(page.read_text())) == len(fences) / 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_said_twice(page: Path) -> None:
    """No heading and no paragraph is on a page a second time."""
    text = BLOCK.sub("", page.read_text())
    headings = re.findall(r"^#.*$", text, re.MULTILINE)
    assert len(set(headings)) == len(headings)
    paragraphs = [each for each in text.split("\n\n") if each.strip() and "\n" in each]
    assert len(set(paragraphs)) == len(paragraphs)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_targets_exist() -> None:
    shown = set(
        re.findall(r"(?:^|`)make (\w+)", "\n".join(page.read_text() for page in PAGES), re.M)
    )
    assert {"demo", "test"} <= shown
    for target in sorted(shown):
        done = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
