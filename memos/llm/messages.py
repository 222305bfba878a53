"""What a chat takes and returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError

from memos.activation.compose.names import check_choice, check_ratio
from memos.config import Settings
from memos.cube import Frozen
from memos.errors import InvalidInput
from memos.plaintext.intake import check_count
from memos.runtime.retrieval.names import check_retrieval

ROLES = ("system", "user", "assistant")


class Message(Frozen):
    """One turn of a conversation; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


class ChatOptions(Frozen):
    """How to recall and how to decode.

    ``top_k`` 0 recalls nothing; ``temperature`` 0 is greedy. With ``reuse`` false the prompt is the same, but every
    token of it is computed.
    ``adapters`` are the cube ids of adapters and cartridges to run with; None leaves the choice to what is recalled.
    With ``text`` false the memories that these hold are not written into the prompt.
    ``compose`` is the mode in which several KV files begin a prompt (``prefix``: never more than one, exact;
    ``concat``, ``blend``, ...; ``auto``: whatever costs least) and ``ratio`` the share of their tokens that is computed
    anew; None leaves each to the user's :class:`~memos.store.kv_settings.KVSettings`, and then to what costs least.
    ``retrieval`` names how each token chooses what of a KV file it attends, and what share (``quest:0.25``); None: it
    attends all.
    """

    top_k: int = 10
    max_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field((), max_length=16)
    reuse: bool = True
    adapters: tuple[str, ...] | None = Field(None, max_length=16)
    text: bool = True
    compose: str | None = None
    ratio: float | None = None
    retrieval: str | None = None


class BundleUse(Frozen):
    """A bundle that a KV file brought: its tokens that were ``reused``, and that were ``recomputed`` all the same."""

    cube_id: str
    reused: int
    recomputed: int


class Usage(Frozen):
    """Tokens and milliseconds of one reply.

    The prompt's tokens are ``tokens_reused`` (from a KV file), ``tokens_shared`` (from an earlier prompt of the user's
    that began alike and is still in memory) or ``tokens_recomputed``. ``tokens_missed`` are those of the last kind that
    a KV file should have brought. A cartridge is no part of the prompt. ``mode`` says how KV files began it (None if
    none did), ``ratio`` what share of their tokens was to be computed anew, ``bundles`` what became of each.
    ``retrieval`` says how tokens chose what they attended of them (None: they did not), ``attended`` what share it was.
    ``milliseconds``: ``recall``, ``lookup`` (which cubes hold the memories), ``read`` and ``decode`` of KV files,
    ``compose``, ``prefill`` of the rest, ``first_token`` (from the call to the first token) and ``total``.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    tokens_reused: int = 0
    tokens_shared: int = 0
    tokens_recomputed: int = 0
    tokens_missed: int = 0
    mode: str | None = None
    ratio: float = 0.0
    retrieval: str | None = None
    attended: float = 1.0
    bundles: tuple[BundleUse, ...] = ()
    milliseconds: dict[str, float] = Field(default_factory=dict)


class Miss(Frozen):
    """A cube that should have served, and why it did not; the text of its memories was computed instead."""

    cube_id: str
    reason: str


class ChatReply(Frozen):
    """The answer. ``tiers`` names the cubes it was made with by the tier that served them."""

    text: str
    finish_reason: str
    model: str
    usage: Usage
    tiers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    misses: tuple[Miss, ...] = ()


def check_messages(given: object) -> tuple[Message, ...]:
    """Return the messages of a request. Raises :class:`InvalidInput`."""
    if not isinstance(given, Sequence) or isinstance(given, str | bytes) or not given:
        raise InvalidInput('messages must be a list such as [{"role": "user", "content": "..."}]')
    messages = tuple(_message(item, place) for place, item in enumerate(given))
    if messages[-1].role != "user":
        raise InvalidInput("the last message must be the user's")
    return messages


def check_options(given: Mapping[str, Any], settings: Settings) -> ChatOptions:
    """Return the options of a request. Raises :class:`InvalidInput` naming the one that cannot be used."""
    options = dict(given)
    if isinstance(options.get("stop"), str):
        options["stop"] = (options["stop"],)
    try:
        checked = ChatOptions.model_validate(options)
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        raise InvalidInput(f"chat option {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from error
    if checked.compose is not None:
        check_choice(checked.compose)
    if checked.ratio is not None:
        check_ratio(checked.ratio)
    if checked.retrieval is not None:
        check_retrieval(checked.retrieval)
    if checked.top_k != 0:
        check_count(checked.top_k, settings.max_top_k, "top_k")
    return checked


def _message(item: object, place: int) -> Message:
    if isinstance(item, Message):
        return item
    fields: Mapping[str, Any] = item if isinstance(item, Mapping) else {}
    role, content = fields.get("role"), fields.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise InvalidInput(f"messages[{place}] needs a role ({', '.join(ROLES)}) and a content that is a string")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise InvalidInput(f"messages[{place}] holds a lone surrogate")
    return Message(role=str(role), content=content)
