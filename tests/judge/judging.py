"""An engine that answers judges' requests by a rule, in place of an API; and files to judge."""

import contextlib
import json
import re

from mede2_jax.data.records import TextPart
from mede2_jax.engines.chat import ChatFailure, ChatReply, Completion, Usage
from mede2_jax.judge import judges
from mede2_jax.judge.run import run
from mede2_jax.reasoning.rubric import NAMES

FLAW = {
    "illogical": "logical_consistency",
    "ignores_image": "image_analysis",
    "hallucinates": "no_hallucination",
    "no_reflection": "reflection",
}


class Engine:
    """A `ChatEngine`. `say(request)` gives a reply's text, or a ChatFailure, or raises; replies come three at a time, last first."""

    def __init__(self, say):
        self.say, self.requests = say, []

    def answer(self, requests):
        waiting = []
        for request in requests:
            self.requests.append(request)
            waiting.append(request)
            if len(waiting) == 3:
                yield from self._replies(waiting)
                waiting = []
        yield from self._replies(waiting)

    def _replies(self, requests):
        for request in reversed(requests):
            said = self.say(request)
            if isinstance(said, ChatFailure):
                yield said
                continue
            text, finish = said if isinstance(said, tuple) else (said, "stop")
            usage = Usage(prompt_tokens=100, response_tokens=10, cost=0.001, cached=False)
            yield ChatReply(request, 100, (Completion(text, (), None, finish, request.seed),), usage)


def with_engine(monkeypatch, engine):
    """Runs of this test ask that engine, whichever API their config names."""

    @contextlib.contextmanager
    def opened(setup, notify):
        yield judges.ChatJudge(setup, engine)

    monkeypatch.setattr("mede2_jax.judge.run.open_judge", opened)
    return engine


def text_of(request):
    """All that a judge is told."""
    return "".join(part.text for part in request.messages[0].content if isinstance(part, TextPart))


def response_of(request):
    """The response that is to be judged."""
    return re.search(r"<Answer> (.*) </Answer>$", text_of(request), re.DOTALL)[1]


def reply(*fails):
    """A judge's reply that finds these aspects not met."""
    return json.dumps({name: "No" if aspect in fails else "Yes" for aspect, name in NAMES.items()})


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def manifest(path):
    return json.loads(path.with_name(path.name + ".manifest.json").read_text("utf-8"))


def assert_adds_up(written):
    """Responses: in = judged + dropped by reason. Judgments: wanted = there + failed, unless the run ended early."""
    counts = written["counts"]
    assert counts["rollouts"] == counts["judged"] + sum(written["dropped"].values())
    assert counts["judgments"] == counts["positive"] + counts["negative"] + counts["wrong"]
    if written["finished"]:
        assert counts["wanted"] == counts["judgments"] + len(written["failed"])


def honest(rollouts):
    """A judge that knows what each response was made to be."""
    made = {rollout["response"]: rollout["metadata"]["made"] for rollout in rollouts}
    return lambda request: reply(*(FLAW[flaw] for flaw in made[response_of(request)].split() if flaw in FLAW))


def write(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


__all__ = [
    "FLAW",
    "Engine",
    "assert_adds_up",
    "honest",
    "manifest",
    "read",
    "reply",
    "response_of",
    "run",
    "text_of",
    "with_engine",
    "write",
]
