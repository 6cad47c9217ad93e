"""Make preferences: answers of a run to the prompts of some data, ranked by a reward → a file of pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fledge.alignment.config import DPOSettings
from fledge.alignment.data import load_data
from fledge.alignment.make_preferences import CHOSEN_REWARD, REJECTED_REWARD, make_preferences, write_preferences
from fledge.alignment.open_method import find_reward, load_reference
from fledge.alignment.rewards import read_reward_files, rule_of
from fledge.core import device as machines
from fledge.core.config import Layer
from fledge.core.errors import UserError
from fledge.recipes.align import align_settings, chat_format
from fledge.settings.complete import complete_alignment
from fledge.training.init_from import find_initial_weights


@dataclass(frozen=True)
class Preferences:
    path: str
    pairs: int
    prompts: int
    chosen_reward: float  # means
    rejected_reward: float


def make_preference_file(
    init: str,
    data: Sequence[str],
    path: Path,
    overrides: Layer | None = None,
    runs: Path = Path("runs"),
    *,
    reward: Sequence[str] = (),
    samples: int = 4,
) -> Preferences:
    """Write JSONL for `fledge align reward|dpo --data FILE`. Held-out examples of the data are not used.

    reward: as for `align`; without one, the rule of the task. overrides: [rollout], align.examples, train.seed.
    """
    if path.exists():
        raise UserError(f"'{path}' exists", "choose another name, or delete it")
    initial = find_initial_weights(init, runs)
    tokenizer, template = chat_format(initial.run)
    settings = align_settings("dpo", initial, data, reward, overrides or {}, runs)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype, threads=settings.train.threads)
    complete = complete_alignment(settings, machine)
    assert isinstance(complete, DPOSettings)
    examples = load_data(complete.align, complete.train.seed)
    files = read_reward_files(settings.align.reward)
    found = find_reward(complete, machine, tokenizer, runs, files, examples)
    pairs = make_preferences(
        load_reference(initial, complete, tokenizer, machine),
        examples.train,
        found or rule_of(examples.train),
        tokenizer,
        template,
        machine,
        complete.rollout,
        samples=samples,
        seed=complete.train.seed,
    )
    write_preferences(pairs, path)
    means = [sum(float(pair.fields[name]) for pair in pairs) / len(pairs) for name in (CHOSEN_REWARD, REJECTED_REWARD)]
    return Preferences(str(path), len(pairs), len(examples.train), *means)
