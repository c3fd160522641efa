"""A server that speaks the OpenAI chat protocol as vLLM does, on loopback, with a made-up model behind it: what a response says
follows from the prompt and the sample's seed. In this process, or as one of its own:

    python tests/chat_server.py PORT MODEL_DIR [SECONDS]    # each request takes so long
"""

import base64
import contextlib
import hashlib
import io
import json
import random
import socket
import sys
import threading
import time

from loopback import Handler, Listener
from PIL import Image

WORDS = ["the", "lung", "shows", "a", "white", "area", "with", "sharp", "edge", "and", "no", "air", "below", "it", "so", "fluid"]
END = 0


class Drop(Exception):
    """Close the connection without an answer."""


class ChatServer:
    """Serves while inside `with`.

    `tokenise` turns messages into the ids of the prompt, a response into its ids, and those into text. `faults(number, body)` may
    return what the number-th request gets instead of an answer: (status, headers, bytes); or sleep, or raise Drop.
    """

    def __init__(self, port=0, *, tokenise=None, seconds=0.0, faults=None, model="tiny", max_model_len=4096, change=None):
        self.prompt_ids, self.response_ids, self.text_of = tokenise or (byte_prompt, byte_response, byte_text)
        self.seconds, self.faults, self.model, self.max_model_len, self.change = seconds, faults, model, max_model_len, change
        self.requests, self.load, self.peak, self.lock, self.headers = [], 0, 0, threading.Lock(), []
        self.http = Listener(("127.0.0.1", port), _Answers)
        self.http.chat = self
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        """As a process that dies: no new connections, and those there are break."""
        self.http.shutdown()
        self.http.server_close()
        for connection in list(self.http.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self, body, headers):
        with self.lock:
            number = len(self.requests)
            self.requests.append(body)
            self.headers.append(headers)
            self.load += body["n"]
            self.peak = max(self.peak, self.load)
        try:
            if self.faults and (fault := self.faults(number, body)) is not None:
                return fault
            time.sleep(self.seconds)
            reply = self.reply(body)
            return 200, {}, json.dumps(self.change(reply) if self.change else reply).encode()
        finally:
            with self.lock:
                self.load -= body["n"]

    def reply(self, body):
        prompt = self.prompt_ids(body["messages"], body.get("chat_template_kwargs", {}))
        choices = [self.choice(body, prompt, index) for index in range(body["n"])]
        usage = {"prompt_tokens": len(prompt), "completion_tokens": sum(len(choice["token_ids"]) for choice in choices)}
        reply = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": choices, "usage": usage}
        return reply | ({"prompt_token_ids": prompt} if body.get("return_token_ids") else {})

    def choice(self, body, prompt, index):
        text = response_text(prompt, body["seed"] + index)
        tokens = [*self.response_ids(text), END]
        cut = len(tokens) > body["max_tokens"]
        if cut:
            tokens = tokens[: body["max_tokens"]]
            text = self.text_of(tokens)
        choice = {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "length" if cut else "stop"}
        if body.get("logprobs"):
            scores = random.Random(text)
            choice["logprobs"] = {"content": [{"token": str(token), "logprob": -scores.random()} for token in tokens]}
        return choice | {"token_ids": tokens}


def response_text(prompt, seed):
    rng = random.Random(hashlib.sha256(f"{seed} {prompt}".encode()).hexdigest())
    if rng.random() < 0.05:
        return ""
    thought = " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 40)))
    return f"<think> {thought} </think>" + (f" <answer> {rng.choice('ABCD')} </answer>" if rng.random() < 0.9 else "")


def byte_prompt(messages, options):
    """Bytes of all texts, and 1000 + red of each image's first pixel."""
    ids = list(repr(options).encode()) if options else []
    for message in messages:
        parts = message["content"] if isinstance(message["content"], list) else [{"type": "text", "text": message["content"]}]
        for part in parts:
            ids += list(part["text"].encode()) if part["type"] == "text" else [1000 + picture(part).getpixel((0, 0))[0]]
    return ids


def byte_response(text):
    return list(text.encode())


def byte_text(tokens):
    return bytes(tokens).decode()


def picture(part):
    kind, _, data = part["image_url"]["url"].partition(",")
    assert kind in [f"data:image/{format};base64" for format in ("png", "jpeg", "webp")]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def model_tokenise(directory):
    """Prompt ids, response ids and text of a Qwen2.5-VL directory, by transformers' own classes."""
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil

    tokenizer, images = AutoTokenizer.from_pretrained(directory), Qwen2VLImageProcessorPil.from_pretrained(directory)

    def prompt(messages, options):
        turns, counts = [], []
        for message in messages:
            content = message["content"]
            for part in content if isinstance(content, list) else []:
                if part["type"] == "image_url":
                    grid = images(images=[picture(part)], return_tensors="np")["image_grid_thw"][0]
                    counts.append(int(grid.prod()) // images.merge_size**2)
            if isinstance(content, list):
                content = [{"type": "image"} if part["type"] == "image_url" else part for part in content]
            turns.append(message | {"content": content})
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **options)
        pieces = text.split("<|image_pad|>")
        for count, piece in zip(counts, pieces[1:], strict=True):
            pieces[0] += "<|image_pad|>" * count + piece
        return tokenizer(pieces[0], add_special_tokens=False)["input_ids"]

    return prompt, lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.decode


class _Answers(Handler):
    def do_GET(self):
        chat = self.server.chat
        self.send(200, {}, json.dumps({"object": "list", "data": [{"id": chat.model, "max_model_len": chat.max_model_len}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self.send(*self.server.chat.answer(body, {name.lower(): value for name, value in self.headers.items()}))
        except Drop:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status, headers, data):
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


if __name__ == "__main__":
    with ChatServer(int(sys.argv[1]), tokenise=model_tokenise(sys.argv[2]), seconds=float((sys.argv[3:] or [0])[0])) as server:
        print(server.url, flush=True)
        threading.Event().wait()
