"""Read a checkpoint of another GPT program, whichever it is.

The vocabulary of a character model is in no checkpoint (nanoGPT has it in `meta.pkl`, which is never opened, as a
pickle can run any code): it is rebuilt from the text.
"""

from pathlib import Path

from fledge.core.errors import UserError
from fledge.exchange import hf_tokenizer
from fledge.exchange.model_source import ExternalModel
from fledge.exchange.tensors import convert_weights
from fledge.exchange.torch_checkpoints.contents import read_checkpoint
from fledge.exchange.torch_checkpoints.programs import Program, recognise
from fledge.exchange.torch_checkpoints.shape import GivenShape, model_config
from fledge.model.config import ModelConfig
from fledge.tokenizers.base import Tokenizer, parse_tokenizer
from fledge.tokenizers.create import openai_tokenizer
from fledge.tokenizers.hf_json import added_tokens_json

TOKENIZER_HINT = "give its training text: --characters input.txt; or its tokenizer: --tokenizer gpt2, p50k or FILE"


def read_torch_model(path: Path, source: str, tokenizer: Tokenizer | None, given: GivenShape) -> ExternalModel:
    checkpoint = read_checkpoint(path, source)
    program = recognise(checkpoint.tensors, source)
    model = model_config(checkpoint, program, given, source)
    weights = convert_weights(checkpoint.tensors, model, program.names, source)
    tokenizer = tokenizer or _usual_tokenizer(program, model, source)
    _check_vocabulary(tokenizer, model)
    return ExternalModel(program.name, model, weights, tokenizer)


def _usual_tokenizer(program: Program, model: ModelConfig, source: str) -> Tokenizer:
    """The tokenizer that the program uses, if the size of the vocabulary is that of one."""
    assert model.vocab_size is not None
    usual = program.vocabularies.get(model.vocab_size)
    if usual is None:
        raise UserError(f"'{source}' does not contain its vocabulary of {model.vocab_size:,} tokens", TOKENIZER_HINT)
    tokenizer = openai_tokenizer(usual.kind)
    if not usual.added:
        return tokenizer
    content, first = tokenizer.to_json(), tokenizer.vocab_size
    content["added_tokens"] += added_tokens_json((i, text, True) for i, text in enumerate(usual.added, first))
    return parse_tokenizer(content, f"the tokenizer of {program.name}")


def _check_vocabulary(tokenizer: Tokenizer, model: ModelConfig) -> None:
    hf_tokenizer.check_tokenizer_size(tokenizer, model)
    if tokenizer.kind == "char" and tokenizer.vocab_size != model.vocab_size:
        raise UserError(
            f"the text has {tokenizer.vocab_size} different characters, but the model has {model.vocab_size}",
            "give the complete text that it was trained on",
        )
