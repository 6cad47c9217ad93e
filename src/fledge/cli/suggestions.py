"""What to write instead of a word that fledge does not know: the words of nanoGPT, nanochat, transformers and litgpt.

    fledge train demo --learning_rate 1e-3     →  write --optim.lr 1e-3
    fledge train demo --lr 1e-3                →  the same: `lr` is the name of one setting only
    fledge finetune                            →  write: fledge train TEXT --init RUN

Only near spellings are suggested beyond these tables.
"""

import difflib
from collections.abc import Iterable, Sequence

from fledge.core.errors import SIMILAR, UserError, nearest
from fledge.settings.foreign_names import FLAGS, SETTINGS, VALUES, look_up, normalized, setting_called, setting_names

# Options in other programs → what to write here: an option, where the command has it; else a sentence.
OPTIONS = {
    "--run NAME": (
        "out_dir",
        "output_dir",
        "name",
        "run_name",
        "exp_name",
        "experiment",
        "model_tag",
        "wandb_run_name",
    ),
    "--init RUN": ("init_from", "from_pretrained", "pretrained", "pretrained_model", "initial_checkpoint_dir"),
    "--minutes N": ("time", "max_time", "budget", "hours"),
    "--temperature T": ("temp",),
    "--tokens N": ("max_new_tokens", "max_tokens", "n_tokens", "num_tokens", "length", "max_length", "n_predict"),
    "--prompt TEXT": ("start", "text", "input"),
    "--n N": ("num_samples", "num_return_sequences", "n_samples"),
    "--prompts FILE": ("prompt_file", "prompts_file", "input_file"),
    "--stop TEXT": ("stop_string", "stop_strings", "stop_sequences", "reverse_prompt"),
    "--repetition-penalty X": ("repeat_penalty",),
    "--greedy": ("no_sample", "deterministic"),
    "--to FORMAT": ("format",),
    "--out PATH": ("output", "output_dir", "out_dir", "o"),
    "--workers N": ("num_workers", "num_proc", "jobs", "n_jobs", "nproc"),
    "--trials N": ("n_trials", "num_trials"),
}
TRAINING_ADVICE = {
    "continue a run with: fledge resume RUN": ("resume", "resume_from", "resume_from_checkpoint", "continue", "load"),
    "give the text as a word: fledge train TEXT; a prepared dataset: --data.path DIR": (
        *("data", "dataset", "dataset_name", "data_dir", "data_path", "text", "input", "input_file"),
        *("train_file", "train_data"),
    ),
    "give the settings file as a word: fledge train FILE.toml": (
        "config",
        "config_file",
        "settings",
        "preset",
        "model",
    ),
}
MODEL_ADVICE: dict[str, tuple[str, ...]] = {
    "give the run as a word, such as mine or mine@1000": (
        *("checkpoint", "checkpoint_dir", "ckpt", "model", "model_path", "model_tag", "run", "out_dir"),
    ),
}
NOT_BUILT = "not built yet: "
COMMANDS = {
    "fledge studio": ("web", "ui", "gui", "dashboard", "webui", "board"),
    "fledge watch RUN": ("monitor", "tail", "follow", "live", "top", "logs", "log"),
    "fledge align sft --init RUN --data FILE": ("sft", "instruct", "post_train"),
    "fledge align dpo --init RUN --data FILE": ("dpo", "ipo", "preferences"),
    "fledge align ppo --init RUN --data FILE --reward RUN": ("ppo", "rlhf", "rl"),
    "fledge align grpo --init RUN --data TASK": ("grpo", "rft"),
    "fledge align reward --init RUN --data FILE": ("reward", "reward_model", "rm_train"),
    "fledge generate RUN": ("sample", "inference", "infer", "predict", "complete", "completions", "gen", "run"),
    "fledge serve RUN": ("server", "api", "openai"),
    "fledge chat RUN": ("talk", "converse", "ask"),
    "fledge train TEXT --init RUN; on conversations: fledge align sft --init RUN --data FILE": (
        "finetune",
        "fine-tune",
        "fine_tune",
        "ft",
        "lora",
    ),
    "fledge train TEXT": ("pretrain", "fit", "learn"),
    "fledge eval RUN": ("evaluate", "evaluation", "test", "validate", "benchmark", "perplexity", "score"),
    "fledge runs": ("list", "ls", "ps", "info", "status", "history", "experiments"),
    "fledge runs delete RUN": ("rm", "remove", "delete", "del"),
    "fledge runs rename RUN NEW": ("mv", "rename", "move"),
    "fledge export RUN --to hf|gguf; or, from another program, fledge import": ("convert", "save", "upload", "push"),
    "fledge prepare TEXT --out DIR": ("tokenize", "preprocess", "encode", "dataset", "process"),
    "fledge train CORPUS, which downloads it first; fledge corpora lists them": ("download", "fetch", "get"),
    "fledge train TEXT, or fledge demo to see everything once": (
        "init",
        "new",
        "start",
        "quickstart",
        "begin",
        "setup",
    ),
    "fledge presets": ("models", "model", "configs", "config", "list-models"),
    "fledge corpora": ("datasets", "texts"),
    "fledge resume RUN": ("continue", "restart", "go"),
    "fledge sweep FILE.toml": ("tune", "search", "hparams", "hyperparameters"),
    "fledge plan TEXT": ("estimate", "forecast", "cost", "profile"),
    "fledge doctor": ("check", "env", "device", "devices", "system", "gpu"),
    "fledge report RUN": ("summary", "summarize", "html", "page", "card"),
    "fledge plot RUN": ("graph", "chart", "figure", "draw", "curves"),
    "fledge import FOLDER --out NAME": ("load", "from-pretrained"),
    "fledge --version": ("version",),
    "fledge --help": ("usage", "commands"),
}


def unknown_command(name: str, known: Iterable[str]) -> UserError:
    hint = near_command(name, known) or "fledge --help lists the commands"
    return UserError(f"unknown command '{name}'", hint)


def near_command(name: str, known: Iterable[str]) -> str:
    if advice := look_up(COMMANDS, name.lower().removeprefix("--")):
        return advice if advice.startswith(NOT_BUILT) else f"write: {advice}"
    return nearest(name, known)


def unknown_option(
    command: str, wrong: str, words: Sequence[str], options: Sequence[str], *, takes_settings: bool
) -> UserError:
    """words: of the command line, `wrong` among them; options: those that the command has."""
    name, _, value = wrong.partition("=")
    following = words[words.index(wrong) + 1 : words.index(wrong) + 2]
    if not value and following and not following[0].startswith("--"):
        value = following[0]
    hint = near_option(name, value, options, takes_settings=takes_settings)
    return UserError(f"unknown argument '{name}'", hint or f"see: fledge {command} --help")


def near_option(word: str, value: str, options: Sequence[str], *, takes_settings: bool) -> str:
    key = normalized(word)
    if same := [option for option in options if normalized(option) == key]:
        return f"write {same[0]}"
    setting = setting_called(key) if takes_settings else ""
    if not setting:
        usable = {advice: keys for advice, keys in OPTIONS.items() if advice.split()[0] in options}
        if option := look_up(usable, key):
            return f"write {option.split()[0]} {value}" if value else f"write {option}"
        if advice := look_up(TRAINING_ADVICE if takes_settings else MODEL_ADVICE, key):
            return advice
        setting = look_up(SETTINGS, key) if takes_settings else ""
    if setting:
        return f"write --{setting} {VALUES.get(key) or value or ('true' if key in FLAGS else 'VALUE')}"
    if (near := nearest(word, options)) or not takes_settings:
        return near
    by_key = {name.partition(".")[2]: name for name in setting_names()}
    close = difflib.get_close_matches(key, by_key, n=1, cutoff=SIMILAR)
    return f"did you mean '--{by_key[close[0]]}'?" if close else ""
