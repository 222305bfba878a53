"""Where a training was when it stopped: parameters, optimiser and place, in one safetensors file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from memos.activation.keys import sync_folder

FILE = "checkpoint.safetensors"
#: What AdamW keeps for each parameter, besides how many steps it made.
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(slots=True)
class Progress:
    """How far a training is: ``step`` of all steps, and what the present epoch's examples came to so far.

    ``losses`` and ``right`` are of every epoch that is over: mean loss in nats per token, share of answers right.
    """

    step: int = 0
    loss_sum: float = 0.0
    right_sum: float = 0.0
    losses: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)


class Checkpoint:
    """The checkpoint in a folder. ``identity`` says what is trained on what: others' checkpoints are not resumed."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def save(
        self, parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer, progress: Progress
    ) -> None:
        """Write everything, or leave what was there. Raises ``OSError`` and ``SafetensorError``."""
        tensors = {name: parameter.detach() for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            state = optimiser.state[parameter]
            tensors |= {f"{name}.{moment}": state[moment] for moment in _MOMENTS if moment in state}
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._folder / f"{FILE}.tmp"
        save_file(tensors, temporary, {"identity": self._identity, "progress": json.dumps(asdict(progress))})
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(self._folder / FILE)
        sync_folder(self._folder)

    def load(self, parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> Progress | None:
        """Put everything back; return how far it was, or ``None`` if there is nothing that can be gone on with."""
        try:
            with safe_open(self._folder / FILE, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("identity") != self._identity:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            progress = Progress(**json.loads(metadata["progress"]))
            _restore(parameters, optimiser, tensors, progress.step)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
            return None
        return progress

    def remove(self) -> None:
        """Remove the folder, which holds what the memories say."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _restore(
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
    step: int,
) -> None:
    """Set parameters and moments, once all of them are seen to be there and to fit."""
    names = [*parameters, *(f"{name}.{moment}" for name in parameters for moment in _MOMENTS if step)]
    for name in names:
        owner = parameters[name] if name in parameters else parameters[name.rpartition(".")[0]]
        if tensors[name].shape != owner.shape:
            raise ValueError(f"{name} does not fit")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
            if step:
                moments = {moment: tensors[f"{name}.{moment}"].to(parameter.device) for moment in _MOMENTS}
                optimiser.state[parameter] = {"step": torch.tensor(float(step)), **moments}
