"""The check of the documentation site finds what a page would load from another host."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci/docs"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="needs the repository")


@pytest.fixture(scope="module")
def docs_script() -> ModuleType:
    loader = SourceFileLoader("docs_script", str(SCRIPT))
    spec = importlib.util.spec_from_loader("docs_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://unpkg.com/iframe-worker/shim"></script>'),
        ("a.html", '<img alt="x" src="//example.org/x.png">'),
        ("a.html", '<link rel="stylesheet" href="https://fonts.googleapis.com/css">'),
        ("a.html", '<link rel="preconnect" href="https://fonts.gstatic.com" crossorigin>'),
        ("a.html", "<style>p { background: url(https://example.org/x.png) }</style>"),
        ("a.html", "<p style=\"background: url('https://example.org/x.png')\">"),
        ("a.html", '<pre class="mermaid">graph LR</pre>'),
        ("a.css", "@import 'https://example.org/x.css';"),
        ("a.js", "fetch('https://example.org/x.json')"),
    ],
)
def test_an_address_of_another_host_is_found(
    name: str, text: str, tmp_path: Path, docs_script: ModuleType
) -> None:
    (tmp_path / name).write_text(text)
    assert len(list(docs_script.remote_resources(tmp_path))) == 1


def test_links_that_a_reader_clicks_and_own_files_pass(
    tmp_path: Path, docs_script: ModuleType
) -> None:
    text = '<a href="https://arxiv.org">paper</a><img src="x.png"><link rel="icon" href="i.png">'
    (tmp_path / "a.html").write_text(text)
    assert list(docs_script.remote_resources(tmp_path)) == []
