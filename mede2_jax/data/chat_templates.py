"""Which of a model directory's chat templates counts: the one that transformers' AutoProcessor takes, and vLLM with it.

A template may lie in four files, which tools of different years wrote; early releases of Qwen2.5-VL have two, LLaMA-Factory adds a third.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.data.processor_files import PROCESSOR, TOKENIZER, load_part
from mede2_jax.foreign import shown
from mede2_jax.json_file import load_json

JINJA, LEGACY = "chat_template.jinja", "chat_template.json"
ORDER = (PROCESSOR, LEGACY, JINJA, TOKENIZER)
"""The first that has one counts. AutoProcessor asks the first three, and where these have none vLLM the tokenizer: 3 and 4."""

SECONDS = 5
"""Of a processor, for the few short conversations on which a template is tried; a usual one takes some milliseconds."""


class EndlessTemplate(Exception):
    """A template that takes longer."""


def load_tokenizer(directory: Path, **arguments: Any) -> Any:
    """The tokenizer of a model directory, with the template that counts.

    Raises:
        UserError: A file of it cannot be loaded.
    """
    from transformers import AutoTokenizer

    template = next(iter(find_templates(directory).values()), None)
    tokenizer = load_part(AutoTokenizer, directory, trust_remote_code=False, **arguments)
    tokenizer.chat_template = template
    return tokenizer


def find_templates(directory: Path) -> dict[str, str]:
    """The templates of a directory by the file that they lie in, the one that counts first.

    Raises:
        UserError: A file cannot be read, or what it calls a chat template is none.
    """
    found: dict[str, str] = {}
    for name in ORDER:
        file = directory / name
        if not file.is_file():
            continue
        template = _read_text(file) if name == JINJA else _default(load_json(file).get("chat_template"), file)
        if template is not None:
            found[name] = template
    return found


def describe_templates(directory: Path) -> str:
    """Which template counts, where the files of a directory do not agree; "" where they do.

    Raises:
        UserError: As `find_templates`.
    """
    found = find_templates(directory)
    first = next(iter(found), "")
    others = [name for name, template in found.items() if template.strip() != found[first].strip()]
    if not others:
        return ""
    have = f"{' and '.join(others)} {'has another, which is' if len(others) == 1 else 'have others, which are'} not used"
    return f"chat template: that of {first}, as AutoProcessor and vLLM take it; {have}"


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start})") from None


def _default(value: Any, file: Path) -> str | None:
    """One template, or the default among several: by name, or as a list of names and templates."""
    named = value
    if isinstance(value, list) and all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in value):
        named = {item["name"]: item.get("template") for item in value}
    template = named.get("default") if isinstance(named, dict) else named
    if template is None and (value is None or isinstance(named, dict)):
        return None
    if not isinstance(template, str):
        raise UserError(f"{file}: chat_template must be text, found {shown(value)}; use the model's own file")
    return template


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Ends what takes more than `SECONDS` of this thread's processor time, if it is the main one: only there can Python be interrupted.

    A template is a program, and its loops may be as long as it likes: two nested ones over range(99999) take hours.

    Raises:
        EndlessTemplate: From within.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    end = time.thread_time() + SECONDS

    def stop(*_: Any) -> None:
        if time.thread_time() >= end:  # the timer counts what other threads take, too
            raise EndlessTemplate(f"it takes more than {SECONDS} seconds for a short conversation")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS / 5, SECONDS / 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
