"""A server that speaks Gemini's wire format (models/MODEL:generateContent of v1beta), on loopback: it takes what the public API
takes, refuses what that refuses, and answers by a rule instead of a model. In this process, or as one of its own:

    python tests/gemini_server.py PORT [SECONDS]    # each request takes so long
"""

import base64
import contextlib
import hashlib
import io
import json
import random
import re
import socket
import sys
import threading
import time
from collections import Counter

from loopback import Handler, Listener
from PIL import Image

KEY = "loopback-key"
WORDS = ["the", "image", "shows", "no", "fluid", "and", "so", "a", "sharp", "edge", "means", "air"]
THOUGHTS = 7
IMAGE_TOKENS = 258


class Drop(Exception):
    """Close the connection: without an answer, or after a part of it."""

    def __init__(self, part=b""):
        self.part = part


class Drip(Exception):
    """Send the answer in pieces, which takes so many seconds."""

    def __init__(self, seconds):
        self.seconds = seconds


class GeminiServer:
    """Serves while inside `with`.

    `say(body, texts, images)` gives the text of an answer; by default words, or what the request's schema asks for.
    `faults(number, body)` may return what the number-th request gets instead of an answer: (status, headers, bytes), or a dict that
    is a reply of its own; or sleep, or raise Drop or Drip.

    `delivered` counts, by digest of the request's body, the answers that were generated and sent whole: what a user pays for. `billed`
    is the bill for all replies, at the prices of gemini-2.5-pro, whether anybody was there to read them or not.
    """

    def __init__(self, port=0, *, say=None, faults=None, seconds=0.0, model="gemini-2.5-pro", key=KEY):
        self.say, self.faults, self.seconds, self.model, self.key = say or say_words, faults, seconds, model, key
        self.bodies, self.headers, self.delivered, self.bill = [], [], Counter(), []
        self.load, self.peak, self.lock = 0, 0, threading.Lock()
        self.http = Listener(("127.0.0.1", port), _Answers)
        self.http.gemini = self
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()
        for connection in list(self.http.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self, path, headers, raw):
        """(status, headers, bytes, digest if it is a paid answer, seconds that sending takes)."""
        body = camel(json.loads(raw))
        with self.lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(headers)
            self.load += 1
            self.peak = max(self.peak, self.load)
        try:
            if headers.get("x-goog-api-key") != self.key:
                return *key_fault(), None, 0.0
            if path != f"/v1beta/models/{self.model}:generateContent":
                return *error(404, "NOT_FOUND", f"{path} is not found for API version v1beta, or is not supported"), None, 0.0
            if (fault := check(body)) is not None:
                return *error(400, "INVALID_ARGUMENT", fault), None, 0.0
            slowly = 0.0
            try:
                given = self.faults(number, body) if self.faults else None
            except Drip as drip:
                given, slowly = None, drip.seconds
            if isinstance(given, tuple):
                return *given, None, 0.0
            time.sleep(self.seconds)
            reply = self.reply(body) if given is None else given
            with self.lock:
                self.bill.append(reply.get("usageMetadata", {}))
            reply = json.dumps(reply).encode()
            return 200, {}, reply, digest(body) if given is None else None, slowly
        finally:
            with self.lock:
                self.load -= 1

    @property
    def billed(self):
        """US dollars."""
        output = [usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0) for usage in self.bill]
        return (sum(usage.get("promptTokenCount", 0) for usage in self.bill) * 1.25 + sum(output) * 10.0) / 1e6

    def reply(self, body, **candidate):
        """A whole reply; `candidate` changes its only candidate."""
        texts, images = prompt(body)
        text = self.say(body, texts, images)
        limit, end = body.get("generationConfig", {}).get("maxOutputTokens", 65536), "STOP"
        if len(tokens(text)) + THOUGHTS > limit:
            text, end = "".join(tokens(text)[: max(limit - THOUGHTS, 0)]), "MAX_TOKENS"
        content = {"role": "model"} | ({"parts": [{"text": text}]} if text else {})
        return {
            "candidates": [{"content": content, "finishReason": end, "index": 0} | candidate],
            "usageMetadata": usage(texts, images, len(tokens(text))),
            "modelVersion": self.model,
            "responseId": "loopback",
        }


def digest(body):
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def blocked(body, reason="SAFETY"):
    """The reply to a prompt that is blocked."""
    ratings = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH"}]
    texts, images = prompt(body)
    return {"promptFeedback": {"blockReason": reason, "safetyRatings": ratings}, "usageMetadata": usage(texts, images, None)}


def empty(body):
    """A reply that says nothing at all, as Gemini's are now and then."""
    return {"candidates": [], "usageMetadata": usage(*prompt(body), None), "modelVersion": "gemini-2.5-pro"}


def error(code, status, message, *, details=(), **headers):
    """Google's error envelope."""
    body = {"error": {"code": code, "message": message, "status": status} | ({"details": list(details)} if details else {})}
    return code, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode()


def key_fault():
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
    return error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", details=[detail])


def usage(texts, images, answer):
    text_tokens = sum(len(tokens(text)) for text in texts)
    details = [{"modality": "TEXT", "tokenCount": text_tokens}] + [{"modality": "IMAGE", "tokenCount": IMAGE_TOKENS * len(images)}] * bool(
        images
    )
    total = text_tokens + IMAGE_TOKENS * len(images)
    found = {"promptTokenCount": total, "totalTokenCount": total, "promptTokensDetails": details}
    if answer is None:
        return found
    return found | {"candidatesTokenCount": answer, "thoughtsTokenCount": THOUGHTS, "totalTokenCount": total + answer + THOUGHTS}


def data(part):
    """Protocol buffers' JSON takes both alphabets of base64."""
    return base64.b64decode(part["inlineData"]["data"].replace("-", "+").replace("_", "/"))


def camel(value):
    """And both ways to write a field, inline_data and inlineData; a schema is a value, whose names are left alone."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = {re.sub(r"_([a-z])", lambda match: match[1].upper(), name): item for name, item in value.items()}
    return {name: item if name == "responseJsonSchema" else camel(item) for name, item in named.items()}


def tokens(text):
    return re.findall(r"\s*\S+|\s+$", text)


def prompt(body):
    """All texts, the system's first, and all images."""
    parts = [part for content in [body.get("systemInstruction", {}), *body["contents"]] for part in content.get("parts", [])]
    images = [Image.open(io.BytesIO(data(part))) for part in parts if "inlineData" in part]
    return [part["text"] for part in parts if "text" in part], images


TOP = {"contents", "systemInstruction", "generationConfig", "safetySettings", "tools", "toolConfig", "cachedContent"}
GENERATION = {
    *("temperature", "topP", "topK", "maxOutputTokens", "stopSequences", "seed", "candidateCount", "responseMimeType"),
    *("responseSchema", "responseJsonSchema", "thinkingConfig", "presencePenalty", "frequencyPenalty", "mediaResolution"),
}


def check(body):
    """Why the API would refuse a body; None: it would not."""
    generation = body.get("generationConfig", {})
    unknown = [*(set(body) - TOP), *(f"generation_config.{name}" for name in set(generation) - GENERATION)]
    if unknown:
        return f"Invalid JSON payload received. Unknown name {sorted(unknown)[0]!r}: Cannot find field."
    if not body.get("contents"):
        return "* GenerateContentRequest.contents: contents is not specified"
    for content in body["contents"]:
        if content.get("role", "user") not in ("user", "model"):
            return "Please use a valid role: user, model."
        for part in content.get("parts", []):
            if not part.keys() <= {"text", "inlineData"} or len(part) != 1:
                return "* GenerateContentRequest.contents.parts: required oneof field 'data' must have one initialized field"
            if "inlineData" in part and not part["inlineData"].get("mimeType", "").startswith("image/"):
                return "Unsupported MIME type"
    if "responseJsonSchema" in generation and generation.get("responseMimeType") != "application/json":
        return "* GenerateContentRequest.generation_config.response_schema: only allowed when mime type is application/json"
    if not -(2**31) <= generation.get("seed", 0) < 2**31:
        return "Invalid value at 'generation_config.seed' (TYPE_INT32)"
    if not 0 <= generation.get("temperature", 1) <= 2:
        return "* GenerateContentRequest.generation_config.temperature: must be in the range [0.0, 2.0]"
    return None


def say_words(body, texts, images):
    """Words that follow from the whole request; or JSON, if it has a schema."""
    rng = random.Random(digest(body))
    schema = body.get("generationConfig", {}).get("responseJsonSchema")
    return sentence(rng) if schema is None else json.dumps(instance(schema, rng))


def sentence(rng):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 12)))


def instance(schema, rng):
    """Something that a schema allows."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: instance(value, rng) for name, value in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance(schema["items"], rng) for _ in range(max(schema.get("minItems", 1), 1))]
    if kind in ("integer", "number"):
        return rng.randint(int(schema.get("minimum", 0)), int(schema.get("maximum", 10)))
    return {"boolean": rng.random() < 0.5, "string": sentence(rng), "null": None}[kind]


class _Answers(Handler):
    def do_POST(self):
        gemini = self.server.gemini
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            status, extra, data, paid, seconds = gemini.answer(self.path, headers, raw)
        except Drop as drop:
            if drop.part:
                self.start(200, {}, len(drop.part) + 1000)
                self.wfile.write(drop.part)
                self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if paid is not None:
            with gemini.lock:
                gemini.delivered[paid] += 1
        self.start(status, extra, len(data))
        size = max(len(data) // 10, 1) if seconds else len(data) or 1
        for at in range(0, len(data), size):
            self.wfile.write(data[at : at + size])
            self.wfile.flush()
            time.sleep(seconds / 10)

    def start(self, status, headers, length):
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json; charset=UTF-8", "Content-Length": str(length)} | headers).items():
            self.send_header(name, value)
        self.end_headers()


if __name__ == "__main__":
    with GeminiServer(int(sys.argv[1]), seconds=float((sys.argv[2:] or [0])[0])) as server:
        print(server.url, flush=True)
        threading.Event().wait()
