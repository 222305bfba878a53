"""The merge in plain PyTorch."""

from __future__ import annotations

import torch


def combine_lse(outputs: list[torch.Tensor], lses: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`memos_kernels.lse.combine_lse`."""
    parts = torch.stack(lses)
    lse = torch.logsumexp(parts, dim=0)
    present = torch.isfinite(parts)
    weights = torch.where(present, torch.exp(parts - lse), 0.0)
    out = sum(
        torch.where(there.unsqueeze(-1), output.float() * weight.unsqueeze(-1), 0.0)
        for output, weight, there in zip(outputs, weights, present, strict=True)
    )
    assert isinstance(out, torch.Tensor)
    return out.to(outputs[0].dtype), lse
