"""Import a model, generate, evaluate and train with it, and export it to transformers and llama.cpp."""

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fledge.cli.main import main
from fledge.exchange import huggingface, names
from fledge.runs.run_folder import RunFolder, open_run
from fledge.tokenizers.base import save_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.hf_json import added_tokens_json

transformers = pytest.importorskip("transformers")

FEW_STEPS = ("--train.steps", "4", "--train.eval_every", "2", "--train.batch", "4", "--train.micro_batch", "4")
QUICK = (*FEW_STEPS, "--train.compile", "false", "--train.device", "cpu", "--train.dtype", "float32")


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder written by transformers: a random Qwen3 with a vocabulary of 320, and a tokenizer of 300 tokens."""
    folder = tmp_path_factory.mktemp("external") / "tiny-qwen"
    shape = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(0)
    config = transformers.Qwen3Config(**shape, **heads, tie_word_embeddings=True, initializer_range=0.3)
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    text = " ".join(["the quick brown fox jumps over a lazy dog and then it sleeps until"] * 20)
    save_tokenizer(HFTokenizer.train([text], 300, "<|endoftext|>", exact=False), folder / "tokenizer.json")
    return folder


def json_output(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_import_generate_evaluate_train_and_export(home, external: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do("import", str(external), "--json") == 0
    imported = json_output(capsys)
    assert (imported["run"], imported["kind"]) == ("tiny-qwen", "Qwen3ForCausalLM")
    assert home.do("plot", "tiny-qwen") == 2
    assert "was imported: it has no curves" in capsys.readouterr().err
    assert home.do("report", "tiny-qwen", "--json") == 0
    assert json_output(capsys)["report"]["training"] == {}, "its settings are not those that it was trained with"
    written = (home.runs / "tiny-qwen" / "report.md").read_text()
    assert "- imported: " in written
    assert "- seed" not in written
    assert home.do("generate", "tiny-qwen", "--prompt", "the quick", "--tokens", "20", "--greedy", "--json") == 0
    assert len(json_output(capsys)["text"]) > 0

    tokenizer = home.runs / "tiny-qwen" / "tokenizer.json"
    dataset = home.folder / "dataset"
    assert main(["prepare", str(home.text), "--out", str(dataset), "--tokenizer", str(tokenizer)]) == 0
    capsys.readouterr()
    assert home.do("eval", "tiny-qwen", "--data", str(dataset), "--split", "train", "--json") == 0
    before = json_output(capsys)["loss"]

    arguments = ("--init", "tiny-qwen", "--data.path", str(dataset), *QUICK, "--optim.lr", "0.01")
    assert home.do("train", *arguments, "--train.log_every", "1", "--run", "on", "--json") == 0
    capsys.readouterr()
    assert home.do("eval", "on@latest", "--split", "train", "--json") == 0
    assert json_output(capsys)["loss"] < before

    assert home.do("export", "on@latest", "--to", "hf", "--out", str(home.folder / "hf"), "--json") == 0
    output = json_output(capsys)
    assert (output["kind"], output["step"]) == ("Qwen3ForCausalLM", 4)
    assert output["checked_with"].startswith("transformers")
    assert output["difference"] < 1e-4
    ours = open_run("on@latest", home.runs).load()
    ids = ours.tokenizer.encode("the quick brown").tolist()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(home.folder / "hf").eval()
    with torch.no_grad():
        logits = ours.model(torch.tensor([ids]))
        assert float((theirs(torch.tensor([ids])).logits - logits).abs().max()) < 1e-4
    assert transformers.AutoTokenizer.from_pretrained(home.folder / "hf")("the quick brown")["input_ids"] == ids
    card = (home.folder / "hf" / "README.md").read_text()
    assert "4 of 4" in card
    assert "| initialized from | tiny-qwen@0 |" in card
    assert "| trained on | dataset |" in card  # the dataset that was given, not the default corpus
    assert "validation loss" in card
    assert str(home.folder) not in card

    assert home.do("export", "on@latest", "--to", "gguf", "--dtype", "f32", "--out", str(home.folder / "g")) == 0
    assert "on-f32.gguf" in capsys.readouterr().out
    assert next_token_in_llama_cpp(home.folder / "g" / "on-f32.gguf", ids) == int(logits[0, -1].argmax())
    assert home.do("import", str(home.folder / "g" / "on-f32.gguf"), "--out", "again") == 0
    weights = [load_file(max((home.runs / n / "checkpoints").glob("*")) / "model.safetensors") for n in ("on", "again")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def next_token_in_llama_cpp(path: Path, ids: list[int]) -> int:
    library = pytest.importorskip("xllamacpp")
    params = library.CommonParams()
    params.model.path, params.n_ctx, params.verbosity, params.warmup = str(path), 64, -1, False
    server = library.Server(params)
    completion = server.handle_completions({"prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 1})
    return int(completion["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["id"])


def test_import_then_export_is_bit_identical(home, external: Path) -> None:
    assert home.do("import", str(external), "--out", "there") == 0
    assert home.do("export", "there", "--to", "hf", "--out", str(home.folder / "back")) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (external, home.folder / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_resumed_run_from_imported_weights_is_bit_identical(
    home, external: Path, outcome_of: Callable[[Path], dict[str, Any]]
) -> None:
    assert home.do("import", str(external), "--out", "there") == 0
    arguments = ("train", "--init", "there", "--data.corpus", str(home.text), *QUICK, "--train.sample_every", "0")
    assert home.do(*arguments, "--run", "whole", "--train.keep_last", "9") == 0
    shutil.rmtree(home.runs / "there")  # the new run must not need the one it started from
    shutil.copytree(home.runs / "whole", home.runs / "broken")
    for which in ("broken@2", "broken@0"):
        assert home.do("resume", which) == 0
        assert outcome_of(home.runs / "broken") == outcome_of(home.runs / "whole")


def test_training_starts_from_the_weights_of_the_run(home, external: Path, capsys) -> None:
    assert home.do("import", str(external), "--out", "there") == 0
    arguments = ("--init", "there", "--data.corpus", str(home.text), *QUICK, "--run", "on", "--train.keep_last", "9")
    assert home.do("train", str(home.toml), *arguments) == 0
    first = [load_file(home.runs / n / "checkpoints" / "step-00000000" / "model.safetensors") for n in ("there", "on")]
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])
    facts = json.loads((home.runs / "on" / "run.json").read_text())
    assert facts["init"] == "there@0"
    capsys.readouterr()
    assert home.do("train", str(home.toml), "--init", "there", "--print-config", "--json") == 0
    output = json_output(capsys)
    assert (output["model"]["n_embd"], output["model"]["qk_norm"]) == (32, True)  # the run's
    assert (output["optim"]["lr"], output["train"]["steps"]) == (0.01, 12)  # the file's
    assert home.do("train", "--init", "there", "--print-config", "--json") == 0
    assert json_output(capsys)["optim"]["lr"] == 3e-5  # small by default


def test_nanogpt_import_with_the_characters_of_its_text(home, capsys) -> None:
    text = home.folder / "input.txt"
    text.write_text("".join(path.read_text() for path in sorted(home.text.iterdir())))
    size = CharTokenizer.train([text.read_text()]).vocab_size
    (home.folder / "out").mkdir()
    torch.save(nanogpt_checkpoint(size), home.folder / "out" / "ckpt.pt")
    assert home.do("import", str(home.folder / "out"), "--out", "nano") == 2
    assert "--characters" in capsys.readouterr().err
    assert home.do("import", str(home.folder / "out"), "--characters", str(text), "--out", "nano") == 0
    assert home.do("generate", "nano", "--prompt", "the", "--tokens", "5") == 0
    arguments = ("--init", "nano", "--data.corpus", str(text), *QUICK, "--model.context", "16", "--run", "shorter")
    assert home.do("train", *arguments) == 0  # uses the first 16 of 32 positions
    assert home.do("train", *arguments[:-4], "--model.context", "64", "--run", "longer") == 2
    assert "positions.weight" in capsys.readouterr().err
    assert home.do("export", "nano", "--to", "hf", "--out", str(home.folder / "hf"), "--json") == 0
    capsys.readouterr()
    theirs = transformers.AutoTokenizer.from_pretrained(home.folder / "hf")
    assert theirs.decode(theirs("the fox")["input_ids"]) == "the fox"


def nanogpt_checkpoint(size: int) -> dict[str, Any]:
    C, T = 16, 32
    shapes = {"transformer.wte.weight": (size, C), "transformer.wpe.weight": (T, C), "transformer.ln_f.weight": (C,)}
    block = {
        "ln_1": (C,),
        "attn.c_attn": (3 * C, C),
        "attn.c_proj": (C, C),
        "ln_2": (C,),
        "mlp.c_fc": (4 * C, C),
        "mlp.c_proj": (C, 4 * C),
    }
    shapes |= {f"transformer.h.0.{name}.weight": shape for name, shape in block.items()}
    torch.manual_seed(0)
    weights = {f"_orig_mod.{name}": torch.randn(shape) for name, shape in shapes.items()}
    weights["_orig_mod.lm_head.weight"] = weights["_orig_mod.transformer.wte.weight"]
    args = {"n_layer": 1, "n_head": 2, "n_embd": C, "block_size": T, "bias": False, "vocab_size": size, "dropout": 0.0}
    return {"model": weights, "model_args": args, "iter_num": 1, "best_val_loss": torch.tensor(1.0), "config": {}}


def listing(folder: Path) -> set[str]:
    """All files, without the cached measurements of the machine."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "machine.json"}


def test_invalid_commands_are_refused_and_leave_nothing(home, external: Path, capsys) -> None:
    assert home.do("import", str(external), "--out", "there") == 0
    bird = home.train("bird")
    (home.folder / "full").mkdir()
    (home.folder / "notes.txt").write_text("x")
    broken = str(shutil.copytree(external, home.folder / "broken"))
    weights = load_file(external / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, home.folder / "broken" / "model.safetensors")
    before, out = listing(home.folder), str(home.folder / "new")
    for arguments, message in {
        ("import", "gpt2"): "openai-community/gpt2",
        ("import", str(home.folder / "notes.txt")): "ckpt.pt",
        ("import", str(home.folder / "full")): "config.json",
        ("import", broken): "'norm.weight' of",
        ("import", str(external), "--model.n_head", "2"): "says its number of heads itself",
        ("import", str(external), "--out", "bird"): "already exists",
        ("import", str(external), "--out", ".hidden"): "cannot be named",
        ("import", str(external), "--tokenizer", str(home.folder / "absent.json")): "absent.json",
        ("import", str(external), "--tokenizer", str(bird / "tokenizer.json"), "--characters", "x"): "one of them",
        ("export", "there", "--to", "hf", "--out", str(home.folder / "full")): "already exists",
        ("import", str(external), "--out", str(home.folder / "notes.txt" / "run")): "already exists",
        ("export", "there", "--to", "hf", "--dtype", "f16", "--out", out): "gguf",
        ("export", "there", "--to", "onnx", "--out", out): "onnx",
        ("export", "absent", "--to", "hf", "--out", out): "absent",
        ("export", "bird", "--to", "gguf", "--out", out): "characters",
        ("resume", "there"): "fledge train my-notes/ --init ",
        ("eval", "there"): "--data DIR",
        ("train", "--init", "absent"): "absent",
        ("train",): "fledge train my-notes/",
        ("train", "--init", "there", "--tokenizer.kind", "char"): "keeps its tokenizer",
        ("train", "--init", "there", "--model.n_embd", "64"): "has shape",
        ("train", "--init", "there", "--model.n_layer", "3"): "missing: blocks.2",
        ("train", "--init", "there", "--data.path", RunFolder(bird).config()["data"]["path"]): "another tokenizer",
    }.items():
        capsys.readouterr()
        assert home.do(*arguments) == 2, arguments
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err, (arguments, captured.err)
        assert captured.err.splitlines()[-2].startswith("error: ")
        assert listing(home.folder) == before, arguments


def test_export_that_fails_verification_leaves_nothing(home, external: Path, capsys, monkeypatch) -> None:
    assert home.do("import", str(external), "--out", "there") == 0
    original = names.to_theirs

    def swapping(*args: Any) -> dict[str, torch.Tensor]:
        theirs = dict(original(*args))
        up, gate = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("up", "gate"))
        theirs[up], theirs[gate] = theirs[gate], theirs[up]
        return theirs

    monkeypatch.setattr(huggingface.names, "to_theirs", swapping)
    capsys.readouterr()
    assert home.do("export", "there", "--to", "hf", "--out", str(home.folder / "new")) == 2
    assert "differ" in capsys.readouterr().err
    assert not (home.folder / "new").exists()
    assert not list(home.folder.glob(".partial*"))


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where transformers puts the code that comes with models: not into its user's home."""
    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", folder)
        patch.syspath_prepend(folder)
        yield


RARE = ("--model.bigram_rows", "97", "--model.mlp", "relu2", "--model.softcap", "9", "--optim.optimizer", "muon")


POST_NORM = ("--model.block", "post_norm", "--model.init", "torch", "--model.final_norm", "false")
PADDED = ("--model.vocab_size", "2000")  # most ids are no tokens


FREQUENT = (*RARE, "--model.bigram_pairs", "frequent", "--train.ngram_steps", "20")


@pytest.mark.parametrize(
    "settings", [RARE, FREQUENT, (*RARE, *POST_NORM, *PADDED, "--model.tied", "true", "--model.positions", "learned")]
)
def test_unsupported_model_is_exported_with_its_code(
    home, settings: tuple[str, ...], capsys: pytest.CaptureFixture[str], modules: None
) -> None:
    home.train("odd", *settings)
    capsys.readouterr()
    assert home.do("export", "odd", "--to", "hf", "--out", str(home.folder / "hf"), "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["kind"] == "FledgeForCausalLM"
    assert "model.bigram_rows = 97" in err
    assert "trust_remote_code=True" in err
    assert "trust_remote_code=True" in (home.folder / "hf" / "README.md").read_text()

    ours = open_run("odd", home.runs, default="best").load()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(home.folder / "hf", trust_remote_code=True).eval()
    ids = torch.from_numpy(ours.tokenizer.encode("the quick brown").astype("int64"))[None]
    with torch.no_grad():
        assert float((theirs(ids).logits - ours.model(ids)).abs().max()) < 1e-5
        loss = theirs(ids, labels=ids).loss
        wanted = torch.nn.functional.cross_entropy(ours.model(ids)[0, :-1], ids[0, 1:])
    torch.testing.assert_close(loss, wanted)
    generated = theirs.generate(ids[:, :4], max_new_tokens=8, do_sample=False, pad_token_id=0)[0].tolist()
    expected, context, known = ids[0, :4].tolist(), ours.model.config.context, ours.tokenizer.vocab_size
    for _ in range(8):
        expected.append(int(ours.model(torch.tensor([expected[-context:]]))[0, -1, :known].argmax()))
    assert generated == expected
    assert home.do("export", "odd", "--to", "gguf", "--out", str(home.folder / "gguf")) == 2


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("in_own_file", [False, True])
def test_chat_template_is_imported_used_and_exported(
    home,
    external: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    in_own_file: bool,
) -> None:
    folder = tmp_path / "chatty"
    shutil.copytree(external, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    size = len(content["model"]["vocab"])
    content["added_tokens"] += added_tokens_json([(size, "<|im_start|>", True), (size + 1, "<|im_end|>", True)])
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {"eos_token": "<|im_end|>", "chat_template": "unused" if in_own_file else CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if in_own_file:
        (folder / "chat_template.jinja").write_text(CHATML)
    assert home.do("import", str(folder)) == 0

    monkeypatch.setattr(sys, "stdin", io.StringIO("the quick"))
    capsys.readouterr()
    assert home.do("chat", "chatty", "--tokens", "5", "--json") == 0
    captured = capsys.readouterr()
    assert "warning" not in captured.err
    assert [each["role"] for each in json.loads(captured.out)["messages"]] == ["user", "assistant"]

    assert home.do("export", "chatty", "--to", "hf", "--out", str(tmp_path / "hf")) == 0
    messages = [{"role": "user", "content": "the quick"}]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = open_run("chatty", home.runs).chat_template()
    assert ours is not None
    assert ours.stop_tokens == (size + 1,)
    assert theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == ours.encode(messages)
    generation = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [size + 1]

    (home.runs / "chatty" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "changed"}))
    assert home.do("chat", "chatty") == 2
    assert "edited since the run was created" in capsys.readouterr().err
