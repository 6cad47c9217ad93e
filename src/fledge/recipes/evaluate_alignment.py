"""Measure an alignment run on its held-out examples, as training does: the accuracy of a reward model, the reward of a
policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fledge.alignment.config import AlignSettings
from fledge.alignment.reward_model import RewardModelEvaluation
from fledge.alignment.reward_scores import CalibrationBin
from fledge.checkpoint import store
from fledge.checkpoint.state import load_weights
from fledge.core import device as machines
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.errors import UserError
from fledge.core.progress import progress
from fledge.model.init import build_for_loading
from fledge.recipes.align import reopen_method
from fledge.runs.evaluations import record_evaluation
from fledge.runs.run_folder import RunFolder
from fledge.settings.pipeline import validated


@dataclass(frozen=True)
class AlignmentEvaluation:
    run: str
    step: int
    method: str
    metrics: Mapping[str, float]
    calibration: Sequence[CalibrationBin] | None = None  # of a reward model


def evaluate_alignment(
    run: RunFolder, *, device: str = "auto", trust_reward: bool = False, world: World = SINGLE_PROCESS
) -> AlignmentEvaluation:
    """trust_reward: execute the reward functions of a run that came from elsewhere."""
    settings = validated(run.config())
    assert isinstance(settings, AlignSettings)
    settings = replace(settings, train=replace(settings.train, eval_every=1))  # also of a run that was never evaluated
    chosen = machines.choose_device(device).value
    dtype = settings.train.dtype if machines.has_units(chosen, settings.train.dtype) else "float32"
    machine = machines.choose_machine(chosen, dtype, world)
    method, checkpoint = reopen_method(run, settings, machine, trust=trust_reward), run.checkpoint(weights_only=True)
    model = build_for_loading(settings.model)
    load_weights(model, store.load_weights(checkpoint, verified=True))
    evaluations = method.evaluations(model.to(machine.device).eval(), lambda items: progress(items, "evaluating"))
    if not evaluations.every:
        raise UserError(
            f"'{run.name}' has no held-out examples: its data is too small",
            "a tenth of the data is held out; measure it on a dataset: --data DIR",
        )
    found = evaluations.evaluate()
    bins = found.calibration if isinstance(found, RewardModelEvaluation) else None
    if world.is_main:
        record_evaluation(run, "alignment", checkpoint.step, {"metrics": dict(found.metrics)})
    return AlignmentEvaluation(run.name, checkpoint.step, method.name, found.metrics, bins)
