"""Codec names to codecs: ``NAME`` or ``NAME:key=value,key=value``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from memos.activation.codecs.base import Codec
from memos.activation.codecs.cachegen import cachegen_codec
from memos.activation.codecs.gear import gear_codec
from memos.activation.codecs.groupwise import groupwise_codec
from memos.activation.codecs.lossless import LosslessCodec
from memos.activation.codecs.mikv import mikv_codec
from memos.activation.codecs.paged import paged_codec
from memos.activation.codecs.raw import RawCodec
from memos.activation.codecs.transform import transform_codec
from memos.activation.codecs.zipcache import zipcache_codec
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
    """Return the codec a spec names. Raises :class:`InvalidInput`."""
    name, _, rest = spec.partition(":")
    if name not in CODECS:
        raise InvalidInput(f"no KV codec is called {name!r}; there are: {', '.join(sorted(CODECS))}")
    try:
        options = dict(option.split("=", 1) for option in rest.split(",") if option)
        return CODECS[name](**options)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"KV codec {spec!r} cannot be used: {error}") from error
