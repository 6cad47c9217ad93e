"""Where a training begins that does not begin from nothing: the model and the tokenizer of another run.

How to train is another matter: a preset or a file says it, or else the other run's own settings.
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

PREFIXES = "positions.weight"


@dataclass(frozen=True)
class InitialWeights:
    run: RunFolder
    checkpoint: store.Checkpoint

    @property
    def name(self) -> str:
        return f"{self.run.name}@{self.checkpoint.step}"

    def weights(self, model: ModelConfig) -> Tensors:
        """The origin's, in the model that the settings describe. A shorter context has the first of its places."""
        weights = store.load_weights(self.checkpoint)
        if PREFIXES in weights:
            weights[PREFIXES] = weights[PREFIXES][: model.context]
        check_fit(blank_weights(model), weights)
        return weights

    def begin(self, settings: Settings) -> State:
        return initial_state(self.weights(settings.model), settings.train.seed)

    def check(self, dataset: Dataset) -> None:
        if fingerprint(dataset.tokenizer) != fingerprint(self.run.tokenizer()):
            raise UserError(
                f"'{dataset.folder}' was made with another tokenizer than '{self.run.name}'",
                f"prepare it with --tokenizer {self.run.folder / 'tokenizer.json'}",
            )


def find_initial_weights(reference: str, runs: Path) -> InitialWeights:
    """The run that `--init` names; its best checkpoint where none is named."""
    run = open_run(reference, runs, default="best")
    return InitialWeights(run, run.checkpoint())
