"""Import checkpoints that other GPT programs have written by their own code, and compare logits and greedy text.

    python bench/seed_checkpoints.py [--smol-gpt DIR] [--smallgpt DIR] [--smollgpt DIR] [--toygpt DIR] [--scratch DIR]
        [--nanogpt DIR]

Each DIR is a git checkout of the program, and stays unchanged. Its model is built at a small shape with its real
vocabulary; once as initialised and once after 20 steps with its optimizer and dropout, it is saved as the program saves
it, imported by `fledge import`, and compared: all logits of a whole context, and 200 greedy tokens, which go past the
context by sliding. GPT-2's tokenizer files are looked for in FLEDGE_TEST_DATA/gpt2; without them they are downloaded.
"""

import argparse
import contextlib
import importlib.util
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fledge
from fledge.recipes.import_model import import_model

LAYERS, HEADS, WIDTH, CONTEXT = 2, 4, 64, 48
STEPS, BATCH, TOKENS = 20, 8, 200
TOLERANCE = 1e-5
PROMPT = "First Citizen:\nBefore we proceed"
CHARACTERS = "\n" + "".join(map(chr, range(32, 97)))[:-1] + "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Peer:
    model: Any
    optimizer: torch.optim.Optimizer
    vocab_size: int
    save: Callable[[Path], None]
    file: str = "model.pt"
    loss: Callable[[Tensor, Tensor], Tensor] | None = None  # None: cross-entropy of the logits
    logits: Callable[[Tensor], Tensor] | None = None  # None: those that the model returns
    given: dict[str, Any] = field(default_factory=dict)  # what the file does not say

    def all_logits(self, ids: Tensor) -> Tensor:
        return (self.logits or self.model)(ids)

    def step(self) -> None:
        ids = torch.randint(self.vocab_size, (BATCH, CONTEXT + 1))
        x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        loss = self.loss(x, y) if self.loss else F.cross_entropy(self.all_logits(x).flatten(0, 1), y.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def load_module(source: str) -> Any:
    """A module of its own from Python source: several checkouts have a model.py."""
    module = ModuleType("theirs")
    sys.modules["theirs"] = module  # dataclasses look their module up
    exec(compile(source, "<theirs>", "exec"), module.__dict__)  # noqa: S102 — code of a checkout that the user named
    return module


def at_commit(checkout: Path, commit: str, file: str) -> str:
    shown = subprocess.run(
        ["git", "show", f"{commit}:{file}"], cwd=checkout, capture_output=True, text=True, check=True
    )
    return shown.stdout


def smol_gpt(checkout: Path) -> Peer:
    shape = {"N_layer": LAYERS, "N_head": HEADS, "N_embd": WIDTH, "context_length": CONTEXT, "vocab_size": 50_257}
    config = SimpleNamespace(**shape, batch_size=BATCH, bias=False, dropout=0.3, lr=5e-3, device="cpu", resume=False)
    model = load_module((checkout / "model.py").read_text()).GPT(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr)

    def save(path: Path) -> None:
        facts = {"optimizer": optimizer.state_dict(), "epoch": STEPS, "train_loss": 9.9, "val_loss": torch.tensor(9.9)}
        torch.save({"model": model.state_dict(), "config": config, **facts}, path)

    return Peer(model, optimizer, 50_257, save, loss=lambda x, y: model(x, y)[1], logits=lambda ids: model(ids)[0])


def smallgpt(checkout: Path) -> Peer:
    shape = {"vocab_size": 50_257, "context_len": CONTEXT, "emb_dim": WIDTH, "num_heads": HEADS, "num_layers": LAYERS}
    model = load_module((checkout / "model" / "modeling_gpt2.py").read_text()).GPT2(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)
    return Peer(model, optimizer, 50_257, lambda path: torch.save(model.state_dict(), path), given={"n_head": HEADS})


def smollgpt(checkout: Path) -> Peer:
    sys.path.insert(0, str(checkout))
    from model.config import ModelConfig
    from model.model import SmollGPT

    shape = {"block_size": CONTEXT, "n_embed": WIDTH, "n_head": HEADS, "n_layer": LAYERS, "vocab_size": 50_281}
    model = SmollGPT(ModelConfig(**shape, use_bias=True, device="cpu", flash_att=True, dropout=0.1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.2e-3, betas=(0.9, 0.95), eps=1e-8)

    def save(path: Path) -> None:
        compiled = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}  # on a GPU it is
        loss = (model.head.weight.sum() * 0 + 3.2).clone()
        facts = {"optimizer_state_dict": optimizer.state_dict(), "loss": loss}
        torch.save({"epoch": 0, "model_state_dict": compiled, **facts}, path)

    logits = lambda ids: model(ids)[0]  # noqa: E731
    return Peer(model, optimizer, 50_281, save, "checkpoint_0.pt", logits=logits, given={"n_head": HEADS})


def toygpt(checkout: Path) -> Peer:
    """A module of Lightning, or where that is not installed a plain one; the file is as Lightning 2 writes it."""
    has_lightning = importlib.util.find_spec("lightning") is not None
    if not has_lightning:
        print("toyGPT: Lightning is not installed: its model is a plain Module here", file=sys.stderr)
        _stub_lightning()
    _contiguous_attention()
    hyper = {"vocab_size": 50_259, "block_size": CONTEXT, "batch": BATCH, "name": "toyGPT.small", "n_embed": WIDTH}
    hyper |= {"n_head": HEADS, "n_layer": LAYERS, "pad_id": 50_257, "p_dropout": 0.1, "lr": 2.5e-4, "weight_decay": 0.1}
    model = load_module(at_commit(checkout, "38d46a7", "model.py")).ToyGPT(**hyper)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2.5e-4, weight_decay=0.1)

    def hidden(x: Tensor, ids: Tensor) -> Tensor:
        mask = torch.ones(1, ids.shape[1], ids.shape[1]).tril().bool()
        return model.output_linear(model.transformers((x, mask))[0])

    def embedded(ids: Tensor) -> Tensor:
        return model.embedding(ids) + model.pos_embedding[:, : ids.shape[1]]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return model.loss(hidden(model.embedding_dropout(embedded(x)), x).flatten(0, 1), y.flatten())

    def save(path: Path) -> None:
        said = dict(model.hparams) if has_lightning else {**hyper, "betas": (0.9, 0.999), "eps": 1e-8}
        facts = {"epoch": 0, "global_step": STEPS, "pytorch-lightning_version": "2.6.6", "hparams_name": "kwargs"}
        states = {"optimizer_states": [optimizer.state_dict()], "callbacks": {"EarlyStopping{}": {"patience": 10}}}
        torch.save({**facts, **states, "state_dict": model.state_dict(), "hyper_parameters": said}, path)

    return Peer(model, optimizer, 50_259, save, "model.ckpt", loss, lambda ids: hidden(embedded(ids), ids))


def _stub_lightning() -> None:
    class LightningModule(nn.Module):
        def save_hyperparameters(self, **_: Any) -> None: ...

    types = SimpleNamespace(STEP_OUTPUT=Any, OptimizerLRScheduler=Any)
    lightning = SimpleNamespace(LightningModule=LightningModule)
    names = ("lightning", "lightning.pytorch", "lightning.pytorch.utilities", "lightning.pytorch.utilities.types")
    sys.modules.update(dict(zip(names, (lightning, lightning, lightning, types), strict=True)))  # type: ignore[arg-type]


def _contiguous_attention() -> None:
    """Its model takes a view of what the kernel returns, which is laid out so on a GPU only."""
    kernel = F.scaled_dot_product_attention

    def contiguous(*args: Any, **options: Any) -> Tensor:
        return kernel(*args, **options).transpose(1, 2).contiguous().transpose(1, 2)

    torch.nn.functional.scaled_dot_product_attention = contiguous


def scratch_early(checkout: Path, commit: str, vocab_size: int, lr: float, file: str, head_dim: int) -> Peer:
    sys.modules.setdefault("ipdb", ModuleType("ipdb"))
    shape = {"num_blocks": LAYERS, "vocab_size": vocab_size, "seq_len": CONTEXT, "num_heads": HEADS}
    model = load_module(at_commit(checkout, commit, "model.py")).GPT(
        **shape, head_dim=head_dim, dropout=0.0, embedding_dim=WIDTH
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    characters = {} if vocab_size == 50_257 else {"characters": CHARACTERS}
    return Peer(model, optimizer, vocab_size, lambda path: _save_epoch(model, optimizer, path), file, given=characters)


def scratch_fineweb(checkout: Path) -> Peer:
    theirs = load_module(at_commit(checkout, "HEAD", "model.py"))
    shape = {"num_blocks": LAYERS, "seq_len": CONTEXT, "num_heads": HEADS, "head_dim": WIDTH // HEADS}
    model = theirs.GPT(theirs.GPTConfig(**shape, embedding_dim=WIDTH))
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)
    file, given = "model_epoch_1.pth", {"n_head": HEADS}
    return Peer(model, optimizer, 50_257, lambda path: _save_epoch(model, optimizer, path), file, given=given)


def _save_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    import numpy as np

    facts = {"optimizer_state_dict": optimizer.state_dict(), "loss": np.mean([9.8, 9.9])}
    torch.save({"epoch": 0, "model_state_dict": model.state_dict(), **facts}, path)


def nanogpt(checkout: Path) -> Peer:
    theirs = load_module((checkout / "model.py").read_text())
    args = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "block_size": CONTEXT, "bias": False}
    args |= {"vocab_size": 50_304, "dropout": 0.1}
    model = theirs.GPT(theirs.GPTConfig(**args))
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cpu")

    def save(path: Path) -> None:
        facts = {"optimizer": optimizer.state_dict(), "iter_num": STEPS, "best_val_loss": torch.tensor(9.9)}
        torch.save({"model": model.state_dict(), "model_args": args, **facts, "config": {"dataset": "owt"}}, path)

    def logits(ids: Tensor) -> Tensor:
        return model(ids, ids)[0]  # without targets it returns those of the last position

    return Peer(model, optimizer, 50_304, save, "ckpt.pt", lambda x, y: model(x, y)[1], logits)


CHARACTER_RUN = {"commit": "79c7d1c", "vocab_size": len(CHARACTERS), "lr": 5e-4, "head_dim": 16, "file": "epoch_4"}
OPENWEBTEXT_RUN = {"commit": "3ede13c", "vocab_size": 50_257, "lr": 6e-4, "head_dim": 4, "file": "model_epoch_10.pth"}
PEERS: dict[str, tuple[str, Callable[[Path], Peer]]] = {  # name → its option, and how it is built
    "smol-GPT": ("smol_gpt", smol_gpt),
    "SmallGPT": ("smallgpt", smallgpt),
    "SmollGPT": ("smollgpt", smollgpt),
    "toyGPT": ("toygpt", toygpt),
    "GPT from scratch, characters": ("scratch", partial(scratch_early, **CHARACTER_RUN)),
    "GPT from scratch, OpenWebText-10k": ("scratch", partial(scratch_early, **OPENWEBTEXT_RUN)),
    "GPT from scratch, FineWeb": ("scratch", scratch_fineweb),
    "nanoGPT": ("nanogpt", nanogpt),
}


@dataclass(frozen=True)
class Comparison:
    difference: float  # the largest, of logits
    largest: float  # of the logits themselves
    tokens: int  # compared after the prompt
    same_text: bool

    @property
    def is_equal(self) -> bool:
        return self.difference < TOLERANCE and math.isfinite(self.largest) and self.same_text


@torch.no_grad()
def compare(peer: Peer, folder: Path) -> Comparison:
    path = folder / peer.file
    peer.model.eval()
    peer.save(path)
    given = dict(peer.given)
    if characters := given.get("characters"):
        (folder / "characters.txt").write_text(characters)
        given["characters"] = str(folder / "characters.txt")
    run = fledge.load(import_model(str(path), None, folder / "runs", **given).folder)
    ids = torch.randint(peer.vocab_size, (2, CONTEXT))
    theirs = peer.all_logits(ids)
    difference = float((run.model(ids) - theirs).abs().max())
    prompt = run.tokenizer.encode(PROMPT).tolist()
    expected = greedy(peer, prompt, run.tokenizer)
    ours = run.generate(PROMPT, tokens=TOKENS, temperature=0, past_context="slide", device="cpu", dtype="float32")
    same_text = ours == run.tokenizer.decode(expected)
    return Comparison(difference, float(theirs.abs().max()), len(expected) - len(prompt), same_text)


def greedy(peer: Peer, ids: list[int], tokenizer: Any) -> list[int]:
    """The prompt and their most likely tokens, each read off the last `CONTEXT` tokens. Ids without a token are left
    out, as fledge never draws them; the text ends where it does with a token that ends one."""
    known = min(tokenizer.vocab_size, peer.vocab_size)
    for _ in range(TOKENS):
        logits = peer.all_logits(torch.tensor([ids[-CONTEXT:]]))[0, -1, :known]
        token = int(logits.argmax())
        if token == tokenizer.end_of_text:
            break
        ids = [*ids, token]
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in dict.fromkeys(option for option, _ in PEERS.values()):
        parser.add_argument(f"--{option.replace('_', '-')}", type=Path, metavar="DIR")
    args = vars(parser.parse_args())
    if data := os.environ.get("FLEDGE_TEST_DATA"):
        os.environ["TIKTOKEN_CACHE_DIR"] = f"{data}/gpt2"
    print(f"{'checkpoint':<34} {'steps':>5} {'logits differ by':>17} {'largest logit':>14} {'greedy text':>22}")
    unequal = []
    for name, (option, make) in PEERS.items():
        if args[option] is None:
            continue
        torch.manual_seed(0)
        with contextlib.redirect_stdout(sys.stderr):
            peer = make(args[option].resolve())
        for steps in (0, STEPS):
            peer.model.train()
            for _ in range(steps):
                peer.step()
            with tempfile.TemporaryDirectory() as folder:
                it = compare(peer, Path(folder))
            text = f"{'equal' if it.same_text else 'DIFFERS'} ({it.tokens} tokens)"
            print(f"{name:<34} {steps:>5} {it.difference:>17.1e} {it.largest:>14.3g} {text:>22}", flush=True)
            unequal += [] if it.is_equal else [name]
    if unequal:
        raise SystemExit(f"not equal: {', '.join(unequal)}")


if __name__ == "__main__":
    main()
