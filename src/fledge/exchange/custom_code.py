"""Export a model that transformers has no class for: its code goes with the weights.

    gpt.py                the model as one file, written by `fledge eject`
    modeling_fledge.py    the class for transformers around it

It has no KV cache, so it computes the whole context again for every token. It is loaded with `trust_remote_code=True`,
like all code that comes with a model.
"""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from fledge.checkpoint.state import weights_of
from fledge.exchange.huggingface import write_model_files
from fledge.exchange.parity import Parity, compare_logits, probe_tokens
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer

CLASS_NAME = "FledgeForCausalLM"
MODEL_FILE, WRAPPER_FILE = "gpt.py", "modeling_fledge.py"
PREFIX = "model."  # of the weight names in that class

SOURCE = f'''"""The class for transformers, around the model in {MODEL_FILE}."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .{MODEL_FILE.removesuffix(".py")} import CONTEXT, GPT, SEED, init_weights


class FledgeConfig(PretrainedConfig):
    model_type = "fledge"


class {CLASS_NAME}(PreTrainedModel, GenerationMixin):
    config_class = FledgeConfig
    _tied_weights_keys = TIED

    def __init__(self, config: FledgeConfig) -> None:
        super().__init__(config)
        with torch.device("cpu"):
            self.model = GPT()
            init_weights(self.model, SEED)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The weights are there already. Buffers that are in no file are left empty by transformers: fill them."""
        kept = module.state_dict().keys()
        if buffers := {{name: each for name, each in module.named_buffers(recurse=False) if name not in kept}}:
            path = next(path for path, each in self.model.named_modules() if each is module)
            with torch.device("cpu"):
                new_module = GPT().get_submodule(path)
            for name, buffer in buffers.items():
                buffer.copy_(new_module.get_buffer(name))

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_: Any) -> dict[str, Any]:
        return {{"input_ids": input_ids[:, -CONTEXT:]}}

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> CausalLMOutput:
        """input_ids [B, T] → logits [B, T, V]; with labels also the mean loss of predicting each next token."""
        logits, loss = self.model(input_ids), None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)
'''


def write_custom_code(folder: Path, model: GPT, tokenizer: Tokenizer, program: str) -> str:
    """Write all files into an empty folder, and return the name of the class. `program` is the ejected file."""
    tied = {f"{PREFIX}head.weight": f"{PREFIX}embed.weight"} if model.config.tied else {}
    (folder / MODEL_FILE).write_text(program, encoding="utf-8")
    (folder / WRAPPER_FILE).write_text(SOURCE.replace("TIED", json.dumps(tied)), encoding="utf-8")
    weights = {f"{PREFIX}{name}": tensor for name, tensor in weights_of(model).items()}
    write_model_files(folder, _config(model.config), weights, model.config, tokenizer, use_cache=False)
    return CLASS_NAME


def _config(model: ModelConfig) -> dict[str, Any]:
    module = WRAPPER_FILE.removesuffix(".py")
    auto_map = {"AutoConfig": f"{module}.FledgeConfig", "AutoModelForCausalLM": f"{module}.{CLASS_NAME}"}
    settings = {**asdict(model), "tie_word_embeddings": model.tied, "max_position_embeddings": model.context}
    return {"architectures": [CLASS_NAME], "model_type": "fledge", "auto_map": auto_map, **settings, "dtype": "float32"}


@torch.inference_mode()
def check_custom_code(folder: Path, model: GPT) -> Parity:
    """Compare the written model file, loaded with the written weights, with the model."""
    spec = importlib.util.spec_from_file_location("ejected", folder / MODEL_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    inner = nn.ModuleDict({PREFIX.rstrip("."): module.GPT()})
    load_model(inner, folder / "model.safetensors")
    ids: Tensor = probe_tokens(model)
    return compare_logits(model, ids, inner[PREFIX.rstrip(".")].eval()(ids), f"{MODEL_FILE} alone")
