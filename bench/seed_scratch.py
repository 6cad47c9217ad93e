"""GPT from scratch at three commits, and nanoGPT, made small and trained by their own loops: a stage of seeds.py."""

import ast
import builtins
import contextlib
import math
import subprocess
import tempfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from seed_code import Anything, Bar, C, H, L, Losses, Program, Rows, T, V, count, load, run_parts


def at(folder: Path, commit: str, file: str) -> str:
    return subprocess.run(
        ["git", "show", f"{commit}:{file}"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


def scratch(folder: Path, commit: str, program: str, preset: str, head: int, given: dict[str, Any]) -> Program:
    """One of the two early runs of GPT from scratch."""
    model, source = load(at(folder, commit, "model.py"), "ipdb"), at(folder, commit, program)
    micro_batches = given.get("grad_accum_steps", 1)

    def train(net: nn.Module, updates: list[list[Rows]]) -> list[float]:
        losses, criterion = Losses(), nn.CrossEntropyLoss()
        criterion.register_forward_hook(losses.of_output)
        net.generate = lambda *_, **__: torch.zeros(1, 1, dtype=torch.long)
        rows: list[Any] = [row for update in updates for row in update]
        if preset == "scratch-char":
            rows = [{"encoded_input": x, "encoded_target": y} for x, y in rows]
        known = {
            "model": net,
            "torch": torch,
            "nn": nn,
            "np": np,
            "os": Anything("os"),
            "tqdm": Bar,
            "criterion": criterion,
        }
        known |= {"train_dataloader": rows, "device": "cpu", "decode": lambda _: "", "print": lambda *_: None}
        known |= {"block_size": T, "epochs": 1, "save_every": 1, "check_output_every": 1, "enc": Anything("enc")}
        known |= {"save_dir": tempfile.mkdtemp(), "lr_scheduler": torch.optim.lr_scheduler, **given}
        known |= {"enumerate": lambda rows: builtins.enumerate(rows, 1)}  # see the note of the second run
        run_parts(source, ("optimizer", "scheduler", "lr"), known, ast.For)
        return losses.per_update(micro_batches)

    def made(vocabulary: int, context: int, width: int, blocks: int, head: int, heads: int) -> nn.Module:
        return model.GPT(blocks, vocabulary, context, heads, head, 0.0, width)

    with torch.device("meta"):
        full = made(65, 32, 64, 4, 16, 4) if preset == "scratch-char" else made(50_257, 512, 768, 2, 4, 4)
    net = made(V, T, C, L, head, H)
    run: dict[str, dict[str, Any]] = {
        "train": {"batch": 8, "micro_batch": 8 // micro_batches},
        "model": {"head_dim": head},
    }
    note = ""
    if preset == "scratch-char":
        run["train"]["steps"] = 50
    else:
        run["optim"] = {"lr": 6e-4}
        note = (
            "at the program's rate of 6e-4; batches counted from 1, so that its first update has as many as the others"
        )
    return Program(f"GPT from scratch, {commit}", preset, "SCRATCH_EARLY", run, net, train, count(full), note=note)


def scratch_char(folder: Path) -> Program:
    return scratch(folder, "79c7d1c", "train.py", "scratch-char", 16, {})


def scratch_owt10k(folder: Path) -> Program:
    return scratch(folder, "3ede13c", "train_gpt.py", "scratch-owt10k", 4, {"grad_accum_steps": 2})


def scratch_fineweb(folder: Path) -> Program:
    """With its own dataset of windows, in order; autocast of CUDA is left out."""
    commit = "HEAD"
    model = load(at(folder, commit, "model.py"))
    source = at(folder, commit, "train_gpt_single_gpu.py")

    class OnCpu(ModuleType):
        autocast = staticmethod(lambda **_: contextlib.nullcontext())
        cuda = Anything("cuda")

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    def train(net: nn.Module, updates: list[list[Rows]]) -> list[float]:
        losses, criterion, shards = Losses(), nn.CrossEntropyLoss(), Path(tempfile.mkdtemp())
        criterion.register_forward_hook(losses.of_output)
        net.generate = lambda *_, **__: torch.zeros(1, 1, dtype=torch.long)
        ids = ids_of_fineweb()
        np.save(shards / "shard_000000.npy", ids)
        dataset = load(at(folder, commit, "sharded_dataset_distinct_sequences.py")).ShardedTokenDataset
        windows = dataset(str(shards), len(ids), T)
        loader = list(torch.utils.data.DataLoader(windows, batch_size=2, shuffle=False))[: 4 * len(updates)]
        known = {"model": net, "torch": OnCpu("torch"), "math": math, "time": time, "tqdm": Bar, "criterion": criterion}
        known |= {
            "train_dataloader": loader,
            "device": "cpu",
            "print": lambda *_: None,
            "tiktoken": Anything("tiktoken"),
        }
        known |= {"log_file": str(shards / "log"), "save_dir": str(shards), "grad_accum_steps": 4, "epochs": 1}
        known |= {"warmup_steps": 5, "max_steps": 50, "save_every": 1}
        known["tiktoken"] = SimpleNamespace(
            get_encoding=lambda _: SimpleNamespace(encode_ordinary=lambda _: [1], decode=str)
        )
        names = ("max_lr", "min_lr", "get_lr", "optimizer", "overall_step", "stepwise_loss")
        known["optimizer"] = net.configure_optimizers(weight_decay=0.1, learning_rate=6e-4, device="cpu")
        run_parts(source, names, known, ast.For)
        return losses.per_update(4)

    with torch.device("meta"):
        full = count(model.GPT(model.GPTConfig()))
    net = model.GPT(model.GPTConfig(L, V, T, H, C // H, C))
    run = {"train": {"steps": 50, "batch": 8, "micro_batch": 2}, "optim": {"warmup_steps": 5}}
    note = "its own windows in order"
    return Program("GPT from scratch, HEAD", "scratch-fineweb", "SCRATCH", run, net, train, full, note=note)


def ids_of_fineweb() -> np.ndarray:
    """Its dataset leaves out one window in T + 1."""
    return np.random.default_rng(4).integers(0, V, 8 * 52 * T + 1).astype(np.uint16)


def nanogpt(folder: Path) -> Program:
    """config/train_shakespeare_char.py over the defaults of train.py."""
    model, source = load((folder / "model.py").read_text()), (folder / "train.py").read_text()
    values = {}
    run_parts(source, ("weight_decay", "beta1", "beta2", "grad_clip", "decay_lr", "log_interval"), values)
    exec((folder / "config" / "train_shakespeare_char.py").read_text(), values)  # noqa: S102

    def train(net: nn.Module, updates: list[list[Rows]]) -> list[float]:
        losses, rows = Losses(), iter([row for update in updates for row in update])
        net.register_forward_hook(losses.of_output)
        known = {**values, "model": net, "torch": torch, "math": math, "time": time, "ctx": contextlib.nullcontext()}
        known |= {"ddp": False, "master_process": False, "eval_only": False, "iter_num": 0, "device_type": "cpu"}
        last = updates[-1][-1]  # it fetches one batch more
        known |= {
            "get_batch": lambda _: next(rows, last),
            "dtype": "float32",
            "init_from": "scratch",
            "print": lambda *_: None,
        }
        known |= {"gradient_accumulation_steps": 2, "warmup_iters": 5, "lr_decay_iters": 50, "max_iters": 49}
        known |= {"X": None, "scaler": torch.amp.GradScaler("cpu", enabled=False), "t0": 0.0, "local_iter_num": 0}
        known["X"], known["Y"] = next(rows)
        run_parts(source, ("optimizer", "get_lr"), known, ast.While)
        return losses.per_update(2)

    def made(vocabulary: int, context: int, layers: int, heads: int, width: int) -> nn.Module:
        shape = {"vocab_size": vocabulary, "block_size": context, "n_layer": layers, "n_head": heads, "n_embd": width}
        return model.GPT(model.GPTConfig(**shape, bias=False, dropout=0.0))

    with contextlib.redirect_stdout(None):
        full, net = made(65, 256, 6, 6, 384), made(V, T, L, H, C)
    run = {"train": {"steps": 50, "batch": 8, "micro_batch": 4}, "optim": {"warmup_steps": 5}}
    return Program("nanoGPT", "nanogpt-shakespeare-char", "NANOGPT", run, net, train, count(full))
