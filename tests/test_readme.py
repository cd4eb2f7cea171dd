"""The README's Python runs as it stands, block by block, in one namespace."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


def test_the_readme_has_python():
    assert len(BLOCKS) >= 2


def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    for block in BLOCKS:
        try:
            exec(compile(block, "README.md", "exec"), namespace)
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\nin this block of the README:\n{block}")
    assert namespace["accuracy"] > 0.9
