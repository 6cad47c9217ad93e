"""A model whose tokenizer.json has added tokens: trained, generated with, exported and imported."""

import json

from fledge.tokenizers.base import load_tokenizer
from fledge.tokenizers.hf_json import added_tokens_json


def test_tokenizer_with_added_tokens_from_training_to_export(home, capsys) -> None:
    file = home.folder / "bpe.json"
    assert home.do("tokenizer", "train", str(home.text), "--vocab-size", "270", "--out", str(file)) == 0
    content = json.loads(file.read_text())
    content["added_tokens"] += added_tokens_json([(270, "<pad>", True), (271, "<|startoftext|>", True)])
    file.write_text(json.dumps(content))
    short = ("--train.steps", "2", "--train.eval_every", "2", "--tokenizer.file", str(file))
    run = home.train("bird", *short)
    assert load_tokenizer(run / "tokenizer.json").vocab_size == 272
    capsys.readouterr()
    assert home.do("generate", "bird", "--prompt", "<|startoftext|>la", "--tokens", "3") == 0
    assert capsys.readouterr().out.startswith("<|startoftext|>la")
    out = home.folder / "exported"
    assert home.do("export", "bird", "--to", "hf", "--out", str(out)) == 0
    assert home.do("import", str(out), "--out", "again") == 0
    assert load_tokenizer(home.runs / "again" / "tokenizer.json").vocab_size == 272
