"""Judges on loopback in both wire formats, which answer by a rule of the test; what they are asked, and what they would say."""

import json

from chat_server import ChatServer
from gemini_server import GeminiServer


class OpenAIJudge(ChatServer):
    """`say(text, turns)` gives the reply to what the first turn says; turns are all texts. `asked` holds the first turns."""

    api, model_name = "openai", "judge-m"

    def __init__(self, say, *, faults=None, seconds=0.0):
        super().__init__(faults=faults, seconds=seconds, model=self.model_name)
        self.say, self.asked = say, []

    def answer(self, body, headers):
        self.asked.append(body["messages"][0]["content"])
        return super().answer({"n": 1, "seed": 0, "max_tokens": 9999, **body}, headers)

    def choice(self, body, prompt, index):
        turns = [message["content"] for message in body["messages"]]
        text = self.say(turns[0], turns)
        return {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "token_ids": list(range(len(text))),
        }

    @property
    def schemas(self):
        return [body.get("response_format", {}).get("json_schema", {}).get("schema") for body in self.requests]

    @property
    def temperatures(self):
        return {body["temperature"] for body in self.requests}


class GeminiJudge(GeminiServer):
    """As `OpenAIJudge`."""

    api, model_name = "gemini", "gemini-2.5-pro"

    def __init__(self, say, *, faults=None, seconds=0.0):
        super().__init__(say=lambda body, texts, images: say(texts[0], texts), faults=faults, seconds=seconds)

    @property
    def asked(self):
        return [body["contents"][0]["parts"][0]["text"] for body in self.bodies]

    @property
    def schemas(self):
        return [body["generationConfig"].get("responseJsonSchema") for body in self.bodies]

    @property
    def temperatures(self):
        return {body["generationConfig"]["temperature"] for body in self.bodies}


JUDGES = {"openai": OpenAIJudge, "gemini": GeminiJudge}


def said(same, reason="They name one drug."):
    """A reply as our prompt asks for it."""
    return json.dumps({"Same_Answer": {"Reason": reason, "Verdict": "Yes" if same else "No"}})


def data_of(text):
    """What our judge is shown."""
    return json.loads(text.rpartition("\nThe data:\n\n")[2])


def by_answer(right):
    """A judge that takes these answers for right, and no others."""
    return lambda text, turns: said(data_of(text)["answer"] in right)


def flags(server, cache, *more):
    at = [f"--judge.api={server.api}", f"--judge.model={server.model_name}", f"--judge.base_url={server.url}"]
    return [*at, f"--judge.cache={cache}", "--judge.first_rest=0.02", *more]


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
