"""Policy names to policies: ``NAME:RATIO`` or ``NAME:RATIO,key=value``, perhaps with ``+MERGER`` behind.

Besides options of its own, a policy takes ``read``: the share of its budget for what a second reading of the memory
looks at most (KVzip). ``read=0`` is the policy as it was published, and costs no second reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from memos.activation.merge.base import Merger, Merging
from memos.activation.merge.chelsea import Chelsea
from memos.activation.merge.d2o import D2OSelector, Similar
from memos.activation.merge.elastic import Nearest
from memos.activation.merge.ems import EMS
from memos.activation.merge.kvmerger import KVMerger
from memos.activation.merge.razor import RazorAttention
from memos.activation.select.base import Policy, Selector
from memos.activation.select.cake import Cake
from memos.activation.select.controls import Random, Recent
from memos.activation.select.expected import ExpectedAttention
from memos.activation.select.h2o import H2O
from memos.activation.select.keydiff import KeyDiff
from memos.activation.select.kvcrush import KVCrush
from memos.activation.select.kvzip import KVzip, WithReading
from memos.activation.select.lazy import LazyEviction
from memos.activation.select.prefixkv import PrefixKV
from memos.activation.select.snapkv import SnapKV
from memos.activation.select.windowkv import WindowKV

#: Policies by name; those that are also the name of a merger are followed by it.
POLICIES: Mapping[str, type[Policy]] = {
    "cake": Cake,
    "chelsea": Chelsea,
    "d2o": D2OSelector,
    "elastic": H2O,
    "ems": EMS,
    "expected": ExpectedAttention,
    "h2o": H2O,
    "keydiff": KeyDiff,
    "kvcrush": KVCrush,
    "kvmerger": KVMerger,
    "kvzip": KVzip,
    "lazy": LazyEviction,
    "prefixkv": PrefixKV,
    "random": Random,
    "razor": RazorAttention,
    "recent": Recent,
    "snapkv": SnapKV,
    "windowkv": WindowKV,
}
#: Mergers by name, which stand behind any selector.
MERGERS: Mapping[str, Callable[[], Merger]] = {"d2o": Similar, "elastic": Nearest}
#: The whole numbers among the options that may be 0, and the largest any option may be.
_FROM_ZERO, _MOST = ("seed", "sinks"), 1_000_000
#: What everything is compared with.
CONTROLS = ("random", "recent")
#: The share of a budget that the second reading decides on, and who does without: controls, and what is nothing else.
READ = 0.5
_UNREAD = (*CONTROLS, "kvzip")


def make_policy(stage: str, merger: str | None = None) -> tuple[str, Policy]:
    """Return the policy of a stage such as ``snapkv:0.5``, with a merger's behind it, and its canonical name.

    Raises ``ValueError``.
    """
    name, _, rest = stage.partition(":")
    share, *given = rest.split(",")
    ratio, defaults = _ratio(name, share), _defaults(name)
    options = dict(_option(name, option, defaults) for option in given)
    changed = "".join(f",{key}={value}" for key, value in sorted(options.items()) if value != defaults[key])
    spec = f"{name}:{ratio:g}{changed}" if merger is None else f"{name}:{ratio:g}{changed}+{merger}"
    return spec, _policy(name, ratio, defaults | options, merger)


def _policy(name: str, ratio: float, options: dict[str, Any], merger: str | None) -> Policy:
    """Return the policy, which leaves a share of its budget to the second reading."""
    read: float = options.pop("read", 0.0)
    own = ratio * (1 - read)
    policy = POLICIES[name](own, **options)
    if merger is not None or name in MERGERS:
        if not isinstance(policy, Selector) or (merger is not None and name in MERGERS):
            raise ValueError(f"{name} merges by itself")
        policy = Merging(own, policy, MERGERS[merger or name]())
    return WithReading(ratio, policy) if read else policy


def _ratio(name: str, share: str) -> float:
    if not share or "=" in share:
        raise ValueError(f"{name} needs the share of entries to keep, as in {name}:0.5")
    if not 0 < float(share) <= 1:
        raise ValueError(f"{name} keeps a share above 0 and at most 1, not {share}")
    return float(share)


def _defaults(name: str) -> dict[str, Any]:
    own = {field.name: field.default for field in fields(POLICIES[name]) if field.name != "ratio"}
    return own if name in _UNREAD else own | {"read": READ}


def _option(name: str, option: str, defaults: Mapping[str, Any]) -> tuple[str, Any]:
    key, _, value = option.partition("=")
    if key not in defaults:
        raise ValueError(f"{name} has no option {key!r}; it has: {', '.join(defaults) or 'none'}")
    given = type(defaults[key])(value)
    if not (key not in _FROM_ZERO and isinstance(given, int)) <= given <= _MOST or (key == "read" and given >= 1):
        raise ValueError(f"{key} of {name} cannot be {value}")
    return key, given


def drops_tokens(spec: str) -> bool:
    """Return whether a codec, by its name, leaves out entries: ratio 1 is no part of a name."""
    return spec.partition(":")[0] in POLICIES
