"""The end of a run: the last weights and the best ones, on the whole validation split."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from fledge.evaluation.schedule import WHOLE_SPLIT_PASSES
from fledge.evaluation.validation import BEST, WHOLE, Validation
from fledge.tracking.events import Metrics
from fledge.training.checkpointer import Checkpointer
from fledge.training.method import Evaluations
from fledge.training.recorder import Recorder

AS_GOOD = 0.01  # nats on the sample, between two checkpoints of a run: less is chance


class WholeSplit:
    """passes: what the evaluations cost at most, in evaluations of the sample; 0: there are none.

    in_haste: the time of the run is limited. Weights that are as good as the best on the sample then count as the best.
    """

    def __init__(
        self,
        evaluations: Evaluations,
        checkpointer: Checkpointer,
        recorder: Recorder,
        measure: Callable[[str], AbstractContextManager[None]],
        *,
        in_haste: bool,
    ) -> None:
        self._evaluations, self._checkpointer, self._recorder = evaluations, checkpointer, recorder
        self._measure, self._in_haste = measure, in_haste
        self.passes = evaluations.whole_split_passes if isinstance(evaluations, Validation) else 0.0

    def expected_passes(self, loss: float | None, lowest: float | None) -> float:
        """As `passes`, if the run ended with this loss on the sample, and the lowest in the run was that."""
        only_last = loss is None or lowest is None or is_as_good(loss, lowest)
        return self.passes / WHOLE_SPLIT_PASSES if only_last else self.passes

    def evaluate(self, step: int, loss: float) -> float:
        """The best is that of the sample, or the last if it is better on the whole split.

        loss: of the last weights on the sample. Returns the one to save them with: if they are the best, the lowest
        loss of the run, so that they win the tie.
        """
        assert isinstance(self._evaluations, Validation)
        self._recorder.activity(step, "evaluating the whole validation split")
        with self._measure("evaluation"):
            best = last = self._evaluations.evaluate_whole()
        self._recorder.saved(self._checkpointer.saved(wait=True))
        best_step, lowest = self._checkpointer.best(step, loss)
        if self._in_haste and is_as_good(loss, lowest):
            best_step, loss = step, lowest
        if best_step != step:
            self._recorder.activity(step, f"evaluating step {best_step:,}, the best, on the whole validation split")
            with self._measure("evaluation"):
                best = self._evaluations.evaluate_whole(self._checkpointer.weights_at(best_step))
            if last.loss <= best.loss:
                best, best_step, loss = last, step, lowest
        values = {**last.metrics(WHOLE), **best.metrics(BEST), f"{BEST}/step": best_step}
        self._recorder.record(Metrics(step, values))
        return loss


def is_as_good(loss: float, lowest: float) -> bool:
    return loss - lowest < AS_GOOD
