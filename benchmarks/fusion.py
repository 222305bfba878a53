"""Merging LoRA adapters on the shapes of the bundled model: float32, one thread, arms interleaved, medians of CPU time.

svd           the seven projections of a layer merged to rank 8: the QR trick, a dense SVD of the summed weights, and
              PEFT's own svd, as its public call does it and at its best (reduced matrices, its registration left out);
              errors against the exact sum
methods       every method on three adapters of rank 8, time and error against the exact sum, also with the result
              scaled as fits best (ties returns a mean): independent adapters, and ones that share their down factors
              and most of their up factors, as PRAG's do. Methods on deltas against a dense SVD of the same weight
order         putting the ranks of an adapter of 30 layers in order, and the error that is left at half the rank
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from harness import Report, parser, table

from memos.parametric.adapter import PROJECTIONS, Adapter, Factors
from memos.parametric.fusion.base import Elementwise
from memos.parametric.fusion.dare import DareLinear, DareTies
from memos.parametric.fusion.fuse import METHODS, fuse
from memos.parametric.fusion.magnitude import MagnitudePrune
from memos.parametric.fusion.ordering import ordered, truncate
from memos.parametric.fusion.ties import Ties

HIDDEN, KEYS, INNER, RANK, COUNT, DENSITY = 576, 192, 1_536, 8, 3, 0.5
SIZES = dict(
    zip(
        PROJECTIONS,
        ((HIDDEN, HIDDEN), (HIDDEN, KEYS), (HIDDEN, KEYS), (HIDDEN, HIDDEN), *[(HIDDEN, INNER)] * 2, (INNER, HIDDEN)),
        strict=True,
    )
)
MODULES = len(PROJECTIONS)
#: The element-wise methods that thin out, by name.
PRUNING: dict[str, Callable[..., Elementwise]] = {
    "dare_linear": DareLinear,
    "dare_ties": DareTies,
    "magnitude_prune": MagnitudePrune,
    "ties": Ties,
}

Arm = Callable[[], Any]


def main() -> int:
    """Measure everything."""
    options = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rounds = 3 if options.quick else 7
    report = Report("fusion", options)
    for count in (COUNT, 2, 8, 32):
        _svd(report, count, rounds)
    _methods(report, rounds)
    _order(report, rounds)
    report.notes.append("Random adapters: errors show what methods do to weights, not what models then know.")
    report.notes.append(
        "svd_peft_ms is add_weighted_adapter on a one-layer model; svd_peft_best_ms leaves out its registration."
    )
    report.finish()
    return 0


# ------------------------------------------------------------ what is merged


def independent(count: int, layers: int = 1) -> list[Adapter]:
    """Return adapters that have nothing in common."""
    return [_adapter(layers, lambda _, *size, seed=seed: _random(seed, *size)) for seed in range(count)]


def related(count: int) -> list[Adapter]:
    """Return adapters of one start that learned mostly the same: equal downs, ups that correlate by 0.8."""

    def draw(factor: str, *size: int, seed: int) -> torch.Tensor:
        common = _random(10_000, *size)
        return common if factor == "down" else common + 0.5 * _random(seed, *size)

    return [_adapter(1, lambda *args, seed=seed: draw(*args, seed=seed)) for seed in range(count)]


def _adapter(layers: int, draw: Callable[..., torch.Tensor]) -> Adapter:
    factors = {}
    for layer in range(layers):
        for place, (name, (inputs, outputs)) in enumerate(SIZES.items()):
            salt = layer * MODULES + place
            factors[layer, name] = Factors(draw("down", salt, RANK, inputs), draw("up", salt, outputs, RANK), 2.0)
    return Adapter("model", factors)


def _random(seed: int, salt: int, rows: int, columns: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed * 1_000_003 + salt * 2 + (columns == RANK))
    return torch.randn(rows, columns, generator=random)


def sums(adapters: Sequence[Adapter]) -> list[torch.Tensor]:
    """Return the exact sum for every module."""
    return [
        torch.stack([adapter.factors[place].delta() for adapter in adapters]).sum(0) for place in adapters[0].factors
    ]


# ------------------------------------------------------------ svd


def dense(whole: torch.Tensor) -> Factors:
    """Return the best approximation of rank 8 by a dense SVD."""
    left, singular, right = torch.linalg.svd(whole, full_matrices=False)
    return Factors(right[:RANK], left[:, :RANK] * singular[:RANK])


def _svd(report: Report, count: int, rounds: int) -> None:
    adapters, weights = independent(count), [1.0] * count
    exact = sums(adapters)
    arms: dict[str, Arm] = {
        "qr": lambda: list(fuse(adapters, weights, "svd", rank=RANK).factors.values()),
        "dense": lambda: [dense(whole) for whole in sums(adapters)],
    }
    if count == COUNT:
        arms |= _peft(adapters, weights)
    made, milliseconds = timed(arms, rounds)
    errors = {name: _mean_error(cut, exact) for name, cut in made.items()}
    for name in arms:
        row: dict[str, Any] = {
            "arm": name,
            "adapters": count,
            "ms_per_module": milliseconds[name] / MODULES,
            "error": errors[name],
        }
        report.rows.append({"figure": "svd", **row})
    table([{key: value for key, value in row.items() if key != "figure"} for row in report.rows[-len(arms) :]])
    report.figures[f"svd_speedup_vs_dense_{count}"] = milliseconds["dense"] / milliseconds["qr"]
    report.figures[f"svd_error_gap_{count}"] = abs(errors["qr"] - errors["dense"])
    if count == COUNT:
        report.figures |= {f"svd_{name}_ms": milliseconds[name] / MODULES for name in arms}
        for name in ("peft", "peft_best"):
            report.figures[f"svd_speedup_vs_{name}"] = milliseconds[name] / milliseconds["qr"]


def _peft(adapters: Sequence[Adapter], weights: list[float]) -> dict[str, Arm]:
    """Return PEFT's svd on the same adapters in a one-layer model of the same shapes."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.layer import LoraLayer
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=64, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=1, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64,
    )  # fmt: skip
    targets = [name.rsplit(".", 1)[1] for name in PROJECTIONS]
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets)
    names = [f"number{place}" for place in range(len(adapters))]
    model: Any = get_peft_model(LlamaForCausalLM(shape), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    found = {
        path.split("layers.0.")[1]: module for path, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    for name, adapter in zip(names, adapters, strict=True):
        for (_, projection), factors in adapter.factors.items():
            found[projection].lora_A[name].weight.data = factors.down
            found[projection].lora_B[name].weight.data = factors.up
    layers: list[Any] = [found[name] for name in PROJECTIONS]

    def public() -> list[Factors]:
        model.add_weighted_adapter(names, weights, "merged", combination_type="svd", svd_rank=RANK)
        cut = [Factors(layer.lora_A["merged"].weight, layer.lora_B["merged"].weight) for layer in layers]
        model.delete_adapter("merged")
        return cut

    def best() -> list[Factors]:
        merge = model.base_model._svd_generalized_task_arithmetic_weighted_adapter
        rest = (None, None, None, "total", None)
        pairs = [merge("svd", names, weights, RANK, layer, *rest, full_matrices=False) for layer in layers]
        return [Factors(down, up) for down, up in pairs]

    return {"peft": public, "peft_best": best}


# ------------------------------------------------------------ methods


def _methods(report: Report, rounds: int) -> None:
    sets = {"independent": independent(COUNT), "related": related(COUNT)}
    weights = [1.0] * COUNT

    def merging(method: str, adapters: Sequence[Adapter]) -> Arm:
        options: dict[str, Any] = {"density": DENSITY} if any(method.startswith(name) for name in PRUNING) else {}
        return lambda: fuse(adapters, weights, method, **options)

    _, milliseconds = timed({method: merging(method, sets["independent"]) for method in METHODS}, rounds)
    rows = []
    for method in METHODS:
        row: dict[str, Any] = {"method": method, "ms_per_module": milliseconds[method] / MODULES}
        for kind, adapters in sets.items():
            made = merging(method, adapters)()
            found, exact = list(made.factors.values()), sums(adapters)
            row |= {"rank": made.rank, kind: _mean_error(found, exact), f"{kind}_scaled": _mean_scaled(found, exact)}
            report.figures[f"error_{kind}_{method}"] = row[kind]
        rows.append(row)
    table(rows)
    report.rows += [{"figure": "methods", **row} for row in rows]
    for method in PRUNING:
        report.figures[f"over_dense_svd_{method}"] = _over_dense(sets["independent"], method)


def _over_dense(adapters: Sequence[Adapter], method: str) -> float:
    """Return the error of cutting a merged weight by power iteration over that of a dense SVD, mean of the modules."""
    made = fuse(adapters, [1.0] * len(adapters), f"{method}_svd", density=DENSITY)
    merge = PRUNING[method](density=DENSITY).merge
    weights = torch.ones(len(adapters))
    shares = []
    for place, factors in made.factors.items():
        whole = merge(torch.stack([adapter.factors[place].delta() for adapter in adapters]), weights)
        shares.append(float((factors.delta() - whole).norm() / (dense(whole).delta() - whole).norm()))
    return statistics.mean(shares)


# ------------------------------------------------------------ order


def _order(report: Report, rounds: int) -> None:
    whole = independent(1, layers=30)[0]
    arms: dict[str, Arm] = {"ordered": lambda: ordered(whole), "truncate": lambda: truncate(whole, RANK // 2)}
    made, milliseconds = timed(arms, rounds)
    for name in arms:
        error = _mean_error(list(made[name].factors.values()), sums([whole]))
        report.rows.append(
            {"figure": "order", "arm": name, "ms": milliseconds[name], "rank": made[name].rank, "error": error}
        )
        table([report.rows[-1]])
    report.figures["ordered_30_layers_ms"] = milliseconds["ordered"]


# ------------------------------------------------------------ measuring


def timed(arms: dict[str, Arm], rounds: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Return what each arm made and its median CPU milliseconds; arms take turns."""
    made = {name: arm() for name, arm in arms.items()}
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            start = time.process_time()
            arm()
            spent[name].append((time.process_time() - start) * 1e3)
    return made, {name: statistics.median(values) for name, values in spent.items()}


def _mean_error(made: Sequence[Factors], exact: Sequence[torch.Tensor]) -> float:
    """Return the mean relative Frobenius error of the modules."""
    pairs = zip(made, exact, strict=True)
    return statistics.mean(float((one.delta() - whole).norm() / whole.norm()) for one, whole in pairs)


def _mean_scaled(made: Sequence[Factors], exact: Sequence[torch.Tensor]) -> float:
    """Return the same with each module scaled as fits best."""
    best = [(one.delta() * whole).sum() / one.delta().square().sum() for one, whole in zip(made, exact, strict=True)]
    scaled = [replace(one, scaling=one.scaling * float(times)) for one, times in zip(made, best, strict=True)]
    return _mean_error(scaled, exact)


if __name__ == "__main__":
    raise SystemExit(main())
