"""OpenAI's GPT-2 tokenizer, from the two files that OpenAI published.

The files are looked for in the given folders, under their own names or under those of tiktoken's cache, and verified
by their SHA-256. Downloading is left to the `fetch` function of the caller.

OpenAI's p50k_base is the same with 24 more tokens: runs of 2 to 25 spaces, for code.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from fledge.core import fast_json
from fledge.core.errors import UserError
from fledge.core.files import sha256
from fledge.tokenizers import byte_level
from fledge.tokenizers.base import END_OF_TEXT
from fledge.tokenizers.hf import HFTokenizer

Fetch = Callable[[str, str, str], Path]  # name, URL, SHA-256 → the downloaded file
BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
TIKTOKEN_NAMES = {
    "vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
    "encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
}
LONGEST_RUN = 25  # of spaces, in p50k_base


def load_gpt2(folders: Iterable[Path], fetch: Fetch | None = None, *, space_runs: bool = False) -> HFTokenizer:
    """The tokenizer, each file from the first folder that holds it, else from `fetch`. `space_runs`: p50k_base."""
    folders = list(folders)
    return build_gpt2(*(find_gpt2_file(name, folders, fetch) for name in SHA256), space_runs=space_runs)


def find_gpt2_file(name: str, folders: list[Path], fetch: Fetch | None = None) -> Path:
    for path in (folder / known for folder in folders for known in (name, TIKTOKEN_NAMES[name])):
        if path.is_file():
            return verify_gpt2_file(path, name)
    if fetch is None:
        searched = ", ".join(f"'{folder}'" for folder in folders)
        raise UserError(
            f"GPT-2's '{name}' is in none of: {searched or 'no folders'}",
            "give the folder of vocab.bpe and encoder.json, or set TIKTOKEN_CACHE_DIR to tiktoken's cache",
        )
    return verify_gpt2_file(fetch(name, BASE_URL + name, SHA256[name]), name)


def verify_gpt2_file(path: Path, name: str) -> Path:
    if (actual := sha256(path)) != SHA256[name]:
        raise UserError(
            f"'{path}' is not GPT-2's {name} (SHA-256 {actual[:12]}…, expected {SHA256[name][:12]}…)",
            "remove it, or give the folder of the original file",
        )
    return path


def build_gpt2(merges: Path, vocabulary: Path, *, space_runs: bool = False) -> HFTokenizer:
    """One tokenizer from the two files. The first line of the merges is a comment."""
    pairs = [tuple(line.split(" ")) for line in merges.read_text("utf-8").splitlines()[1:]]
    ids = fast_json.loads(vocabulary.read_bytes())
    if space_runs:
        space = byte_level.BYTE_TO_UNICODE[ord(" ")]
        for length in range(2, LONGEST_RUN + 1):  # each run is merged from any two shorter ones
            ids[space * length] = len(ids)
            pairs += [(space * left, space * (length - left)) for left in range(1, length)]
    return HFTokenizer(byte_level.bpe_json(ids, [(a, b) for a, b in pairs], END_OF_TEXT, "gpt2"))
