"""Every model part in combination with others: from settings to a trained run that generates."""

import json
import math

import pytest

COMBINATIONS = {
    "as toygpt": "positions=sinusoidal norm=layernorm mlp=gelu qkv_bias=true output_bias=true mlp_bias=true"
    " norm_bias=true head_bias=true qk_norm=false tied=true final_norm=false init=normal vocab_size=80 dropout=0.1"
    " dropout_on=embedding,qkv,attention,residual,stream",
    "as smollgpt": "block=norm_in_out final_norm=false init=torch positions=learned norm=layernorm mlp=gelu"
    " mlp_bias=true norm_bias=true head_bias=true qk_norm=false dropout=0.1 dropout_on=attention,residual",
    "as GPT from scratch": "block=post_norm init=torch positions=learned norm=layernorm mlp=relu mlp_bias=true"
    " norm_bias=true head_bias=true qk_norm=false",
    "as smallgpt": "init=torch positions=learned norm=layernorm mlp=gelu mlp_width=24 qkv_bias=true output_bias=true"
    " mlp_bias=true norm_bias=true qk_norm=false dropout=0.1 dropout_on=attention,mlp,residual",
    "as gpt2": "positions=learned norm=layernorm norm_eps=1e-5 mlp=gelu_tanh qkv_bias=true output_bias=true"
    " mlp_bias=true norm_bias=true qk_norm=false tied=true",
    "as smol-gpt": "positions=learned norm=layernorm mlp=relu qk_norm=false dropout=0.3 init=torch"
    " dropout_on=attention,residual",
    "as modern": "n_kv_head=1 head_dim=6 mlp_width=24 norm_eps=1e-6 rotary_base=1e6 tied=true",
    "window, cap": "window=5 softcap=15 mlp=relu2 n_kv_head=1",
    "window, sines, readable": "window=5 positions=sinusoidal attention=readable qkv_bias=true",
    "window, learned": "window=16 positions=learned mlp_bias=true head_bias=true",
}


@pytest.mark.parametrize("parts", COMBINATIONS)
def test_model_with_these_parts_trains_and_generates(home, capsys, parts):  # type: ignore[no-untyped-def]
    settings = [f"--model.{part}" for part in COMBINATIONS[parts].split()]
    settings += ["--tokenizer.end_of_text", "false"]
    home.train("duck", *settings, "--train.steps", "2", "--train.eval_every", "2")
    capsys.readouterr()
    assert home.do("eval", "duck", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert math.isfinite(report["loss"])
    assert home.do("generate", "duck", "--prompt", "the", "--tokens", "24") == 0  # beyond the window and the context
    assert len(capsys.readouterr().out) == len("the") + 24 + len("\n")


@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize("preset", ["nanogpt-shakespeare-cpu", "sprint-shakespeare"])
def test_presets_take_a_dataset_with_any_vocabulary(home, kind: str, preset: str) -> None:
    dataset = str(home.folder / "dataset")
    assert home.do("prepare", str(home.text), "--tokenizer", kind, "--out", dataset, "--data.val", "0.1") == 0
    words = ("--run", "duck", "--data.path", dataset, "--train.steps", "2", "--train.sample_every", "0")
    assert home.do("train", preset, *words, "--train.device", "cpu", "--train.compile", "false") == 0
