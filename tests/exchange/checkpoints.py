"""Checkpoints as the programs save them, and how a test reads one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from fledge.exchange.model_source import ExternalModel
from fledge.exchange.torch_checkpoints.read import read_torch_model
from fledge.exchange.torch_checkpoints.shape import GivenShape
from fledge.tokenizers.char import CharTokenizer

from .gpt_programs import C, H, L, T, V, state

CHARACTERS = CharTokenizer.train(["".join(chr(40 + i) for i in range(V))])
HEADS = GivenShape(n_head=H)
NO_HEADS = GivenShape()

SMOL_CONFIG = {"context_length": T, "N_layer": L, "N_head": H, "N_embd": C, "vocab_size": V, "dropout": 0.3}


def smol_gpt(model: nn.Module, **changed: Any) -> dict[str, Any]:
    config = SimpleNamespace(**{**SMOL_CONFIG, "bias": False, "device": "cpu", "resume": False, **changed})
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]}
    facts = {"optimizer": optimizer, "epoch": 3, "train_loss": 4.5, "val_loss": torch.tensor(4.6)}
    return {"model": state(model), "config": config, **facts}


def toy_gpt(model: nn.Module, **changed: Any) -> dict[str, Any]:
    """As Lightning 2 saves it."""
    said = {"n_layer": L, "n_head": H, "n_embed": C, "block_size": T, "vocab_size": V, "p_dropout": 0.1, "lr": 2.5e-4}
    hyper = {**said, "name": "toyGPT.small", "betas": (0.9, 0.999), "pad_token_id": 57, **changed}
    facts = {"epoch": 0, "global_step": 4, "pytorch-lightning_version": "2.6.6", "hparams_name": "kwargs"}
    callbacks = {"EarlyStopping{'monitor': 'val_loss'}": {"best_score": torch.tensor(4.1), "patience": 10}}
    return {**facts, "state_dict": state(model), "callbacks": callbacks, "hyper_parameters": hyper}


def epochs(model: nn.Module) -> dict[str, Any]:
    """SmollGPT and GPT from scratch; the loss is a number of NumPy."""
    return {"epoch": 4, "model_state_dict": state(model), "optimizer_state_dict": {}, "loss": np.mean([1.0, 2.0])}


def save(tmp_path: Path, content: Any, name: str = "model.pt") -> str:
    torch.save(content, tmp_path / name)
    return str(tmp_path / name)


def read(path: str, given: GivenShape = NO_HEADS) -> ExternalModel:
    return read_torch_model(Path(path), path, CHARACTERS, given)
