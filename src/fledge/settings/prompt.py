"""The prompt of the samples: given as track.prompt, or the first words of a held-out document."""

from fledge.core.errors import UserError
from fledge.core.formatting import printable
from fledge.datasets.shards import Dataset

SEARCHED_TOKENS = 2000  # at the start of a split
MAX_CHARS, MIN_LETTERS = 40, 3


def sample_prompt(given: str | None, dataset: Dataset) -> str | None:
    """The prompt that was given, if the tokenizer can encode it; else one from the text. None: the text has no words.

    From the text it is the first line with words of the validation split, cut at a space: "The sun rose over".
    """
    if given is None:
        return prompt_from_text(dataset)
    try:
        dataset.tokenizer.encode(given)
    except UserError as error:
        raise UserError(f"track.prompt {given!r}: {error.message}", "choose another: --track.prompt TEXT") from None
    return given


def prompt_from_text(dataset: Dataset) -> str | None:
    """The first line with words that is held out, or, where nothing is held out, of the training text."""
    held_out = "val" in dataset.available_splits
    split = dataset.split("val" if held_out else "train")
    ids, end = split.read(0, min(len(split), SEARCHED_TOKENS)).tolist(), dataset.tokenizer.end_of_text
    cut = held_out and dataset.manifest.get("data", {}).get("split_by") == "tail"  # the documents begin within a line
    while ids:
        length = ids.index(end) if end in ids else len(ids)
        lines = dataset.tokenizer.decode(ids[:length]).splitlines()
        usable = filter(is_usable, lines[1:] if cut and len(lines) > 1 else lines)
        if line := next(usable, None):
            return cut_at_space(line.strip())
        ids = ids[length + 1 :]
    return None


def is_usable(line: str) -> bool:
    return sum(map(str.isalpha, line)) >= MIN_LETTERS and "�" not in printable(line)


def cut_at_space(line: str) -> str:
    """At most MAX_CHARS characters, whole words where there are spaces."""
    if len(line) <= MAX_CHARS:
        return line
    words = line[: MAX_CHARS + 1].rpartition(" ")[0].rstrip()
    return words or line[:MAX_CHARS]
