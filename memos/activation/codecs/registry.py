"""Codec names to codecs: ``NAME`` or ``NAME:key=value,key=value``, or several stages joined by ``+``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from memos.activation.codecs.base import Codec, LayerCodec
from memos.activation.codecs.cachegen import cachegen_codec
from memos.activation.codecs.gear import gear_codec
from memos.activation.codecs.groupwise import groupwise_codec
from memos.activation.codecs.lossless import LosslessCodec
from memos.activation.codecs.mikv import mikv_codec
from memos.activation.codecs.paged import paged_codec
from memos.activation.codecs.pruned import PrunedCodec
from memos.activation.codecs.raw import RawCodec
from memos.activation.codecs.transform import transform_codec
from memos.activation.codecs.zipcache import zipcache_codec
from memos.activation.policies import MERGERS, POLICIES, make_policy
from memos.errors import InvalidInput

#: Makers by name; each takes the options as strings and raises ``ValueError`` for one it does not know.
CODECS: dict[str, Callable[..., Codec]] = {
    "cachegen": cachegen_codec,
    "gear": gear_codec,
    "int2": partial(groupwise_codec, 2),
    "int3": partial(groupwise_codec, 3),
    "int4": partial(paged_codec, 4),
    "int8": partial(paged_codec, 8),
    "lossless": LosslessCodec,
    "mikv": mikv_codec,
    "raw": RawCodec,
    "transform": transform_codec,
    "zipcache": zipcache_codec,
}


def make_codec(spec: str) -> Codec:
    """Return the codec a spec names: that of a chain such as ``keydiff:0.5+transform``, or of its last stage alone.

    A policy (:mod:`memos.activation.policies`) may stand before the codec; without a codec what it leaves is
    stored as it is. A policy that keeps everything is left out. Raises :class:`InvalidInput`.
    """
    try:
        return _chain(spec.split("+"))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"KV codec {spec!r} cannot be used: {error}") from error


def _chain(stages: list[str]) -> Codec:
    first = stages[0].partition(":")[0]
    if first not in POLICIES:
        return _codec("+".join(stages))
    merger, rest = (stages[1], stages[2:]) if stages[1:2] and stages[1] in MERGERS else (None, stages[1:])
    name, policy = make_policy(stages[0], merger)
    inner = _codec("+".join(rest) or "raw")
    if policy.ratio == 1:
        return inner
    if not isinstance(inner, LayerCodec):
        raise ValueError(f"{inner.spec} cannot stand behind a policy")
    return PrunedCodec(name if inner.spec == "raw" else f"{name}+{inner.spec}", policy, inner)


def _codec(spec: str) -> Codec:
    name, _, options = spec.partition(":")
    if name not in CODECS:
        raise ValueError(f"no KV codec is called {name!r}; there are: {', '.join(sorted([*CODECS, *POLICIES]))}")
    return CODECS[name](**dict(option.split("=", 1) for option in options.split(",") if option))
