import pytest
from gemini_server import KEY


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    """Gemini's key is the test server's, and the machine's own keys go nowhere."""
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
