"""Moving cached keys to other positions: rotary embedding undone and done again in one pass."""

from __future__ import annotations

import torch

from memos_kernels import checks
from memos_kernels.dispatch import run


def delta_angles(old: torch.Tensor, new: torch.Tensor, frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of the turn from positions ``old`` to ``new``, float32 ``[n, head_dim / 2]`` each.

    ``cos((new - old) f)``: two rotations by ``-old f`` and ``new f`` are one by the difference (RoFormer, Su et al.,
    arXiv:2104.09864), whatever scaling made the frequencies, as long as it scales no lengths. ``old`` and ``new`` are
    integers ``[n]`` (``[1]`` where all tokens move alike), ``frequencies`` ``[head_dim / 2]``. Computed in float64.
    """
    angle = (new.double() - old.double())[:, None] * frequencies.double()
    return angle.cos().float(), angle.sin().float()


def rotate_keys(
    keys: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Turn keys by an angle for each token and frequency, in the half layout of Llama (NeoX, Hugging Face)::

        out[.., :D/2] = k[.., :D/2] cos - k[.., D/2:] sin
        out[.., D/2:] = k[.., D/2:] cos + k[.., :D/2] sin

    in float32, rounded once.

    Args:
        keys: ``[M, T, D]``, float32, bfloat16 or float16.
        cosine: float32 ``[T, D/2]``, or ``[1, D/2]`` for all tokens, of :func:`delta_angles`.
        sine: likewise.
        out: where to write; may be ``keys``. New memory by default.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    checks.floating("keys", keys)
    checks.shaped("keys", keys, (None, None, None))
    out = torch.empty_like(keys) if out is None else out
    checks.shaped("out", out, keys.shape)
    if out.dtype != keys.dtype:
        raise ValueError(f"out is {out.dtype} and keys {keys.dtype}")
    check_angles(cosine, sine, keys.shape[1], keys.shape[2])
    checks.same_device(keys=keys, out=out, cosine=cosine, sine=sine)
    run("rotate", "rotate_keys", keys, keys, cosine, sine, out)
    return out


def check_angles(cosine: torch.Tensor, sine: torch.Tensor, tokens: int, head_dim: int) -> None:
    """Raise ``ValueError`` unless these are angles for ``tokens`` tokens, or for all alike."""
    if head_dim % 2:
        raise ValueError(f"a head of {head_dim} elements has no halves to rotate")
    rows = cosine.shape[0] if cosine.dim() == 2 and cosine.shape[0] in (1, tokens) else tokens
    for name, angles in (("cosine", cosine), ("sine", sine)):
        checks.shaped(name, angles, (rows, head_dim // 2))
        if angles.dtype != torch.float32:
            raise ValueError(f"{name} is {angles.dtype}; float32 is needed")
    checks.same_device(cosine=cosine, sine=sine)
