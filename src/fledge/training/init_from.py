"""Initial weights and tokenizer from another run (`--init`).

All other settings come from the preset, or from that run.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from fledge.checkpoint import store
from fledge.checkpoint.state import (
    State,
    Tensors,
    blank_weights,
    check_fit,
    initial_state,
    plain_weights,
    weights_of,
)
from fledge.core.errors import UserError
from fledge.core.files import sha256
from fledge.datasets.shards import Dataset
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.model.lora import plain_config
from fledge.model.vocabulary import grow_vocabulary
from fledge.runs.run_folder import RunFolder, open_run
from fledge.tokenizers.base import Tokenizer, fingerprint
from fledge.training.config import Settings

LEARNED_POSITIONS = "positions.weight"


@dataclass(frozen=True)
class InitialWeights:
    run: RunFolder
    checkpoint: store.Checkpoint

    @property
    def name(self) -> str:
        return f"{self.run.name}@{self.checkpoint.step}"

    @property
    def sha256(self) -> str:
        """Of the files of the weights: one, or a shard of each process."""
        files = sorted(self.checkpoint.folder.glob("*model*.safetensors"))
        return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()

    def weights(self, model: ModelConfig, seed: int, tokens: int | None = None) -> Tensors:
        """The weights, checked against the new model; with a shorter context, it keeps the first position vectors.

        Adapters are merged. Those of the new model are new, drawn from `seed`; so is its value head, unless the run has
        one, and so are the rows of added tokens. tokens: of a tokenizer that has more of them than that of the run.
        """
        config, known = self.run.model_config(), self.run.tokenizer().vocab_size
        keep = config.value_head and model.value_head
        weights = plain_weights(config, store.load_weights(self.checkpoint), value_head=keep)
        if LEARNED_POSITIONS in weights:
            weights[LEARNED_POSITIONS] = weights[LEARNED_POSITIONS][: model.context]
        plain, grows = plain_config(model, value_head=keep), tokens is not None and tokens > known
        if grows:
            plain = replace(
                plain,
                vocab_size=config.vocab_size,
                bigram_rows=config.bigram_rows,
                bigram_vocab=config.bigram_vocab,
            )
        if config.block != model.block:  # the names and shapes are the same, but not what they compute
            raise UserError(
                f"the weights of '{self.name}' are of blocks '{config.block}', and the new model has '{model.block}'",
                f"use --model.block {config.block}",
            )
        check_fit(blank_weights(plain), weights)
        if model == plain and not grows:
            return weights
        new = weights_of(build(model, seed))
        return {**new, **(grow_vocabulary(weights, new, known, tokens or known) if grows else weights)}

    def initial_state(self, settings: Settings, tokenizer: Tokenizer | None = None) -> State:
        """tokenizer: that of the run with more tokens, where there are more."""
        tokens = tokenizer.vocab_size if tokenizer else None
        return initial_state(self.weights(settings.model, settings.train.seed, tokens), settings.train.seed)

    def check(self, dataset: Dataset) -> None:
        if fingerprint(dataset.tokenizer) != fingerprint(self.run.tokenizer()):
            raise UserError(
                f"'{dataset.folder}' was made with another tokenizer than '{self.run.name}'",
                f"prepare it with --tokenizer {self.run.tokenizer_file}",
            )


def find_initial_weights(reference: str, runs: Path) -> InitialWeights:
    """`--init RUN[@checkpoint]`; the best checkpoint by default."""
    run = open_run(reference, runs, default="best")
    return InitialWeights(run, run.checkpoint())
