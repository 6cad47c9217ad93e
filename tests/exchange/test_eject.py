"""One model as one file: it needs no fledge, reads well, and is fledge to the bit."""

import ast
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fledge.batches.loader import Batch
from fledge.batches.sampler import WindowSampler
from fledge.checkpoint.state import weights_of
from fledge.core.device import Machine
from fledge.datasets.shards import ShardWriter
from fledge.exchange.eject import EjectPlan, eject, number
from fledge.inference import generate
from fledge.inference.sampler import Greedy, Temperature
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import lr_multiplier
from fledge.settings.pipeline import expected_vocab_size, preset_files, resolve
from fledge.tokenizers.base import save_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.training.parallel import LossModel
from fledge.training.step import TrainStep

ROOT = Path(__file__).parents[2]
CPU = Machine("cpu", "float32")
LONGEST = 450
LONGEST_WITH_MUON = 520
CONTEXT, VOCABULARY = 12, 31

# Parts that no preset has, in world.
RARE: dict[str, dict[str, Any]] = {
    "readable": {"attention": "readable", "n_kv_head": 1, "dropout": 0.2, "softcap": 5.0},
    "window": {"window": 5, "n_kv_head": 1, "mlp": "relu2", "tied": False, "head_bias": True},
    "readable window": {"window": 5, "attention": "readable", "positions": "sinusoidal", "output_bias": True},
    "normed": {"norm": "layernorm", "positions": "learned", "softcap": 5.0, "head_bias": True, "mlp_bias": True},
}
ALL = "everything at once"
RARE[ALL] = RARE["window"] | {"dropout": 0.2, "softcap": 5.0, "qkv_bias": True, "output_bias": True, "mlp": "swiglu"}


def plan_of(name: str) -> EjectPlan:
    settings = resolve("modern-5m" if name in RARE else name, [])
    vocab_size = expected_vocab_size(settings, {})
    model = replace(settings.model, **RARE.get(name, {}), vocab_size=vocab_size)
    return EjectPlan(name, "some parts", model, settings.optim, settings.train, settings.data)


def choices_of(plan: EjectPlan) -> tuple[object, ...]:
    """What makes the text another, and not only its numbers."""
    values = [getattr(plan.model, field.name) for field in fields(plan.model)]
    choices = [value if isinstance(value, str | bool) else bool(value) for value in values]
    return (*choices, plan.model.kv_heads == plan.model.n_head, plan.optim.schedule, bool(plan.train.epochs))


# One preset of each kind: the others of its family differ in numbers.
PRESETS = list({choices_of(plan_of(name)): name for name in preset_files()}.values())
EVERY = [*PRESETS, *RARE]


def small(plan: EjectPlan) -> EjectPlan:
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
    """The text for a small model of this kind: it differs in its numbers."""
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
        module = importlib.util.module_from_spec(spec)
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
    theirs = of_file(imported(ejected(name)), model, tmp_path)
    ids = torch.randint(VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(theirs(ids), model(ids))
        assert torch.equal(theirs(ids[:, :5]), model(ids[:, :5]))


@pytest.mark.parametrize("name", EVERY)
def test_a_new_model_is_the_same_new_model(name: str, imported: Callable[[str], ModuleType]) -> None:
    plan, module = small(plan_of(name)), imported(ejected(name))
    ours, theirs = build(plan.model, 7), module.build(module.ModelConfig(), 7)
    named = dict(theirs.named_parameters())
    assert list(named) == [key for key, _ in ours.named_parameters()]
    assert all(torch.equal(p, named[key]) for key, p in ours.named_parameters())


@pytest.mark.parametrize("name", EVERY)
def test_ten_updates_have_the_same_losses(name: str, imported: Callable[[str], ModuleType]) -> None:
    plan, module = small(plan_of(name)), imported(ejected(name))
    chance = torch.Generator().manual_seed(2)
    data = [torch.randint(VOCABULARY, (4, CONTEXT + 1), generator=chance) for _ in range(10)]
    model = build(plan.model, plan.train.seed)
    stepper = TrainStep(
        model=model,
        loss=LossModel(model, CPU),
        optimizer=build_optimizer(model, plan.optim, CPU.torch_dtype),
        batches=lambda step: [
            Batch(rows[:, :-1], rows[:, 1:]) for rows in data[step].split(plan.train.micro_batch or plan.train.batch)
        ],
        multiplier=partial(lr_multiplier, plan.optim, steps=10),
        peak=plan.optim.lr,
        clip=plan.train.grad_clip,
    )
    torch.manual_seed(plan.train.seed)
    ours = [stepper(step).loss for step in range(10)]
    theirs = module.build(module.ModelConfig(), plan.train.seed)
    assert list(module.train(theirs, iter(data), 10)) == ours
    assert len(set(ours)) == 10
    named = dict(theirs.named_parameters())
    assert all(torch.equal(p, named[key]) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_it_writes_the_same_tokens_past_the_context_too(
    name: str, temperature: float, imported: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    plan, module = small(plan_of(name)), imported(ejected(name))
    model = lively(plan.model)
    row = (Temperature(temperature) if temperature else Greedy(),)
    count = 2 * CONTEXT + 3
    ours = [int(token) for (token,) in generate.generate(model, torch.tensor([[5, 9, 2]]), row, CPU, count, seed=6)]
    assert module.generate(of_file(module, model, tmp_path), [5, 9, 2], count, temperature, 6) == ours
    assert len(set(ours)) > 1


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of file."""
    folder = tmp_path_factory.mktemp("shelf")
    for place, name in enumerate(EVERY):
        (folder / f"gpt_{place}.py").write_text(ejected(name), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_file_of_few_and_short_lines(name: str) -> None:
    lines = ejected(name).splitlines()
    assert len(lines) <= (LONGEST_WITH_MUON if plan_of(name).optim.rule == "muon" else LONGEST)
    assert max(map(len, lines)) <= 120


def test_it_is_written_as_a_formatter_would_and_a_linter_finds_nothing(shelf: Path) -> None:
    for words in (["check"], ["format", "--diff"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", "--config", str(ROOT / "pyproject.toml"), "."]
        done = subprocess.run(command, cwd=shelf, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_it_runs_where_there_is_no_fledge_and_imports_few_packages(shelf: Path) -> None:
    code = f"""
import importlib, sys
sys.modules["fledge"] = None
sys.path.insert(0, {str(shelf)!r})
for number in range({len(EVERY)}):
    module = importlib.import_module(f"gpt_{{number}}")
    assert module.ModelConfig().n_layer
assert not {{"safetensors", "tokenizers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in EVERY:
        nodes = list(ast.walk(ast.parse(ejected(name))))
        asked = {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
        asked |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        foreign = {module.partition(".")[0] for module in asked} - sys.stdlib_module_names
        assert foreign == {"torch", "numpy", "safetensors", "tokenizers"}


@pytest.mark.parametrize("name", EVERY)
def test_it_holds_nothing_that_it_does_not_use(name: str) -> None:
    tree = ast.parse(ejected(name))
    nodes = list(ast.walk(tree))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    asked = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=defined) | ast.ClassDef(name=defined):
                assert defined in read, defined
            case ast.Assign(targets=[ast.Name(id=defined)]):
                assert defined in read, defined
    for node in nodes:
        match node:
            case ast.ClassDef(bases=[], body=body):  # the settings, and the machine
                assert {member.target.id for member in body if isinstance(member, ast.AnnAssign)} <= asked
            case ast.Attribute(value=ast.Name(id="self"), attr=attribute, ctx=ast.Store()):
                assert attribute in asked, attribute
            case ast.FunctionDef(name=method) if method not in {"__init__", "forward"} | read:
                assert method in asked, method
            case ast.If(test=test) | ast.IfExp(test=test):
                assert not isinstance(test, ast.Constant)


GPT2, MODERN, TOYGPT = (next(n for n in PRESETS if n.startswith(family)) for family in ("gpt2", "modern", "toygpt"))
ABSENT = {
    GPT2: ["cos,", "RMSNorm(", "gate", "window", "softcap", "repeat_interleave", "cache", "Identity"],
    MODERN: ["LayerNorm(", "Learned", "dropout", "Dropout", "gelu", "window", "bias=True", "cache"],
    TOYGPT: ["Rotary", "rotary", "RMSNorm(", "LearnedPositions", "query_norm", "_trapezoid"],
    "scratch-char": ["Rotary", "waves", "self.dropout", "micro_batch", "is_causal=False", "weight = self.embed.weight"],
}


@pytest.mark.parametrize("name", ABSENT)
def test_other_models_parts_are_not_even_mentioned(name: str) -> None:
    assert [word for word in ABSENT[name] if word in ejected(name)] == []


def test_what_is_there_is_said_of_it() -> None:
    gpt2, modern, rare = eject(plan_of("gpt2")), ejected(MODERN), ejected(ALL)
    assert gpt2.startswith('"""gpt2: a GPT of 124,439,808 parameters')
    assert "n_layer: int = 12  # how many blocks\n" in gpt2
    assert "vocab_size: int = 50_257  # how many different tokens\n" in gpt2
    assert "# gelu_tanh   down(gelu(up(x)))" in gpt2
    assert "# learned positions " in gpt2
    assert "# rmsnorm   divided by the root of the mean square" in modern
    assert "# trapezoid " in modern
    assert "# untied head " not in modern
    assert "# untied head " in rare
    assert "#     S  tokens attended to" in rare
    assert "#     S  tokens attended to" not in modern


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (12, "12"),
        (50257, "50_257"),
        (6e-4, "6e-4"),
        (1.2e-3, "1.2e-3"),
        (0.95, "0.95"),
        (1e4, "10_000.0"),
        (0.0, "0.0"),
    ],
)
def test_numbers_are_written_as_a_person_writes_them(value: float, written: str) -> None:
    assert number(value) == written
    assert ast.literal_eval(written) == value


def test_epochs_become_as_many_updates_as_in_fledge(imported: Callable[[str], ModuleType]) -> None:
    plan = small(plan_of("scratch-char"))
    module = imported(ejected("scratch-char"))
    order = WindowSampler(5000, CONTEXT, plan.data.stride or CONTEXT, 1)
    assert plan.train.epochs
    assert module.updates(5000) == round(plan.train.epochs * order.epoch / plan.train.batch)


@pytest.fixture
def demo(
    imported: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ModuleType]:
    """Words of a command line → the ejected demo, run with them in a folder of its own."""
    module = imported(ejected("demo"))
    monkeypatch.chdir(tmp_path)

    def run(words: str, *more: str) -> ModuleType:
        monkeypatch.setattr(sys, "argv", ["gpt.py", *words.split(), *more])
        module.main()
        return module

    return run


def test_it_learns_from_ids_and_writes_from_what_it_learned(
    demo: Callable[..., ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("ids.npy", np.tile(np.arange(VOCABULARY, dtype=np.uint16), 40))
    demo("train ids.npy --steps 60 --out m.safetensors")
    said = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-1]) for line in said]
    assert said[0].startswith("step 1 of 60: loss ")
    assert losses[-1] < 0.6 * losses[0]
    demo("generate --weights m.safetensors --prompt-ids 3 4 5 --tokens 4 --temperature 0")
    written = ast.literal_eval(capsys.readouterr().out)
    assert written[:3] == [3, 4, 5]
    assert len(written) == 7
    demo("train ids.npy --steps 1 --weights m.safetensors")
    assert float(capsys.readouterr().out.split()[-1]) < 0.6 * losses[0]
    assert (tmp_path / "trained.safetensors").exists()


def test_it_reads_and_writes_text_with_the_tokenizer_of_a_run(
    demo: Callable[..., ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "a bird sings\na bird é flies\n" * 4
    tokenizer = CharTokenizer.train([text])
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    Path("text.txt").write_text(text, encoding="utf-8")
    module = demo("train text.txt --steps 2")
    assert module.read(Path("text.txt"), "tokenizer.json").tolist() == tokenizer.encode(text).tolist()
    capsys.readouterr()
    demo("generate --weights trained.safetensors --tokens 5 --temperature 0 --prompt", "a bird")
    assert capsys.readouterr().out.startswith("a bird")


def test_a_text_that_is_too_short_is_said_in_words(
    demo: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("ids.npy", np.zeros(CONTEXT, dtype=np.uint16))
    with pytest.raises(SystemExit):
        demo("train ids.npy")
    assert "too few" in capsys.readouterr().err


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 70_000])
def test_it_reads_the_shards_of_a_dataset(
    vocabulary: int, imported: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    ids = np.arange(0, vocabulary, 7, dtype=np.uint32)
    writer = ShardWriter(tmp_path / "00000.tokens", vocabulary)
    writer.begin_document()
    writer.add(ids)
    writer.close("00000.tokens")
    assert np.array_equal(imported(ejected("demo")).read(tmp_path / "00000.tokens", ""), ids)


def test_windows_come_from_anywhere_and_the_same_ones_every_time(imported: Callable[[str], ModuleType]) -> None:
    module, ids = imported(ejected("demo")), np.arange(50, dtype=np.uint16)
    drawn = [tokens for tokens, _ in zip(module.batches(ids), range(60), strict=False)]
    again = [tokens for tokens, _ in zip(module.batches(ids), range(60), strict=False)]
    assert all(map(torch.equal, drawn, again))
    assert all((tokens.diff() == 1).all() for tokens in drawn)
    assert drawn[0].shape == (4, CONTEXT + 1)
    assert {int(row[0]) for tokens in drawn for row in tokens} == set(range(50 - CONTEXT))
