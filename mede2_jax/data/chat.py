"""The model's own chat template: prompts, responses, and which tokens of a demonstration are scored.

What a template makes of a conversation must hold the text of every turn, in order: a template is a program, and may be another model's.
A response is tokenised apart from its prompt, as the sampler will meet it, and ends with the token that the template
puts after an assistant turn. An image is one placeholder token here; the processor widens it to the image's size.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Bool, Int32

from mede2_jax.config import UserError
from mede2_jax.data.chat_templates import EndlessTemplate, bounded
from mede2_jax.data.records import ImagePart, Message, TextPart
from mede2_jax.foreign import shown

DEFAULT_SYSTEM_PROMPT, NO_SYSTEM_PROMPT = "default", "none"
"""What `system_prompt` can be instead of a text."""

_PROBE = "mede2 probe"
_SYSTEM_PROBE = "mede2 system probe"
_PARTS_PROBE = "mede2 'probe'\nof \"parts\""
"""Python and JSON both write it otherwise, so that it is lost where a list of parts is printed."""


class TemplateFault(UserError):
    """The template has failed on a conversation."""


@dataclass(frozen=True)
class ScoredTokens:
    """A conversation as tokens; `scored` marks those the model is to produce."""

    tokens: Int32[np.ndarray, " T"]
    scored: Bool[np.ndarray, " T"]


class ChatTokenizer:
    """Renders and tokenises conversations.

    Args:
        tokenizer: A fast transformers tokenizer with a chat template.
        image_token: What the template writes for an image.
        reserved: Tokens that may not occur in a text, since they would be taken for structure or images.
        image_text: What stands in the text for an image, the image token once among it; None: the image token alone.
        system_prompt: For conversations that have no system turn: `default` leaves it to the template, `none` wants no
            system turn (the template sees `default_system_prompt` = false), anything else is the text of one.

    Raises:
        UserError: No chat template, or one that does not end an assistant turn with a special token; or one that does
            not do what `system_prompt` asks for.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        image_token: str,
        reserved: Sequence[str],
        image_text: str | None = None,
        system_prompt: str = DEFAULT_SYSTEM_PROMPT,
    ) -> None:
        if not tokenizer.chat_template:
            raise UserError(f"tokenizer of {tokenizer.name_or_path!r} has no chat template; add chat_template.json or chat_template.jinja")
        self.tokenizer = tokenizer
        self.image_token = image_token
        self.image_text = image_text or image_token
        self.reserved = tuple(reserved)
        self.system_prompt = system_prompt
        self.image_token_id = self.special_id(image_token)
        with bounded():
            self._reads_parts = self._find_reads_parts()
            self._check_system_prompt()
            self.end_token_id = self._find_end_token()
        self.pad_token_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_token_id)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of everything that turns a conversation into tokens."""
        template, backend = str(self.tokenizer.chat_template), self.tokenizer.backend_tokenizer.to_str()
        return hashlib.sha256("\0".join((template, backend, self.image_text, self.system_prompt)).encode()).hexdigest()

    def special_id(self, token: str) -> int:
        """The id of a special token."""
        found = self.tokenizer.added_tokens_encoder.get(token)
        if found is None:
            raise UserError(f"tokenizer of {self.tokenizer.name_or_path!r} has no token {token!r}; is it this model's tokenizer?")
        return int(found)

    def prompt(self, messages: Sequence[Message]) -> Int32[np.ndarray, " T"]:
        """Tokens up to where the assistant begins to speak, one placeholder an image."""
        self._check_texts(messages)
        return self._encode(self._prompt_text(messages))

    def response(self, text: str, where: str = "the response") -> Int32[np.ndarray, " T"]:
        """Tokens of a response, kept verbatim, and the end token; an error calls it `where`."""
        self._check_text(text, where)
        return np.append(self._encode(text), np.int32(self.end_token_id))

    def demonstration(self, messages: Sequence[Message], unscored: Collection[int] = ()) -> ScoredTokens:
        """Tokens up to the last assistant turn's end; each assistant turn and its end token are scored.

        Args:
            messages: The conversation.
            unscored: Places of assistant turns that are not scored.

        Raises:
            UserError: The template rewrites earlier turns, so that what was scored is not what a later turn sees.
        """
        self._check_texts(messages)
        pieces: list[np.ndarray] = []
        scored: list[np.ndarray] = []
        done = ""
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._prompt_text(messages[:index])
            if not before.startswith(done):
                raise UserError(f"the chat template changes what came before message {index}; multi-turn training needs one that does not")
            context, response = self._encode(before[len(done) :]), self.response(message.text)
            pieces += [context, response]
            scored += [np.zeros(len(context), bool), np.full(len(response), index not in unscored)]
            done = before + message.text + self._end_token
            if not self._render(messages[: index + 1]).startswith(done):
                raise UserError(
                    f"the chat template does not keep the text of message {index}; training would score other tokens than it shows"
                )
        return ScoredTokens(np.concatenate(pieces), np.concatenate(scored))

    def _encode(self, text: str) -> Int32[np.ndarray, " T"]:
        # The backend has no padding state that threads would share, and lets other threads run while it works on a batch.
        (encoding,) = self.tokenizer.backend_tokenizer.encode_batch_fast([text], add_special_tokens=False)
        try:
            return np.array(encoding.ids, dtype=np.int32)
        except OverflowError:
            raise UserError(f"the tokenizer has a token numbered {max(encoding.ids)}; use the model's own tokenizer") from None

    def _prompt_text(self, messages: Sequence[Message]) -> str:
        return self._render(messages, add_generation_prompt=True)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The template's text, in which every turn's text is found."""
        turns = list(messages)
        inserted = self.system_prompt not in (DEFAULT_SYSTEM_PROMPT, NO_SYSTEM_PROMPT) and not (turns and turns[0].role == "system")
        if inserted:
            turns.insert(0, Message(role="system", content=self.system_prompt))
        text = self._rendered(turns, add_generation_prompt)
        if not self._reads_parts and any(not isinstance(turn.content, str) for turn in turns):
            raise UserError(
                "the chat template prints contents that are given in parts instead of reading them; use that of the vision-language model, "
                "or give texts"
            )
        lost = _first_lost(turns, text)
        if inserted and lost == 0:
            shows = f"data.system_prompt={self.system_prompt[:40]!r} as it is; leave it out, or change the template"
            raise UserError(f"the chat template does not show {shows}")
        if lost is not None:
            raise UserError(
                f"the chat template does not show the text of message {lost - inserted} as it is and in its place; change either"
            )
        # No text of a message can hold the reserved image token: every one in here is the template's.
        return text.replace(self.image_token, self.image_text)

    def _find_reads_parts(self) -> bool:
        """Whether a text in parts is shown like one that is given as it is; where the template fails on parts, it will say so itself."""
        image = Message(role="user", content=(ImagePart(), TextPart(text=_PARTS_PROBE)))
        as_text, as_part = (Message(role="user", content=content) for content in (_PARTS_PROBE, (TextPart(text=_PARTS_PROBE),)))
        try:
            shown_in_parts = all(_PARTS_PROBE in self._rendered([message]) for message in (as_part, image))
        except TemplateFault:
            return True
        return shown_in_parts or _PARTS_PROBE not in self._rendered([as_text])

    def _rendered(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        turns = [message.model_dump() for message in messages]
        options = {"default_system_prompt": False} if self.system_prompt == NO_SYSTEM_PROMPT else {}
        try:
            return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt, **options)
        except EndlessTemplate as error:
            raise UserError(f"the chat template of {self.tokenizer.name_or_path!r} has no end: {error}; use the model's own") from None
        except jinja2.TemplateError as error:
            raise TemplateFault(f"the chat template refuses the conversation: {shown(str(error), 300)}") from None
        except Exception as error:  # a template is a program: it may add a text to a list, divide by zero, or call what is not there
            parts = any(not isinstance(message.content, str) for message in messages)
            hint = "; it may be one for texts only, use that of the vision-language model" if parts else ""
            reason = shown(f"{type(error).__name__}: {error}", 300)
            raise TemplateFault(
                f"the chat template of {self.tokenizer.name_or_path!r} fails on the conversation ({reason}){hint}"
            ) from None

    def _check_system_prompt(self) -> None:
        question = Message(role="user", content=_PROBE)
        if self.system_prompt == NO_SYSTEM_PROMPT:
            opening, is_shown, _ = self._rendered([Message(role="system", content=_SYSTEM_PROBE), question]).partition(_SYSTEM_PROBE)
            if opening and is_shown and self._rendered([question]).startswith(opening):
                raise UserError(
                    "data.system_prompt=none, but the chat template adds a system turn of its own; give the text of a system prompt, "
                    "or change the template"
                )
        elif self.system_prompt != DEFAULT_SYSTEM_PROMPT:
            self._check_text(self.system_prompt, "data.system_prompt")
            self._render([question])

    def _find_end_token(self) -> int:
        question, answer = Message(role="user", content=_PROBE), Message(role="assistant", content=_PROBE)
        before = self._prompt_text([question])
        after = self._render([question, answer]).removeprefix(before + _PROBE)
        specials = self.tokenizer.added_tokens_encoder
        self._end_token = next((token for token in sorted(specials, key=len, reverse=True) if after.startswith(token)), "")
        if not self._end_token:
            raise UserError(
                f"the chat template ends an assistant turn with {after[:40]!r}, not with a special token: the model could not learn to stop"
            )
        return int(specials[self._end_token])

    def _check_texts(self, messages: Sequence[Message]) -> None:
        for index, message in enumerate(messages):
            self._check_text(message.text, f"message {index}")

    def _check_text(self, text: str, where: str) -> None:
        for token in self.reserved:
            if token in text:
                raise UserError(
                    f"{where} contains the reserved token {token!r} in its text; remove it (images are image parts, never text)"
                )


def _first_lost(messages: Sequence[Message], text: str) -> int | None:
    """The first message of which a text is not in the rendered one, in order; templates may take the blanks around it."""
    at = 0
    for index, message in enumerate(messages):
        parts = (
            [message.content] if isinstance(message.content, str) else [part.text for part in message.content if isinstance(part, TextPart)]
        )
        for part in parts:
            found = text.find(part.strip(), at)
            if found < 0:
                return index
            at = found + len(part.strip())
    return None
