"""Three small tasks in lm-evaluation-harness's own format, one of each kind, which need no network.

    folder = write_tasks(tmp_path)      # YAML and JSONL
    TASKS                               # their names, for `tasks=` or `--tasks`
    offline(monkeypatch)                # before lm_eval is imported

    tiny_choice        multiple_choice: acc, acc_norm
    tiny_perplexity    loglikelihood_rolling: word_perplexity, byte_perplexity, bits_per_byte
    tiny_answer        generate_until, greedy, up to a line break or a full stop: exact_match

The texts use the words of `tiny.WORDS`. Some are longer than a small context.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tiny import WORDS

CHOICE, PERPLEXITY, ANSWER = TASKS = ("tiny_choice", "tiny_perplexity", "tiny_answer")
MAX_TOKENS = 8  # that tiny_answer generates
# What is counted must be equal between two ways to run a task; what is measured may differ by rounding.
COUNTED = {CHOICE: ("acc,none", "acc_norm,none"), ANSWER: ("exact_match,none",)}
MEASURED = {PERPLEXITY: ("bits_per_byte,none", "byte_perplexity,none", "word_perplexity,none")}


def offline(patch: pytest.MonkeyPatch) -> None:
    """Nothing may be downloaded; what a library asks for anyway fails at once."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        patch.setenv(name, "1")


def phrase(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=words))


def choice_line(chance: random.Random) -> dict[str, Any]:
    choices = [phrase(chance, chance.randint(1, 4)) for _ in range(3)]
    return {"query": phrase(chance, chance.randint(2, 9)), "choices": choices, "gold": chance.randrange(3)}


def text_line(chance: random.Random) -> dict[str, Any]:
    return {"text": "\n".join(phrase(chance, 9) + "." for _ in range(chance.randint(1, 5)))}


def answer_line(chance: random.Random) -> dict[str, Any]:
    return {"question": phrase(chance, chance.randint(1, 6)), "answer": chance.choice(WORDS)}


CONFIGS: dict[str, tuple[Any, str]] = {
    CHOICE: (
        choice_line,
        """
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    ),
    PERPLEXITY: (
        text_line,
        """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
    ),
    ANSWER: (
        answer_line,
        f"""
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n", "."]
  do_sample: false
  max_gen_toks: {MAX_TOKENS}
filter_list:
  - name: none
    filter:
      - {{function: remove_whitespace}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
""",
    ),
}


def write_tasks(folder: Path, items: int = 24, answers: list[tuple[str, str]] | None = None) -> Path:
    """Write the three tasks into `folder` / "tasks". `answers`: other (question, answer) pairs for tiny_answer."""
    folder = folder / "tasks"
    folder.mkdir(parents=True)
    for number, (name, (make_line, config)) in enumerate(CONFIGS.items()):
        chance = random.Random(number)
        lines = [make_line(chance) for _ in range(items)]
        if name == ANSWER and answers is not None:
            lines = [{"question": question, "answer": answer} for question, answer in answers]
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        dataset = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {json.dumps(dataset)}\ntest_split: test"
        (folder / f"{name}.yaml").write_text(head + config + "metadata: {version: 1.0}\n")
    return folder
