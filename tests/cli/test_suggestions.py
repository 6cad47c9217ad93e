"""The words of other programs lead to the right setting, option or command; everything that is suggested exists."""

import re
import shlex

import pytest

from fledge.cli import suggestions
from fledge.cli.main import SUMMARIES, main, make_parser
from fledge.core.errors import UserError
from fledge.settings import foreign_names
from fledge.settings.pipeline import resolve

ADVICE = [
    ("train demo --lr 1e-3", "write --optim.lr 1e-3"),
    ("train demo --learning_rate=1e-3", "write --optim.lr 1e-3"),
    ("train demo --learning-rate 1e-3", "write --optim.lr 1e-3"),
    ("train --steps 5 demo", "write --train.steps 5"),
    ("train demo --max_iters 500", "write --train.steps 500"),
    ("train demo --epochs 3", "write --train.epochs 3"),
    ("train demo --batch-size 8", "write --train.batch 8"),
    ("train demo --per_device_train_batch_size 8", "write --train.micro_batch 8"),
    ("train demo --gradient_accumulation_steps 8", "write --train.micro_batch VALUE"),
    ("train demo --block_size 64", "write --model.context 64"),
    ("train demo --depth 4", "write --model.n_layer 4"),
    ("train demo --n_layer 4", "write --model.n_layer 4"),
    ("train demo --dropout 0.1", "write --model.dropout 0.1"),
    ("train demo --weight_decay 0.1", "write --optim.weight_decay 0.1"),
    ("train demo --warmup_iters 10", "write --optim.warmup_steps 10"),
    ("train demo --lr_decay_iters 500", "write --optim.decay_steps 500"),
    ("train demo --early_stopping_patience 3", "write --train.patience 3"),
    ("train demo --seed 7", "write --train.seed 7"),
    ("train demo --dtype bfloat16", "write --train.dtype bfloat16"),
    ("train demo --bf16", "write --train.dtype bfloat16"),
    ("train demo --compile", "write --train.compile true"),
    ("train demo --device cpu", "write --train.device cpu"),
    ("train demo --eval_interval 50", "write --train.eval_every 50"),
    ("train demo --vocab-size 512", "write --tokenizer.vocab_size 512"),
    ("train demo --wandb_log=True", "write --track.loggers wandb"),
    ("train demo --out_dir out", "write --run out"),
    ("train demo --init_from gpt2", "write --init gpt2"),
    ("train demo --dataset shakespeare", "give the text as a word: fledge train TEXT"),
    ("train --data input.txt", "give the text as a word: fledge train TEXT"),
    ("train demo --resume", "continue a run with: fledge resume RUN"),
    ("train demo --train.batch_size 8", "did you mean 'train.batch'?"),
    ("train demo --optim.learning_rate 8", "did you mean 'optim.lr'?"),
    ("train demo --seeed 7", "did you mean '--train.seed'?"),
    ("train demo --minute 7", "did you mean '--minutes'?"),
    ("train demo --frobnicate", "see: fledge train --help"),
    ("plan demo --budget 3m", "write --minutes 3m"),
    ("generate mine --temp 0.5", "write --temperature 0.5"),
    ("generate --max_new_tokens 50 mine", "write --tokens 50"),
    ("generate --top_k 4", "write --top-k"),
    ("generate --num_samples 4", "write --n 4"),
    ("generate --lr 4", "see: fledge generate --help"),
    ("eval --checkpoint mine", "give the run as a word"),
    ("prepare notes --output data", "write --out data"),
    ("talk", "write: fledge chat RUN"),
    ("server", "write: fledge serve RUN"),
    ("sample", "write: fledge generate RUN"),
    ("finetune", "write: fledge train TEXT --init RUN"),
    ("pretrain", "write: fledge train TEXT"),
    ("evaluate", "write: fledge eval RUN"),
    ("ls", "write: fledge runs"),
    ("rm mine", "write: fledge runs delete RUN"),
    ("convert", "write: fledge export RUN"),
    ("tokenize", "write: fledge prepare TEXT --out DIR"),
    ("download", "write: fledge train CORPUS"),
    ("trian", "did you mean 'train'?"),
    ("frobnicate", "fledge --help lists the commands"),
]


@pytest.mark.parametrize(("line", "hint"), ADVICE, ids=[line for line, _ in ADVICE])
def test_words_of_other_programs(capsys: pytest.CaptureFixture[str], line: str, hint: str) -> None:
    assert main(shlex.split(line)) == 2
    error, advice = capsys.readouterr().err.splitlines()
    assert error.startswith("error: unknown ")
    assert advice.startswith(f"hint: {hint}")


def test_every_setting_that_is_suggested_exists() -> None:
    names = [*foreign_names.setting_names(), "model.size"]
    assert set(foreign_names.SETTINGS) <= set(names)
    synonyms = [key for keys in foreign_names.SETTINGS.values() for key in keys]
    assert not list(filter(foreign_names.setting_called, synonyms))
    assert len(synonyms) == len(set(synonyms))


def test_every_value_that_is_suggested_is_accepted() -> None:
    for key, value in foreign_names.VALUES.items():
        setting = foreign_names.look_up(foreign_names.SETTINGS, key)
        if value != "VALUE":
            section, name = setting.split(".")
            settings = resolve("demo", {section: {name: value.strip("'")}})
            assert getattr(getattr(settings, section), name) is not None


def test_every_command_that_is_suggested_exists() -> None:
    advice = " ".join([*suggestions.COMMANDS, *suggestions.TRAINING_ADVICE, *suggestions.MODEL_ADVICE])
    assert set(re.findall(r"fledge (\w+)", advice)) <= set(SUMMARIES)
    known = {word for words in suggestions.COMMANDS.values() for word in words}
    assert not known & set(SUMMARIES)


def test_every_option_that_is_suggested_exists() -> None:
    options = {
        option for name in SUMMARIES for action in make_parser(name)._actions for option in action.option_strings
    }
    assert {advice.split()[0] for advice in suggestions.OPTIONS} <= options


def test_only_near_spellings_are_suggested() -> None:
    commands = [*SUMMARIES]
    with pytest.raises(UserError, match="unknown command 'zip'") as caught:
        raise suggestions.unknown_command("zip", commands)
    assert "did you mean" not in caught.value.hint
