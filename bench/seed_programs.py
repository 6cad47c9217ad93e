"""smol-GPT, SmallGPT, SmollGPT and toyGPT, made small and trained by their own loops: a stage of seeds.py."""

import ast
import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seed_code import Anything, Bar, C, H, L, Losses, Program, Rows, T, V, count, load, run_parts


def smol_config(folder: Path, **changed: Any) -> SimpleNamespace:
    config = load((folder / "config.py").read_text()).config
    return SimpleNamespace(**{**vars(config), "device": "cpu", **changed})


def smol_gpt(folder: Path) -> Program:
    model = load((folder / "model.py").read_text())
    sizes = {"vocab_size": V, "context_length": T, "N_embd": C, "N_head": H, "N_layer": L, "dropout": 0.0}
    config = smol_config(folder, **sizes, grad_accum_steps=2, warmup_iters=5, max_iters=50)

    def train(net: nn.Module, updates: list[list[Rows]]) -> list[float]:
        losses, rows = Losses(), iter([row for update in updates for row in update])
        net.register_forward_hook(losses.of_output)
        smol_loop(folder, net, config, len(updates), None, lambda *_: next(rows))
        return losses.per_update(2)

    with torch.device("meta"):
        full = count(model.GPT(smol_config(folder)))
    sizes_of_run = {"train": {"steps": 50, "batch": 8, "micro_batch": 4}, "optim": {"warmup_steps": 5}}
    return Program("smol-GPT", "smol-gpt-22m", "SMOL_GPT", sizes_of_run, model.GPT(config), train, full)


def smol_loop(
    folder: Path,
    net: nn.Module,
    config: SimpleNamespace,
    updates: int,
    ids: Tensor | None,
    batches: Callable[..., Rows] | None = None,
) -> None:
    """Its training loop, on these batches or on its own random ones."""
    known = {"model": net, "config": config, "torch": torch, "nn": nn, "math": math, "tqdm": Bar, "os": Anything("os")}
    known |= {"train_enc": ids, "val_enc": None, "wandb_logging": False, "print": lambda *_: None}
    run_parts((folder / "utils.py").read_text(), ("generate_batches",), known)
    known |= {"get_loss": lambda *_: (0.0, 0.0)} | ({"generate_batches": batches} if batches else {})
    run_parts((folder / "train.py").read_text(), ("optimizer", "get_lr", "train"), known)
    known["train"](updates, resume=False, save_checkpoint=False)


def smallgpt(folder: Path) -> Program:
    model = load((folder / "model" / "modeling_gpt2.py").read_text())
    notebook = json.loads((folder / "model" / "train_model.ipynb").read_text())
    source = "".join(next(c for c in notebook["cells"] if c["cell_type"] == "code")["source"])
    known: dict[str, Any] = {}
    run_parts(source, ("GPT_CONFIG", "EPOCHS", "LEARNING_RATE"), known)

    def train(net: nn.Module, _: list[list[Rows]]) -> list[float]:
        """On its own dataset of windows, too."""
        utils = load((folder / "model" / "utils.py").read_text(), "tiktoken")
        tokenizer = SimpleNamespace(encode=lambda text, **_: text)
        windows = utils.GPTDatasetV1(ids_of_smallgpt().tolist(), tokenizer, T, T)
        loader = torch.utils.data.DataLoader(windows, batch_size=4, shuffle=False, drop_last=False)
        scope = {
            **known,
            "model": net,
            "torch": torch,
            "optim": torch.optim,
            "tqdm": Bar,
            "time": time,
            "DEVICE": "cpu",
        }
        scope |= {"train_loader": loader, "calc_loss_batch": utils.calc_loss_batch, "EVAL_INTERVAL": 10**9}
        scope |= {"evaluate_model": lambda *_: (0.0, 0.0), "generate": lambda **_: None, "tokenizer": None}
        scope |= {"val_loader": None, "text_to_token_ids": lambda *_: None, "token_ids_to_text": lambda *_: None}
        scope |= {"START_CONTEXT": "", "print": lambda *_: None}
        scope |= {name: [] for name in ("train_losses", "grad_norms", "step_times", "learning_rates")}
        run_parts(source, ("optimizer", "scheduler"), scope, ast.For)
        return scope["train_losses"]

    small = {"vocab_size": V, "context_len": T, "emb_dim": C, "num_heads": H, "num_layers": L}
    with torch.device("meta"):
        full = count(model.GPT2(known["GPT_CONFIG"]))
    net = model.GPT2({**known["GPT_CONFIG"], **small})
    without_dropout(net)
    sizes_of_run = {"train": {"batch": 4}, "model": {"mlp_width": 2 * C}}
    note = "15 epochs of its own windows in order, with a short last batch"
    return Program("SmallGPT", "smallgpt-shakespeare", "SMALLGPT", sizes_of_run, net, train, full, note=note)


def ids_of_smallgpt() -> np.ndarray:
    """14 windows: batches of 4, 4, 4 and 2."""
    return np.random.default_rng(3).integers(0, V, 14 * T + 5).astype(np.uint16)


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def smollgpt(folder: Path) -> Program:
    with importable(folder, "model", "training"):
        from model.config import ModelConfig
        from model.model import SmollGPT

        from training import train as loop
    shape = {"use_bias": True, "device": "cpu", "flash_att": True}
    windows = 8 * 40  # a pass of 40 updates, and a warmup of 8

    def train(net: nn.Module, updates: list[list[Rows]]) -> list[float]:
        points: list[Any] = []
        rows = [{"x": x, "y": y} for update in updates for x, y in update]
        data = SimpleNamespace(data=np.empty((windows, T + 1)))
        loader = type("Rows", (list,), {"dataset": data})(rows)
        loop.measure_loss_on_test_data = lambda **_: torch.zeros(())
        loop.generate_something = loop.save_checkpoint = lambda **_: None
        config = loop.TrainingConfig(1.2e-3, 1, 10**9, 10**9, tempfile.mkdtemp(), 5, "cpu", 2, 8)
        telemetry, logger = SimpleNamespace(log=points.append), Anything("logger")
        with contextlib.suppress(ModuleNotFoundError):
            loop.train(net, loader, loader, config, logger, telemetry, None)
        torch.set_float32_matmul_precision("highest")
        return [point.training_loss for point in points]

    with torch.device("meta"):
        full = count(SmollGPT(ModelConfig(1024, 768, 8, 8, vocab_size=50_281, dropout=0.1, **shape)))
    net = SmollGPT(ModelConfig(T, C, L, H, vocab_size=V, dropout=0.0, **shape))
    sizes_of_run = {"train": {"steps": 50, "batch": 8, "micro_batch": 2}, "data": {"stride": T + 1}}
    sizes_of_run["optim"] = {"warmup_steps": 8, "decay_steps": 40}
    return Program("SmollGPT", "smollgpt-130m", "SMOLLGPT", sizes_of_run, net, train, full)


@contextlib.contextmanager
def importable(folder: Path, *packages: str) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]


def toygpt(folder: Path) -> Program:
    model = load(
        with_lightning((folder / "model.py").read_text()),
        "lightning",
        "lightning.pytorch",
        "lightning.pytorch.utilities",
        "lightning.pytorch.utilities.types",
    )
    shape = json.loads((folder / "config.json").read_text())

    def train(net: nn.Module, updates: list[list[Rows]]) -> list[float]:
        """As Lightning calls it: a step of the schedule after every update."""
        made = net.configure_optimizers()
        optimizer, scheduler, losses = made["optimizer"], made["lr_scheduler"]["scheduler"], []
        net.trainer = SimpleNamespace(optimizers=[optimizer])
        for _ in range(FIRST_OF_TOYGPT):
            optimizer.step()  # without gradients: nothing happens
            scheduler.step()
        for ((inputs, targets),) in updates:
            mask = torch.ones(T, T).tril().bool().expand(len(inputs), T, T)
            batch = {"CLM": {"input": inputs, "label": targets, "attention_mask": mask}}
            loss = net.training_step(batch, 0)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        return losses

    common = {"batch": 4, "name": "toyGPT", "weight_decay": 0.1, "lr": 2.5e-4}
    with torch.device("meta"):
        full = count(
            model.ToyGPT(
                vocab_size=50_259, pad_token_id=50_257, **{**common, **(shape if isinstance(shape, dict) else shape[0])}
            )
        )
    net = model.ToyGPT(V, T, n_embed=C, n_head=H, n_layer=L, pad_token_id=V - 1, p_dropout=0.0, **common)
    note = f"updates {FIRST_OF_TOYGPT} to {FIRST_OF_TOYGPT + 50}: the end of its warmup; a stand-in for lightning"
    run = {"train": {"steps": 5000}}
    return Program("toyGPT", "toygpt-small", "TOYGPT", run, net, train, full, FIRST_OF_TOYGPT, note)


FIRST_OF_TOYGPT = 1975
LIGHTNING = """
class LightningModule(torch.nn.Module):
    device = torch.device("cpu")
    def save_hyperparameters(self, **_): ...
    def log(self, *_, **__): ...
"""


def with_lightning(source: str) -> str:
    """Its base class is a stand-in; heavy imports that the model does not need are left out."""
    lines = [line for line in source.splitlines() if not line.startswith(("import lightning", "from transformers"))]
    text = "\n".join(lines)
    return (
        "import torch\nfrom types import SimpleNamespace\n"
        + LIGHTNING
        + "L = SimpleNamespace(LightningModule=LightningModule)\n"
        + text
    )
