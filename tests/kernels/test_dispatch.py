"""Which form runs where: in processes of their own, where numba is missing, ruled out or unable to compile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from memos_kernels import QuantisedPages, combine_lse, dispatch, plan_lora
from memos_kernels.workloads import Heads, rank_rows, sequences, shuffled_table

NO_MODULES = "assert not {'numba', 'triton'} & set(sys.modules), 'a compiler was imported'"
ALL_OPERATIONS = """
    import sys, warnings, torch
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from memos_kernels.warm import DTYPES, warm
        for dtype in DTYPES[CHOSEN]:
            warm(dtype)
    said = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert len(said) == len(caught) == EXPECTED, [str(warning.message) for warning in caught]
"""
WITHOUT_NUMBA = """
    import sys
    from importlib.machinery import PathFinder

    class WithoutNumba(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name.split(".")[0] == "numba" else super().find_spec(name, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutNumba
"""
#: An operation whose kernel numba cannot type.
BROKEN = """
    from numba import njit

    @njit
    def _add(left, right, out):
        out[:] = left + right + "no number"

    def add(left, right, out):
        _add(left.numpy(), right.numpy(), out.numpy())
"""
PLAIN = """
    def add(left, right, out):
        out.copy_(left + right)
"""


def all_operations(*, warnings: int, chosen: str = ":") -> str:
    """Return a script that calls every operation for some dtypes, a slice of all, and counts what it is warned of."""
    return ALL_OPERATIONS.replace("EXPECTED", str(warnings)).replace("CHOSEN", chosen)


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Run a script in a process of its own and return what it wrote; it must succeed."""

    def run(*parts: str) -> str:
        script = "\n".join(dedent(part) for part in parts)
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_import_needs_no_compiler(python: Callable[..., str]) -> None:
    python("import sys, memos_kernels", NO_MODULES)


def test_reference_is_taken_where_it_is_asked_for(python: Callable[..., str]) -> None:
    ask = "from memos_kernels.dispatch import use_reference\nuse_reference()"
    python(ask, all_operations(warnings=0), NO_MODULES)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(0, id="float32"),
        pytest.param(1, id="bfloat16", marks=pytest.mark.soak),
        pytest.param(2, id="float16", marks=pytest.mark.soak),
    ],
)
def test_numba_is_taken_without_a_word(python: Callable[..., str], place: int) -> None:
    """One dtype at a time: with nothing in numba's cache, each compiles for half a minute."""
    one = all_operations(warnings=0, chosen=f"{place}:{place + 1}")
    python(one, "assert 'numba' in sys.modules and 'triton' not in sys.modules")


def test_missing_numba_is_said_once(python: Callable[..., str]) -> None:
    said = python(WITHOUT_NUMBA, all_operations(warnings=1), NO_MODULES, "print(said[0])")
    assert "numba is not installed" in said
    assert "many times slower" in said


def test_numba_that_cannot_be_imported_is_said_once(python: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(
        "raise ImportError('Numba needs NumPy 2.3 or less. Got NumPy 3.0.')"
    )
    python(all_operations(warnings=1), "assert 'numba' not in sys.modules")


@pytest.fixture
def uncompilable(tmp_path: Path) -> str:
    """A script that adds two operations to the package whose CPU forms cannot be compiled."""
    for operation in ("first", "second"):
        folder = tmp_path / "operations" / operation
        folder.mkdir(parents=True)
        for name, text in (("__init__", ""), ("cpu", BROKEN), ("reference", PLAIN)):
            (folder / f"{name}.py").write_text(dedent(text))
    return f"""
        import warnings, torch, memos_kernels
        from memos_kernels.dispatch import run
        memos_kernels.__path__.append({str(tmp_path / "operations")!r})
        left, right, out = torch.arange(3.0), torch.ones(3), torch.zeros(3)
    """


def test_kernel_that_cannot_be_compiled_is_said_once(python: Callable[..., str], uncompilable: str) -> None:
    calls = """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for operation in ("first", "first", "second"):
                run(operation, "add", out.zero_(), left, right, out)
                assert out.tolist() == [1, 2, 3]
        assert [warning.category for warning in caught] == [RuntimeWarning]
        print(caught[0].message)
    """
    said = python(uncompilable, calls)
    assert "numba cannot compile first here (TypingError)" in said


def test_tensors_of_another_device_are_left_to_pytorch() -> None:
    parts = [torch.empty(2, 3, device="meta")] * 2
    out, lse = combine_lse(parts, [part[:, 0].contiguous() for part in parts])
    assert out.is_meta
    assert lse.shape == (2,)


def test_forms_are_those_whose_compiler_is_there() -> None:
    assert [dispatch.available(form) for form in dispatch.FORMS[:2]] == [True, True]


# --------------------------------------------------------------------------------------------------
# The interpreter


def calls() -> dict[str, tuple[Any, ...]]:
    """Return a call of every function in bfloat16."""
    dtype = torch.bfloat16
    given = sequences([5], [2], Heads(2, 1, 6, 4), dtype)
    angles = torch.ones(1, 3), torch.zeros(1, 3), True
    pool, rows, _ = rank_rows((2, 3), 1, 6, dtype)
    plan = plan_lora([[(0, 1.0)], [(1, 1.0)]], rows.starts)
    cache, pages = torch.zeros(1, 2, 1, 4, 6, dtype=dtype), QuantisedPages.empty(1, 1, 4, 6, 8)
    table = shuffled_table(1, 1)
    both = shuffled_table(1, 2).view(1, 2, 1)
    return {
        "pages.gather_pages": ([given.keys], given.table[0, :1], torch.zeros(1, 1, 5, 6, dtype=dtype)),
        "pages.scatter_pages": (torch.zeros(1, 1, 5, 6, dtype=dtype), [given.keys], given.table[0, :1]),
        "rotate.rotate_keys": (cache[0, 0], *angles[:2], cache[0, 0]),
        "quantise.quantise_pages": (cache, pages, table, *angles),
        "load.dequant_rotate_gather": (pages, table, 4, cache.flatten(0, 1), both, *angles),
        "attention.paged_attention_prefill": (*given[:-1], 1.0, None, True),
        "attention.paged_attention_decode": (*given[:-1], 1.0, None, False),
        "lse.combine_lse": ([cache[0, 0]] * 2, [torch.zeros(1, 4)] * 2),
        "scores.token_scores": (given.query, given.keys, given.table[0, 0], 5, 1.0, True, None),
        "lora.lora_shrink": (cache[0, 0, 0, :2], pool, rows, plan),
        "lora.lora_expand": (torch.zeros(plan.ranks), pool, rows, plan, cache[0, 0, 0, :2]),
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles here")
@pytest.mark.parametrize("name", calls())
def test_interpreter_refuses_bfloat16(form: Any, name: str) -> None:
    if form.name == "gpu":
        with pytest.raises(ValueError, match="bfloat16"):
            form(*name.split("."), *calls()[name])
    else:
        form(*name.split("."), *calls()[name])
