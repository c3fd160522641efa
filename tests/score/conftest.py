import sys
from pathlib import Path

import pytest
from gemini_server import KEY

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "tasks"):
    sys.path.append(str(folder))


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
