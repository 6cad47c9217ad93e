"""One model as one file: it needs no fledge, reads well, and is fledge to the bit."""

import functools
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fledge.base.machine import Machine
from fledge.batches.loader import Batch
from fledge.checkpoint.state import weights_of
from fledge.exchange.eject import Plan, eject
from fledge.generate import engine
from fledge.generate.sampling import Greedy, Strategy, Temperature, TopK
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import multiplier
from fledge.recipes.settings import preset_files, resolve
from fledge.train.parallel import LossModel
from fledge.train.step import Stepper

ROOT = Path(__file__).parents[2]
CPU = Machine("cpu", "float32")
LONGEST = 400
CONTEXT, VOCABULARY = 12, 31

# Parts that no preset has, in company.
RARE: dict[str, dict[str, Any]] = {
    "readable": {"attention": "readable", "n_kv_head": 1, "dropout": 0.2, "softcap": 5.0},
    "window": {"window": 5, "n_kv_head": 1, "mlp": "relu2", "tied": False, "head_bias": True},
    "readable window": {"window": 5, "attention": "readable", "positions": "sinusoidal", "output_bias": True},
    "normed": {"norm": "layernorm", "positions": "learned", "softcap": 5.0, "head_bias": True, "mlp_bias": True},
}
ALL = "everything at once"
RARE[ALL] = RARE["window"] | {"dropout": 0.2, "softcap": 5.0, "qkv_bias": True, "output_bias": True, "mlp": "swiglu"}


def plan_of(name: str) -> Plan:
    settings = resolve("modern-5m" if name in RARE else name, [])
    model = replace(
        settings.model, **RARE.get(name, {}), vocab_size=settings.model.vocab_size or settings.tokenizer.size
    )
    return Plan(name, "some parts", model, settings.optim, settings.train, settings.data)


def choices_of(plan: Plan) -> tuple[object, ...]:
    """What makes the text another, and not only its numbers."""
    values = [getattr(part, field.name) for part in (plan.model, plan.optim, plan.train) for field in fields(part)]
    choices = [value if isinstance(value, str | bool) else bool(value) for value in values]
    return (*choices, plan.model.kv_heads == plan.model.n_head)


# One preset of each kind: the others of its family differ in numbers.
PRESETS = list({choices_of(plan_of(name)): name for name in preset_files()}.values())
EVERY = [*PRESETS, *RARE]


def small(plan: Plan) -> Plan:
    grouped = plan.model.kv_heads != plan.model.n_head
    model = replace(
        plan.model,
        n_layer=2,
        n_head=4,
        n_kv_head=2 if grouped else None,
        n_embd=24,
        head_dim=6 if plan.model.head_dim else None,
        mlp_width=20 if plan.model.mlp_width else None,
        context=CONTEXT,
        vocab_size=VOCABULARY,
    )
    train = replace(plan.train, batch=4, micro_batch=plan.train.micro_batch and 2)
    return replace(plan, model=model, train=train, optim=replace(plan.optim, warmup_steps=3))


@functools.cache
def ejected(name: str) -> str:
    return eject(plan_of(name))


@functools.cache
def small_ejected(name: str) -> str:
    return eject(small(plan_of(name)))


@pytest.fixture
def imported(tmp_path: Path) -> Callable[[str], ModuleType]:
    """A text as a module of its own."""

    def load(text: str) -> ModuleType:
        file = tmp_path / "gpt.py"
        file.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("ejected", file)
        assert spec
        assert spec.loader
        module = sys.modules["ejected"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def lively(config: ModelConfig) -> GPT:
    """A model whose weights are large enough that a mistake shows, and no two alike."""
    model, chance = build(config, 3), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5).add_(torch.randn(p.shape, generator=chance), alpha=0.1)
    return model.eval()


def of_file(module: ModuleType, model: GPT, folder: Path) -> Any:
    """The ejected model with the weights of a run."""
    from safetensors.torch import load_model

    save_file({name: p.contiguous() for name, p in weights_of(model).items()}, folder / "model.safetensors")
    theirs = module.GPT(module.ModelConfig())
    load_model(theirs, folder / "model.safetensors")
    return theirs.eval()


@pytest.mark.parametrize("name", EVERY)
def test_the_file_computes_the_same_bits(name: str, imported: Callable[[str], ModuleType], tmp_path: Path) -> None:
    plan = small(plan_of(name))
    model = lively(plan.model)
    theirs = of_file(imported(small_ejected(name)), model, tmp_path)
    ids = torch.randint(VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(theirs(ids), model(ids))
        assert torch.equal(theirs(ids[:, :5]), model(ids[:, :5]))


@pytest.mark.parametrize("name", EVERY)
def test_a_new_model_is_the_same_new_model(name: str, imported: Callable[[str], ModuleType]) -> None:
    plan, module = small(plan_of(name)), imported(small_ejected(name))
    ours, theirs = build(plan.model, 7), module.build(module.ModelConfig(), 7)
    named = dict(theirs.named_parameters())
    assert list(named) == [key for key, _ in ours.named_parameters()]
    assert all(torch.equal(p, named[key]) for key, p in ours.named_parameters())


@pytest.mark.parametrize("name", EVERY)
def test_ten_updates_have_the_same_losses(name: str, imported: Callable[[str], ModuleType]) -> None:
    plan, module = small(plan_of(name)), imported(small_ejected(name))
    chance = torch.Generator().manual_seed(2)
    data = [torch.randint(VOCABULARY, (4, CONTEXT + 1), generator=chance) for _ in range(10)]
    model = build(plan.model, plan.train.seed)
    stepper = Stepper(
        model=model,
        loss=LossModel(model, CPU),
        optimizer=build_optimizer(model, plan.optim, CPU),
        batches=lambda step: [
            Batch(rows[:, :-1], rows[:, 1:]) for rows in data[step].split(plan.train.micro_batch or plan.train.batch)
        ],
        multiplier=partial(multiplier, plan.optim, steps=10),
        peak=plan.optim.lr,
        clip=plan.train.clip,
    )
    torch.manual_seed(plan.train.seed)
    ours = [stepper(step).loss for step in range(10)]
    theirs = module.build(module.ModelConfig(), plan.train.seed)
    assert list(module.train(theirs, iter(data), 10)) == ours
    assert len(set(ours)) == 10
    named = dict(theirs.named_parameters())
    assert all(torch.equal(p, named[key]) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("temperature", "top_k"), [(0.0, None), (0.7, None), (1.3, 4)])
def test_it_writes_the_same_tokens_past_the_context_too(
    name: str, temperature: float, top_k: int | None, imported: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    plan, module = small(plan_of(name)), imported(small_ejected(name))
    model = lively(plan.model)
    row: tuple[Strategy, ...] = (Greedy(),)
    if temperature:
        row = (Temperature(temperature), *([TopK(top_k)] if top_k else []))
    count = 2 * CONTEXT + 3
    ours = [int(token) for (token,) in engine.generate(model, torch.tensor([[5, 9, 2]]), row, CPU, count, seed=6)]
    assert module.generate(of_file(module, model, tmp_path), [5, 9, 2], count, temperature, top_k, 6) == ours
    assert len(set(ours)) > 1
