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
from memos.activation.codecs.projected import projected
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
    """Return the codec a spec names, such as ``snapkv:0.5+d2o+pca:0.75+transform``.

    The stages of a chain are a policy, a merger, a projection and a codec (:data:`~memos.activation.policies.POLICIES`,
    :data:`~memos.activation.policies.MERGERS`, ``pca``, :data:`CODECS`), each of which may be missing. Without a codec,
    what is left is stored as it is; a stage that would leave everything is left out. Raises :class:`InvalidInput`.
    """
    try:
        return _chain(spec.split("+"))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"KV codec {spec!r} cannot be used: {error}") from error


def _chain(stages: list[str]) -> Codec:
    if _name(stages[0]) not in POLICIES:
        return _inner(stages)
    merger = stages[1] if stages[1:] and stages[1] in MERGERS else None
    name, policy = make_policy(stages[0], merger)
    inner = _layered(_inner(stages[1 if merger is None else 2 :] or ["raw"]))
    if policy.ratio == 1:
        return inner
    return PrunedCodec(name if inner.spec == "raw" else f"{name}+{inner.spec}", policy, inner)


def _inner(stages: list[str]) -> Codec:
    """Return a codec that may stand behind a policy: perhaps a projection, then what stores it."""
    if _name(stages[0]) == "pca":
        return projected(stages[0].partition(":")[2], _layered(_inner(stages[1:] or ["raw"])))
    name, _, options = "+".join(stages).partition(":")
    if name not in CODECS:
        known = ", ".join(sorted([*CODECS, *POLICIES, "pca"]))
        raise ValueError(f"no KV codec is called {name!r}; there are: {known}")
    return CODECS[name](**dict(option.split("=", 1) for option in options.split(",") if option))


def _layered(codec: Codec) -> LayerCodec:
    if not isinstance(codec, LayerCodec):
        raise ValueError(f"{codec.spec} has to stand alone")
    return codec


def _name(stage: str) -> str:
    return stage.partition(":")[0]
