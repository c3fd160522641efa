"""Keys and addresses of paid APIs: sent where they belong, and repeated nowhere."""

import json
import logging
import traceback

import pytest
from chat_server import ChatServer
from gemini_server import KEY, GeminiServer
from paying import engine, request

from mede2_jax.config import UserError
from mede2_jax.engines.chat import Sampling
from mede2_jax.engines.paid.config import APIConfig
from mede2_jax.engines.paid.engine import open_api
from mede2_jax.engines.wire.http import api_key, hide_key


def test_openai_itself_needs_a_key():
    with pytest.raises(UserError, match="no API key: set OPENAI_API_KEY in the environment"):
        open_api(APIConfig(api="openai", model="gpt-4o"), Sampling(), print)


@pytest.mark.parametrize("url", ["ftp://x", "http://user:secret@host", "http://host?key=secret", "nonsense"])
@pytest.mark.parametrize("api", ["gemini", "openai"])
def test_bad_urls_are_one_line_without_their_secrets(api, url):
    with pytest.raises(UserError, match="base_url") as error:
        open_api(APIConfig(api=api, model="m", base_url=url), Sampling(), lambda line: None)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


# Keys.

PLANTED = "sk-planted-0123456789abcdef"


def every_text(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).decode("latin-1")


@pytest.mark.slow
@pytest.mark.parametrize("server_type", [GeminiServer, ChatServer])
@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_no_key_goes_anywhere_but_to_the_api(server_type, status, tmp_path, monkeypatch, caplog, capfd):
    """Not even where the API itself repeats it, at any place of a message that is shortened."""
    caplog.set_level(logging.DEBUG)
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, PLANTED)
    # At the start of each too: which of them is shown depends on the machine's speed.
    fill = 297 - 2 * len(PLANTED)
    messages = [f"wrong key {PLANTED}!", *(f"{PLANTED} {'x' * (fill + cut)}{PLANTED}" for cut in range(0, len(PLANTED), 3))]
    lines, said = [], []

    def faults(number, body):
        if number < 5:
            return None
        text = {"error": {"message": messages[number % len(messages)], "code": status, "status": "X", "key": PLANTED}}
        return status, {}, json.dumps(text).encode()

    options = {"key": PLANTED} if server_type is GeminiServer else {}
    with server_type(faults=faults, **options) as server:
        chat = engine(server, notify=lines.append, cache=tmp_path / "c", patience=2.2)
        try:
            with chat:
                said += [str(reply) for reply in chat.answer(map(request, range(40)))]
        except UserError as fault:
            said += traceback.format_exception(fault)
        assert any(PLANTED in str(headers) for headers in server.headers)
    assert (tmp_path / "c").exists() and len(said) > 5
    printed = capfd.readouterr()
    everything = "\n".join(
        [*lines, *said, caplog.text, printed.out, printed.err, every_text(tmp_path), repr(chat.config), repr(chat.usage)]
    )
    found = [PLANTED[:length] for length in range(8, len(PLANTED) + 1) if PLANTED[:length] in everything]
    assert not found, everything[max(0, everything.index(found[0]) - 300) :][:600]
    assert "[key]" in everything


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"wrong key {PLANTED}!", "wrong key [key]!"),
        (f"wrong key {PLANTED[:20]}", "wrong key [key]"),  # a server that cuts without a sign
        (f"wrong key {PLANTED[:12]}…{PLANTED[-9:]}.", "wrong key [key]…[key]."),
        (f"{PLANTED[5:]} and {PLANTED}", "[key] and [key]"),
        (f"…{PLANTED[9:17]}…", "…[key]…"),
        (f"{PLANTED[:7]} is no key", f"{PLANTED[:7]} is no key"),
        ("nothing of it", "nothing of it"),
    ],
)
def test_no_part_of_a_key_is_repeated(text, expected):
    assert hide_key(text, PLANTED) == expected and hide_key(text, "none") == text


@pytest.mark.parametrize(
    ("url", "is_told"),
    [
        ("http://192.0.2.7:8000/v1", True),
        ("http://gpu-node:8000/v1", True),
        ("https://api.example.org/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://localhost/v1", False),
    ],
)
@pytest.mark.parametrize("key", ["sk-planted-0123456789", ""])
def test_a_key_that_goes_to_another_machine_unencrypted_is_told_of(url, is_told, key, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    lines = []
    open_api(APIConfig(api="openai", model="gpt-4o", base_url=url), Sampling(), lines.append)
    assert [line for line in lines if "unencrypted" in line] == (
        [f"the key in OPENAI_API_KEY goes to {url} unencrypted: whoever is on the way can read it; unset it where that server needs none"]
        if is_told and key
        else []
    )


@pytest.mark.parametrize("key", ["PLANTED\rKEY-0123", "PLANTED\nKEY-0123", "PLANTED KEY-0123", "PLANTED–KEY-0123"])
@pytest.mark.parametrize(("api", "name"), [("gemini", "GEMINI_API_KEY"), ("openai", "OPENAI_API_KEY")])
def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated(api, name, key, monkeypatch):
    monkeypatch.setenv(name, key)
    with pytest.raises(UserError, match=f"{name} holds a line break, a space or a letter that no key has") as error:
        open_api(APIConfig(api=api, model="some-model", base_url="http://127.0.0.1:9/v1"), Sampling(), print)
    assert "PLANTED" not in str(error.value)


def test_white_space_around_a_key_is_none_of_it(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", f" {KEY}\r\n")
    assert api_key("GOOGLE_API_KEY", "GEMINI_API_KEY") == KEY
    monkeypatch.setenv("OPENAI_API_KEY", "  ")
    assert api_key("OPENAI_API_KEY") == ""
