"""eject: the file needs no fledge, is clean and short, and computes the same bits as fledge."""

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
from fledge.core.errors import UserError
from fledge.datasets.shards import ShardWriter
from fledge.exchange.eject import number, render
from fledge.inference import generate
from fledge.inference.sampler import Greedy, Temperature
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import lr_multiplier
from fledge.settings.layers import preset_files
from fledge.settings.pipeline import resolve
from fledge.settings.presets import expected_vocab_size, model_parts
from fledge.tokenizers.base import save_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.training.config import Settings
from fledge.training.ngram_fit import FREQUENT, choose_pairs, count_ngrams
from fledge.training.parallel import LossModel
from fledge.training.step import TrainStep
from pairs import with_pairs

ROOT = Path(__file__).parents[2]
CPU = Machine("cpu", "float32")
LONGEST = 330
LONGEST_WITH_MUON = 390
CONTEXT, VOCABULARY = 12, 31

# Settings that no preset has, by a name for each combination.
RARE: dict[str, dict[str, Any]] = {
    "readable": {"attention": "readable", "n_kv_head": 1, "dropout": 0.2, "softcap": 5.0},
    "window": {"window": 5, "n_kv_head": 1, "mlp": "relu2", "tied": False, "head_bias": True},
    "readable window": {"window": 5, "attention": "readable", "positions": "sinusoidal", "output_bias": True},
    "layernorm": {"norm": "layernorm", "positions": "learned", "softcap": 5.0, "head_bias": True, "mlp_bias": True},
    "bigrams, one row a pair": {"bigram_rows": 100_000, "tied": False, "mlp": "relu"},
    "bigrams, tokens added": {"bigram_rows": 60, "bigram_vocab": 20, "tied": False},
    "bigrams, hashed": {"bigram_rows": 50, "mlp": "gelu", "positions": "sinusoidal", "tied": False},
    "bigrams, frequent": {"bigram_rows": 100, "bigram_pairs": "frequent", "tied": False},
    "post-norm": {"block": "post_norm", "init": "torch", "tied": False, "mlp": "relu", "mlp_bias": True},
    "norm in and out": {"block": "norm_in_out", "final_norm": False, "init": "torch", "head_bias": True},
    "no final norm": {"final_norm": False, "init": "normal", "mlp": "gelu_tanh", "positions": "sinusoidal"},
}
ALL = "everything at once"
RARE[ALL] = RARE["window"] | {"dropout": 0.2, "softcap": 5.0, "qkv_bias": True, "output_bias": True, "mlp": "swiglu"}
RARE[ALL] |= {"bigram_rows": 50, "bigram_pairs": "frequent"}
RARE["post-norm"] |= {"dropout": 0.2, "dropout_on": ("qkv", "mlp", "stream"), "positions": "learned"}
RARE["norm in and out"] |= {"dropout": 0.2, "dropout_on": ("stream", "residual"), "norm": "layernorm"}
RARE["no final norm"] |= {"dropout": 0.2, "dropout_on": ("embedding", "mlp", "attention"), "output_bias": True}
ADAMW: dict[str, Any] = {"optimizer": "adamw"}  # the others: Muon
OPTIM: dict[str, dict[str, Any]] = {
    "readable": {"schedule": "cosine", "warmup_steps": 3, "decay_steps": 7, "lag": True},
    "window": {"schedule": "cut_cosine", "warmup_steps": 3, "decay_steps": 7, "decay": "all", "weight_decay": 0.1},
    "readable window": {**ADAMW, "schedule": "constant", "warmup": "from_zero", "decay": "all"},
    "layernorm": {"schedule": "epoch_cosine", "steps_per_epoch": 2.5, "warmup": "to_peak"},
    "bigrams, tokens added": {**ADAMW, "schedule": "cut_cosine", "warmup": "from_zero", "lag": True},
    "bigrams, hashed": {**ADAMW, "schedule": "constant"},
    "post-norm": {**ADAMW, "schedule": "constant"},
    "no final norm": {**ADAMW, "schedule": "cyclic_cosine", "warmup_steps": 2, "decay_steps": 5},
}
CLIPPED_EACH = {"readable", "readable window"}


def full_settings(name: str) -> Settings:
    settings = resolve("modern-5m" if name in RARE else name)
    optim = replace(settings.optim, **OPTIM.get(name, {}))
    model = replace(settings.model, **RARE.get(name, {}), vocab_size=expected_vocab_size(settings))
    return replace(settings, model=model, optim=optim)


def choices_of(settings: Settings) -> tuple[object, ...]:
    """What changes the code of the file, and not only its numbers."""
    values = [getattr(settings.model, field.name) for field in fields(settings.model)]
    choices = [value if isinstance(value, str | bool | tuple) else bool(value) for value in values]
    grouped = settings.model.kv_heads == settings.model.n_head
    values = [getattr(settings.optim, name) for name in ("optimizer", "schedule", "warmup", "lag", "decay")]
    limits = bool(settings.optim.decay_steps), settings.train.clip_each, bool(settings.train.epochs)
    return (*choices, grouped, *values, *limits)


# One preset of each kind: the others of its family differ in numbers only.
PRESETS = list({choices_of(full_settings(name)): name for name in preset_files()}.values())
EVERY = [*PRESETS, *RARE]


def small_settings(name: str) -> Settings:
    settings = full_settings(name)
    grouped = settings.model.kv_heads != settings.model.n_head
    model = replace(
        settings.model,
        n_layer=2,
        n_head=4,
        n_kv_head=2 if grouped else None,
        n_embd=24,
        head_dim=6 if settings.model.head_dim else None,
        mlp_width=20 if settings.model.mlp_width else None,
        context=CONTEXT,
        vocab_size=VOCABULARY,
    )
    micro_batch = settings.train.micro_batch and 2
    train = replace(settings.train, batch=4, micro_batch=micro_batch)
    if name in CLIPPED_EACH:
        train = replace(train, micro_batch=2, clip_each="micro_batch", grad_clip=0.5)
    optim = replace(settings.optim, warmup_steps=3, decay_steps=settings.optim.decay_steps and 7)
    return replace(settings, model=model, train=train, optim=optim)


@functools.cache
def ejected(name: str) -> str:
    """The file for a small model with the choices of a preset."""
    return render(name, ["some parts"], small_settings(name))


@pytest.fixture
def imported(tmp_path: Path) -> Callable[[str], ModuleType]:
    """Import a text as a module."""

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


def random_model(config: ModelConfig) -> GPT:
    """A model with large weights, no two of them alike, so that every mistake shows."""
    model, chance = with_pairs(build(config, 3)), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5).add_(torch.randn(p.shape, generator=chance), alpha=0.1)
    return model.eval()


def load(module: ModuleType, model: GPT, folder: Path) -> Any:
    """The ejected model with the weights of `model`, by way of a file."""
    from safetensors.torch import load_model

    save_file({name: p.contiguous() for name, p in weights_of(model).items()}, folder / "model.safetensors")
    theirs = module.GPT()
    load_model(theirs, folder / "model.safetensors")
    return theirs.eval()


def new_model(module: ModuleType, seed: int) -> Any:
    model = module.GPT()
    module.init_weights(model, seed)
    return model


@pytest.mark.parametrize("name", EVERY)
def test_logits_are_bit_identical(name: str, imported: Callable[[str], ModuleType], tmp_path: Path) -> None:
    model = random_model(small_settings(name).model)
    theirs = load(imported(ejected(name)), model, tmp_path)
    ids = torch.randint(VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(theirs(ids), model(ids))
        assert torch.equal(theirs(ids[:, :5]), model(ids[:, :5]))


@pytest.mark.parametrize("name", EVERY)
def test_initial_weights_are_bit_identical(name: str, imported: Callable[[str], ModuleType]) -> None:
    ours, theirs = build(small_settings(name).model, 7), new_model(imported(ejected(name)), 7)
    named = dict(theirs.named_parameters())
    assert list(named) == [key for key, _ in ours.named_parameters()]
    assert all(torch.equal(p, named[key]) for key, p in ours.named_parameters())


@pytest.mark.parametrize("steps", [1, 40])
def test_the_same_pairs_are_found(steps: int, imported: Callable[[str], ModuleType]) -> None:
    name = "bigrams, frequent"
    settings, theirs = small_settings(name), new_model(module := imported(ejected(name)), 1)
    ids = np.random.default_rng(1).integers(VOCABULARY, size=2000) ** 2 // VOCABULARY  # small numbers are frequent
    module.find_pairs(theirs, ids, steps)
    ours, passes = build(settings.model, 1), steps * settings.step_tokens / len(ids)
    contexts = ids[:-1] * VOCABULARY + ids[1:]
    choose_pairs(ours.bigram, count_ngrams(contexts, np.zeros_like(contexts), VOCABULARY), FREQUENT * passes)
    assert torch.equal(theirs.bigram.pairs, ours.bigram.pairs)
    assert 0 < (ours.bigram.pairs < VOCABULARY**2).sum() < ours.bigram.rows


@pytest.mark.parametrize("name", EVERY)
def test_ten_training_steps_are_bit_identical(name: str, imported: Callable[[str], ModuleType]) -> None:
    settings, module = small_settings(name), imported(ejected(name))
    seed, size = settings.train.seed, settings.train.micro_batch or settings.train.batch
    optim = settings.optim
    if optim.schedule == "epoch_cosine" and settings.train.epochs:
        optim = replace(optim, steps_per_epoch=10 / settings.train.epochs)
    chance = torch.Generator().manual_seed(2)
    data = [torch.randint(VOCABULARY, (4, CONTEXT + 1), generator=chance) for _ in range(10)]
    model = build(settings.model, seed)
    stepper = TrainStep(
        model=model,
        loss=LossModel(model, CPU),
        optimizer=build_optimizer(model, optim, CPU.torch_dtype),
        batches=lambda step: [Batch(rows[:, :-1], rows[:, 1:]) for rows in data[step].split(size)],
        multiplier=partial(lr_multiplier, optim, steps=10),
        initial_lr=optim.lr,
        grad_clip=settings.train.grad_clip,
        clip_each=settings.train.clip_each,
    )
    torch.manual_seed(seed)
    ours = [stepper(step).loss for step in range(10)]
    theirs = new_model(module, seed)
    assert list(module.train(theirs, iter(data), 10)) == ours
    assert len(set(ours)) == 10
    named = dict(theirs.named_parameters())
    assert all(torch.equal(p, named[key]) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_generated_tokens_are_the_same_past_the_context(
    name: str, temperature: float, imported: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    settings, module = small_settings(name), imported(ejected(name))
    model = random_model(settings.model)
    row = (Temperature(temperature) if temperature else Greedy(),)
    count = 2 * CONTEXT + 3
    ours = [int(token) for (token,) in generate.generate(model, torch.tensor([[5, 9, 2]]), row, CPU, count, seed=6)]
    theirs = load(module, model, tmp_path)
    assert module.generate(theirs, [5, 9, 2], count, temperature, 6) == ours
    assert max(module.generate(theirs, [5, 9, 2], count, temperature, 6, known=7)) < 7
    assert len(set(ours)) > 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file of every kind of model."""
    path = tmp_path_factory.mktemp("ejected")
    for index, name in enumerate(EVERY):
        (path / f"gpt_{index}.py").write_text(ejected(name), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_file_of_a_preset_is_short(name: str) -> None:
    lines = ejected(name).splitlines()
    assert len(lines) <= (LONGEST_WITH_MUON if full_settings(name).optim.optimizer == "muon" else LONGEST)
    assert max(map(len, lines)) <= 120


def test_files_pass_ruff_check_and_ruff_format(folder: Path) -> None:
    for words in (["check", "--ignore", "T20,TID251"], ["format", "--diff"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", "--config", str(ROOT / "pyproject.toml"), "."]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_file_runs_without_fledge_and_imports_few_packages(folder: Path) -> None:
    code = f"""
import importlib, sys
sys.modules["fledge"] = None
sys.path.insert(0, {str(folder)!r})
for number in range({len(EVERY)}):
    module = importlib.import_module(f"gpt_{{number}}")
    assert module.N_LAYER == 2
assert not {{"safetensors", "tokenizers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in EVERY:
        nodes = list(ast.walk(ast.parse(ejected(name))))
        asked = {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
        asked |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        external = {module.partition(".")[0] for module in asked} - sys.stdlib_module_names
        assert external == {"torch", "numpy", "safetensors", "tokenizers"}


@pytest.mark.parametrize("name", EVERY)
def test_file_defines_nothing_unused(name: str) -> None:
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
            case ast.Attribute(value=ast.Name(id="self"), attr=attribute, ctx=ast.Store()):
                assert attribute in asked, attribute
            case ast.FunctionDef(name=method) if method not in {"__init__", "forward", "step"} | read:
                assert method in asked, method
            case ast.If(test=test) | ast.IfExp(test=test):
                assert not isinstance(test, ast.Constant)


GPT2, MODERN, TOYGPT = (next(n for n in PRESETS if n.startswith(family)) for family in ("gpt2", "modern", "toygpt"))
ABSENT = {
    GPT2: ["cos,", "RMSNorm(", "gate", "WINDOW", "SOFTCAP", "KV_HEAD", "Identity", "Muon", "BIGRAM"],
    MODERN: ["LayerNorm(", "Learned", "DROPOUT", "Dropout", "gelu", "WINDOW", "bias=True", "BIGRAM"],
    TOYGPT: ["Rotary", "ROTARY", "RMSNorm(", "model.positions.weight", "query_norm", "COOLDOWN"],
    "scratch-char": ["Rotary", "sinusoids", "self.dropout", "SOFTCAP", "\nSTEPS", "weight = self.embed.weight"],
    "bigrams, hashed": ["math", "MIN_LR", "COOLDOWN", "Muon", "gate", "GRAD_CLIP = 0"],
}


@pytest.mark.parametrize("name", ABSENT)
def test_parts_of_other_models_are_absent(name: str) -> None:
    assert [word for word in ABSENT[name] if word in ejected(name)] == []


def test_introduction_and_settings_describe_the_model() -> None:
    gpt2 = render("gpt2", ["learned", "layernorm"], full_settings("gpt2"))
    assert gpt2.startswith('"""gpt2: a GPT of 124,439,808 parameters')
    assert "Parts: learned, layernorm." in gpt2
    assert "N_LAYER = 12  # blocks\n" in gpt2
    assert "VOCAB_SIZE = 50_257  # V\n" in gpt2
    assert 'F.gelu(self.up(x), approximate="tanh")' in gpt2


@pytest.mark.parametrize("steps", [0, 5])
def test_introduction_says_that_the_fit_to_ngrams_is_left_out(steps: int) -> None:
    settings = full_settings("modern-5m")
    text = render("small", ["some parts"], replace(settings, train=replace(settings.train, ngram_steps=steps)))
    assert ("(train.ngram_steps) is left out." in " ".join(text.split('"""')[1].split())) == bool(steps)
    assert max(map(len, text.splitlines())) <= 120


def test_introduction_names_the_bigram_table() -> None:
    settings = full_settings("sprint-shakespeare")
    assert "bigram table (4,225 rows)" in render("sprint", model_parts(settings.model), settings)


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
def test_number_is_written_as_a_person_would(value: float, written: str) -> None:
    assert number(value) == written
    assert ast.literal_eval(written) == value


def test_epoch_cosine_without_a_number_of_epochs_is_refused() -> None:
    settings = small_settings("layernorm")
    unknown = replace(settings, optim=replace(settings.optim, steps_per_epoch=None))
    with pytest.raises(UserError, match="epoch_cosine") as refusal:
        render("x", ["some parts"], unknown)
    assert "--train.epochs" in refusal.value.hint
    in_epochs = replace(unknown, train=replace(unknown.train, epochs=15.0))
    assert "steps / EPOCHS" in render("x", ["some parts"], in_epochs)


def test_epochs_make_as_many_steps_as_in_fledge(imported: Callable[[str], ModuleType]) -> None:
    settings = small_settings("scratch-char")
    module = imported(ejected("scratch-char"))
    order = WindowSampler(5000, CONTEXT, settings.data.stride or CONTEXT, 1)
    assert settings.train.epochs
    assert module.count_steps(5000) == round(settings.train.epochs * order.windows_per_epoch / settings.train.batch)


@pytest.fixture
def demo(
    imported: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ModuleType]:
    """Run the ejected demo in an empty folder, with the words of a command line."""
    module = imported(ejected("demo"))
    monkeypatch.chdir(tmp_path)

    def run(words: str, *more: str) -> ModuleType:
        monkeypatch.setattr(sys, "argv", ["gpt.py", *words.split(), *more])
        module.main()
        return module

    return run


def test_training_on_ids_lowers_the_loss(
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


def test_text_in_and_out_with_a_tokenizer_file(
    demo: Callable[..., ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "a bird sings\na bird é flies\n" * 4
    tokenizer = CharTokenizer.train([text])
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    Path("text.txt").write_text(text, encoding="utf-8")
    module = demo("train text.txt --steps 2")
    assert module.read_ids(Path("text.txt"), "tokenizer.json").tolist() == tokenizer.encode(text).tolist()
    capsys.readouterr()
    demo("generate --weights trained.safetensors --tokens 5 --temperature 0 --prompt", "a bird")
    assert capsys.readouterr().out.startswith("a bird")


def test_text_shorter_than_the_context_is_refused(
    demo: Callable[..., ModuleType],
) -> None:
    np.save("ids.npy", np.zeros(CONTEXT, dtype=np.uint16))
    with pytest.raises(SystemExit, match="too few"):
        demo("train ids.npy")


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 70_000])
def test_token_shards_of_a_dataset_are_read(
    vocabulary: int, imported: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    ids = np.arange(0, vocabulary, 7, dtype=np.uint32)
    writer = ShardWriter(tmp_path / "00000.tokens", vocabulary)
    writer.begin_document()
    writer.add(ids)
    writer.close("00000.tokens")
    assert np.array_equal(imported(ejected("demo")).read_ids(tmp_path / "00000.tokens", ""), ids)


def test_windows_are_as_long_as_sequences_in_training(imported: Callable[[str], ModuleType]) -> None:
    settings = small_settings("window")
    shorter = replace(settings, train=replace(settings.train, context=7))
    module, ids = imported(render("short", ["some parts"], shorter)), np.arange(50, dtype=np.uint16)
    assert module.CONTEXT == CONTEXT
    assert next(module.batches(ids)).shape == (settings.train.batch, 8)
    assert "TRAIN_CONTEXT" not in ejected("window")


def test_random_windows_cover_the_text_and_repeat_by_seed(imported: Callable[[str], ModuleType]) -> None:
    module, ids = imported(ejected("demo")), np.arange(50, dtype=np.uint16)
    drawn = [tokens for tokens, _ in zip(module.batches(ids), range(60), strict=False)]
    again = [tokens for tokens, _ in zip(module.batches(ids), range(60), strict=False)]
    assert all(map(torch.equal, drawn, again))
    assert all((tokens.diff() == 1).all() for tokens in drawn)
    assert drawn[0].shape == (4, CONTEXT + 1)
    assert {int(row[0]) for tokens in drawn for row in tokens} == set(range(50 - CONTEXT))
