"""Policy names to policies: ``NAME:RATIO`` or ``NAME:RATIO,key=value``, perhaps with ``+MERGER`` behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def make_policy(stage: str, merger: str | None = None) -> tuple[str, Policy]:
    """Return the policy of a stage such as ``snapkv:0.5``, with a merger's behind it, and its canonical name.

    Raises ``ValueError``.
    """
    name, _, rest = stage.partition(":")
    spec, policy = _policy(name, rest.split(","))
    if merger is None and name not in MERGERS:
        return spec, policy
    if not isinstance(policy, Selector) or (merger is not None and name in MERGERS):
        raise ValueError(f"{name} merges by itself")
    merging = Merging(policy.ratio, policy, MERGERS[merger or name]())
    return spec if merger is None else f"{spec}+{merger}", merging


def _policy(name: str, options: Sequence[str]) -> tuple[str, Policy]:
    made = POLICIES[name]
    if not options[0] or "=" in options[0]:
        raise ValueError(f"{name} needs the share of entries to keep, as in {name}:0.5")
    ratio = float(options[0])
    if not 0 < ratio <= 1:
        raise ValueError(f"{name} keeps a share above 0 and at most 1, not {options[0]}")
    defaults: dict[str, Any] = {field.name: field.default for field in fields(made) if field.name != "ratio"}
    given = {}
    for option in options[1:]:
        key, _, value = option.partition("=")
        if key not in defaults:
            raise ValueError(f"{name} has no option {key!r}; it has: {', '.join(defaults) or 'none'}")
        given[key] = type(defaults[key])(value)
        if not (key not in _FROM_ZERO and isinstance(given[key], int)) <= given[key] <= _MOST:
            raise ValueError(f"{key} of {name} cannot be {value}")
    changed = "".join(f",{key}={value}" for key, value in sorted(given.items()) if value != defaults[key])
    return f"{name}:{ratio:g}{changed}", made(ratio, **given)


def drops_tokens(spec: str) -> bool:
    """Return whether a codec, by its name, leaves out entries: ratio 1 is no part of a name."""
    return spec.partition(":")[0] in POLICIES
