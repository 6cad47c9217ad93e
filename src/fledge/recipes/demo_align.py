"""Alignment demo, offline, in about 13 minutes on two cores, with a line of explanation at each stage.

pretraining → SFT → preferences by a rule → reward model → DPO, PPO and GRPO → answers before and after, curves

Each stage is an ordinary run. Where one exists already, it is continued or left as it is: the same command goes on
after an interruption.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fledge.alignment.tasks.registry import find_task
from fledge.core import device as machines
from fledge.core.config import Layer
from fledge.core.device import Machine
from fledge.core.errors import Interrupted, UserError
from fledge.core.formatting import counted, format_duration
from fledge.core.progress import notice
from fledge.datasets.cache import ensure_dataset
from fledge.datasets.shards import Dataset
from fledge.inference.request import Request, Sampling
from fledge.model.flops import parameter_count
from fledge.recipes.align import align
from fledge.recipes.demo import explain
from fledge.recipes.export import export
from fledge.recipes.load_engine import load_engine
from fledge.recipes.preferences import make_preference_file
from fledge.recipes.request import TrainRequest
from fledge.recipes.resume import resume
from fledge.recipes.train import train_request
from fledge.runs.run_folder import CONFIG, RunFolder, find_run
from fledge.runs.status import last_saved_step
from fledge.settings.complete import complete_settings
from fledge.settings.pipeline import resolve
from fledge.tracking.plots import draw_curves
from fledge.tracking.sinks.csv import STEP, read_metrics
from fledge.training.config import Settings
from fledge.training.setup import NextToken, build_training

MINUTES = 13.0
PRETRAINING = 0.35  # share of the minutes
SLOWDOWN = 1.15  # machines slow down as they warm up
MEASURED_STEPS = 6
STEP_SECONDS = 0.3  # of a pretraining step where the steps below take the rest of MINUTES
MIN_SCALE, MAX_SCALE = 0.02, 1.0  # of the steps below
TASK = "style"
BASE, SFT, REWARD, DPO, PPO, GRPO = (f"demo-{name}" for name in ("base", "sft", "reward", "dpo", "ppo", "grpo"))
SHOWN, MEASURED, ANSWER_TOKENS = 3, 100, 40  # questions that are shown, that are measured; tokens of an answer
LLAMA: Layer = {  # RMSNorm, SwiGLU, rotary positions: transformers and llama.cpp know this architecture
    "model": {"n_layer": 4, "n_head": 4, "n_embd": 192, "context": 128, "qk_norm": False},
    "optim": {"optimizer": "muon", "muon_lr": 0.02, "lr": 3e-3, "warmup_steps": 20},
    "train": {"batch": 32, "compile": False},
    "track": {"sample_tokens": 100},
}
ROLLOUT = {"max_tokens": ANSWER_TOKENS, "slots": 64}


@dataclass(frozen=True)
class Stage:
    run: str
    method: str
    text: Sequence[str]  # what it does, told before it starts
    steps: int
    settings: Layer
    data: str = TASK  # PAIRS: the file of preferences
    reward: tuple[str, ...] = ()


PAIRS = "preferences.jsonl"  # in the folder of the SFT run
SFT_STAGE = Stage(
    SFT,
    "sft",
    ("learn to answer, from questions with good, plain and rude answers. Only the", "tokens of the answers count"),
    300,
    {"train": {"batch": 16}, "optim": {"lr": 1e-3}, "align": {"examples": 6000}},
)
STAGES = (
    Stage(
        REWARD,
        "reward",
        ("learn to tell the better answer from the worse one: a model with one number as output",),
        120,
        {"optim": {"lr": 3e-4}},
        PAIRS,
    ),
    Stage(
        DPO,
        "dpo",
        ("make the better answers more likely, directly from the pairs; stay near the SFT model",),
        80,
        {"optim": {"lr": 1e-4}, "dpo": {"beta": 0.3}, "rollout": ROLLOUT, "align": {"val": 100}},
        PAIRS,
        (TASK,),
    ),
    Stage(
        PPO,
        "ppo",
        (
            "answer questions, let the reward model judge the answers, and move towards the better",
            "ones in small steps",
        ),
        80,
        {
            "train": {"batch": 64},
            "optim": {"lr": 3e-4},
            "rollout": {**ROLLOUT, "prompts": 64},
            "ppo": {"epochs": 2, "kl_coef": 0.02},
            "align": {"val": 100},
        },
        reward=(REWARD,),
    ),
    Stage(
        GRPO,
        "grpo",
        ("answer each question eight times, let the rule judge, and prefer what is better than", "the others"),
        64,
        {
            "train": {"batch": 64},
            "optim": {"lr": 3e-4},
            "rollout": {**ROLLOUT, "prompts": 16},
            "grpo": {"group": 8, "kl_coef": 0.02},
            "align": {"val": 100},
        },
    ),
)


@dataclass(frozen=True)
class StageResult:
    run: str
    seconds: float  # 0: it was finished before
    reward: float | None  # mean of the rule over held-out questions; None: the run does not answer


@dataclass(frozen=True)
class Answers:
    question: str
    answers: dict[str, str]  # run → its answer


@dataclass(frozen=True)
class AlignDemoResult:
    stages: list[StageResult]
    answers: list[Answers]
    picture: Path
    exported: list[Path]
    seconds: float


@dataclass
class Demo:
    runs: Path
    scale: float = 1.0  # of the steps of alignment stages
    seconds: dict[str, float] = field(default_factory=dict)

    def stage(self, name: str, lines: Sequence[str], start: Callable[[], object]) -> None:
        """Run a stage, continue it, or do nothing where it is finished."""
        for number, line in enumerate(lines):
            explain("" if number else f"{len(self.seconds) + 1}. {name.removeprefix('demo-')}", line)
        begun, run = time.perf_counter(), RunFolder(self.runs / name)
        if not (run.folder / CONFIG).exists():
            start()
        elif last_saved_step(run) < run.last_step():
            resume(name, runs=self.runs)
        else:
            explain("", f"'{name}' is trained already; for a new one: fledge runs delete {name}")
            begun = time.perf_counter()
        self.seconds[name] = time.perf_counter() - begun

    def align(self, stage: Stage) -> None:
        steps = max(4, round(self.scale * stage.steps))
        train = {"steps": steps, "sample_every": -(-steps // 2), "eval_every": -(-steps // 8), "log_every": 4}
        settings = {**stage.settings, "train": {**stage.settings.get("train", {}), **train}}
        data = str(self.runs / SFT / PAIRS) if stage.data == PAIRS else stage.data
        init = BASE if stage.method == "sft" else SFT
        work = lambda: align(stage.method, init, [data], settings, self.runs, reward=stage.reward, name=stage.run)  # noqa: E731
        self.stage(stage.run, stage.text, work)


def demo_align(minutes: float = MINUTES, runs: Path = Path("runs"), out: Path | None = None) -> AlignDemoResult:
    """Train a model from random weights to aligned answers in `minutes`. out: export it there, to two formats."""
    if not 0.5 <= minutes < float("inf"):
        raise UserError(f"--minutes cannot be {minutes}", "a demo takes half a minute or more")
    if out is not None and out.exists():
        raise UserError(f"'{out}' already exists", "choose another --export, or remove it first")
    begun, demo = time.perf_counter(), Demo(runs)
    try:
        pretrain(demo, 60 * minutes)
        demo.scale *= minutes / MINUTES
        demo.align(SFT_STAGE)
        make_pairs(demo)
        for stage in STAGES:
            demo.align(stage)
    except Interrupted as stopped:
        raise Interrupted(
            stopped.code - 128, f"fledge demo --align{'' if minutes == MINUTES else f' --minutes {minutes:g}'}"
        ) from None
    explain("answers", f"of each model to {MEASURED} questions that none of them was trained on")
    stages, answers = compare(demo)
    picture = draw_curves(curves(runs), runs / GRPO / "plots" / "demo.png")
    exported = export_model(runs, out) if out else []
    return AlignDemoResult(stages, answers, picture, exported, time.perf_counter() - begun)


def pretrain(demo: Demo, seconds: float) -> None:
    """As many steps as fit into its share of the time; the speed of this machine also scales the stages after it."""
    settings, machine = resolve("demo", LLAMA), machines.choose_machine()
    dataset = ensure_dataset(
        settings.data, settings.tokenizer, check=lambda made: complete_settings(settings, made, machine)
    )
    complete = complete_settings(settings, dataset, machine)
    step = SLOWDOWN * seconds_per_step(complete, machine, dataset)
    steps = max(10, int(PRETRAINING * seconds / step))
    demo.scale = min(MAX_SCALE, max(MIN_SCALE, STEP_SECONDS / step))
    train = replace(settings.train, steps=steps, sample_every=-(-steps // 2), eval_every=-(-steps // 5))
    request = TrainRequest(replace(settings, train=train), BASE)
    lines = (
        f"a Llama of {parameter_count(complete.model):,} random parameters learns to write like Python's library:",
        f"{steps:,} steps in {format_duration(PRETRAINING * seconds)}. It will not answer questions",
    )
    demo.stage(BASE, lines, lambda: train_request(request, demo.runs, name=BASE))


def seconds_per_step(settings: Settings, machine: Machine, dataset: Dataset) -> float:
    """The fastest of a few steps of a model that is then discarded."""
    step = build_training(settings, machine, NextToken(settings, machine, dataset.split("train")))
    return min(step(number).seconds for number in range(MEASURED_STEPS))


def make_pairs(demo: Demo) -> None:
    """Preferences by a rule: the best and the worst of four answers to each question."""
    path, begun = demo.runs / SFT / PAIRS, time.perf_counter()
    explain(
        f"{len(demo.seconds) + 1}. pairs",
        "the SFT model answers each question four times; a rule (short, polite, cheerful, about",
    )
    explain("", "the question: a quarter each) finds the best and the worst answer")
    if not path.exists():
        overrides = {"rollout": {**ROLLOUT, "prompts": 64}, "align": {"examples": max(60, round(600 * demo.scale))}}
        made = make_preference_file(SFT, [TASK], path, overrides, demo.runs)
        explain(
            "",
            f"{counted(made.pairs, 'pair')}, rewards {made.chosen_reward:.2f} and {made.rejected_reward:.2f}",
        )
    demo.seconds[PAIRS] = time.perf_counter() - begun


def compare(demo: Demo) -> tuple[list[StageResult], list[Answers]]:
    """Each model answers the same held-out questions, greedily, and the rule rewards them."""
    task = find_task(TASK)
    examples = task.examples(seed=0, count=MEASURED, split="val")
    questions = [example.messages[-1]["content"] for example in examples]
    rewards, texts = dict[str, float](), dict[str, list[str]]()
    for run in (BASE, SFT, DPO, PPO, GRPO):
        texts[run] = answer(run, questions, demo.runs)
        asked = zip(questions, texts[run], examples, strict=True)
        rewards[run] = sum(task.reward(question, text, each.target) for question, text, each in asked) / len(questions)
    stages = [StageResult(name, seconds, rewards.get(name)) for name, seconds in demo.seconds.items()]
    shown = [Answers(question, {run: texts[run][n] for run in texts}) for n, question in enumerate(questions[:SHOWN])]
    return stages, shown


def answer(run: str, questions: Sequence[str], runs: Path) -> list[str]:
    """The most likely answer to each question. A model without a chat template continues the question."""
    loaded = load_engine(run, runs, slots=32)
    template = loaded.run.chat_template()
    generations = []
    for question in questions:
        ids = (
            template.encode([{"role": "user", "content": question}]) if template else loaded.tokenizer.encode(question)
        )
        stop = template.stop_tokens if template else ()
        request = Request(tuple(int(i) for i in ids), ANSWER_TOKENS, Sampling(temperature=0), stop_tokens=stop)
        generations.append(loaded.engine.submit(request))
    while loaded.engine.step():
        pass
    return [generation.text.strip() for generation in generations]


def curves(runs: Path) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Panels of the figure: title → label → steps and values."""
    wanted: Mapping[str, Mapping[str, Sequence[str]]] = {
        "reward by the rule, held-out questions": {DPO: ["val/reward"], GRPO: ["val/reward"]},
        "reward by the reward model": {PPO: ["val/reward"]},
        "KL divergence from the SFT model (nats per answer)": {DPO: ["val/kl"], PPO: ["ppo/kl"], GRPO: ["grpo/kl"]},
    }
    panels: dict[str, dict[str, Any]] = {}
    for title, lines in wanted.items():
        panels[title] = {}
        for run, names in lines.items():
            table = read_metrics(runs / run)
            for name in names:
                points = [(s, v) for s, v in zip(table[STEP], table[name], strict=True) if v == v]
                panels[title][run] = tuple(map(list, zip(*points, strict=True))) if points else ([], [])
    return panels


def export_model(runs: Path, out: Path) -> list[Path]:
    """The GRPO model for transformers and for llama.cpp."""
    assert find_run(GRPO, runs)
    found = [export(GRPO, "hf", str(out / "hf"), runs=runs), export(GRPO, "gguf", str(out / "gguf"), runs=runs)]
    for each in found:
        notice(f"exported, and read back by {each.parity.checked_with}: {each.folder}")
    return [each.folder for each in found]
