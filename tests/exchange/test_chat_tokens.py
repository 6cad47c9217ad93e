"""A model with added chat tokens leaves to other programs: they write a conversation with the same ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as library
import pytest
import torch
from gguf import TokenType

from fledge.exchange import gguf, hf_tokenizer, huggingface
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.vocabulary import with_vocabulary
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.chat_template import (
    CHAT_TEMPLATE,
    CHAT_TOKENS,
    ChatTemplate,
    add_chat_tokens,
    find_chat_template,
)
from fledge.tokenizers.hf import HFTokenizer

from .conftest import PLAIN

Make = Callable[[ModelConfig], GPT]
MESSAGES = [
    {"role": "system", "content": "Be a duck."},
    {"role": "user", "content": "Could the duck  write?\n"},
    {"role": "assistant", "content": "She wrote letters."},
    {"role": "user", "content": "And then?"},
]


@pytest.fixture
def chatty(tokenizer: HFTokenizer) -> tuple[Tokenizer, ChatTemplate]:
    added = add_chat_tokens(tokenizer)
    template = find_chat_template(added, {})
    assert template is not None
    return added, template


def test_transformers_writes_the_same_conversation(
    tmp_path: Path, make: Make, chatty: tuple[Tokenizer, ChatTemplate]
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer, template = chatty
    model = make(with_vocabulary(PLAIN, tokenizer.vocab_size))
    kind = huggingface.write_hf_folder(tmp_path, model, tokenizer)
    hf_tokenizer.add_chat_template(tmp_path, template)
    huggingface.check_hf_folder(tmp_path, model, tokenizer, kind)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in (True, False):
        ids = theirs.apply_chat_template(MESSAGES, add_generation_prompt=prompt)["input_ids"]
        assert ids == template.encode(MESSAGES, add_generation_prompt=prompt)
    assert theirs.decode(ids, skip_special_tokens=True) == "".join(each["content"] for each in MESSAGES)
    end = tokenizer.vocab_size - 1
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [end]
    found = huggingface.read_hf_folder(huggingface.local_model_folder(tmp_path))
    assert found.chat["chat_template"] == CHAT_TEMPLATE
    assert found.tokenizer.to_json() == tokenizer.to_json()


def test_transformers_ends_an_answer_where_we_do(
    tmp_path: Path, make: Make, chatty: tuple[Tokenizer, ChatTemplate]
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer, template = chatty
    model, end = make(with_vocabulary(PLAIN, tokenizer.vocab_size)), tokenizer.vocab_size - 1
    with torch.no_grad():  # it ends its answer at once
        model.head.weight[end] = 100 * model.hidden(torch.tensor([template.encode(MESSAGES)]))[0, -1]
    huggingface.write_hf_folder(tmp_path, model, tokenizer)
    hf_tokenizer.add_chat_template(tmp_path, template)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    answer = theirs.generate(torch.tensor([template.encode(MESSAGES)]), max_new_tokens=9, do_sample=False)
    assert answer[0].tolist() == [*template.encode(MESSAGES), end]


def test_gguf_has_control_tokens_and_llama_cpp_the_same_ids(
    tmp_path: Path, make: Make, chatty: tuple[Tokenizer, ChatTemplate], llama: Any
) -> None:
    tokenizer, template = chatty
    model, path = make(with_vocabulary(PLAIN, tokenizer.vocab_size + 3)), tmp_path / "model.gguf"
    gguf.write_gguf(path, model, tokenizer, "f32", "model", template)
    gguf.check_gguf(path, model, tokenizer, "f32")
    fields = library.GGUFReader(path).fields
    first = tokenizer.vocab_size - 4
    kinds = [fields["tokenizer.ggml.token_type"].parts[i][0] for i in fields["tokenizer.ggml.token_type"].data]
    assert kinds[first : first + 4] == [TokenType.CONTROL] * 4
    assert fields["tokenizer.ggml.eot_token_id"].parts[-1][0] == first + 3
    theirs = llama(path)
    text = theirs.ask("apply-template", messages=MESSAGES)["prompt"]
    assert theirs.ask("tokenize", content=text, parse_special=True)["tokens"] == template.encode(MESSAGES)
    plain = "".join(CHAT_TOKENS)
    assert theirs.ask("tokenize", content=plain, parse_special=False)["tokens"] == tokenizer.encode(plain).tolist()
