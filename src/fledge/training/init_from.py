"""Initial weights and tokenizer from another run (`--init`).

All other settings come from the preset, or from that run.
"""

from dataclasses import dataclass
from pathlib import Path

from fledge.checkpoint import store
from fledge.checkpoint.state import State, Tensors, blank_weights, check_fit, initial_state
from fledge.core.errors import UserError
from fledge.datasets.shards import Dataset
from fledge.model.config import ModelConfig
from fledge.runs.run_folder import RunFolder, open_run
from fledge.tokenizers.base import fingerprint
from fledge.training.config import Settings

LEARNED_POSITIONS = "positions.weight"


@dataclass(frozen=True)
class InitialWeights:
    run: RunFolder
    checkpoint: store.Checkpoint

    @property
    def name(self) -> str:
        return f"{self.run.name}@{self.checkpoint.step}"

    def weights(self, model: ModelConfig) -> Tensors:
        """The weights, checked against the new model; with a shorter context, it keeps the first position vectors."""
        weights = store.load_weights(self.checkpoint)
        if LEARNED_POSITIONS in weights:
            weights[LEARNED_POSITIONS] = weights[LEARNED_POSITIONS][: model.context]
        check_fit(blank_weights(model), weights)
        return weights

    def initial_state(self, settings: Settings) -> State:
        return initial_state(self.weights(settings.model), settings.train.seed)

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
