"""fledge prepare: text → a dataset of token shards.

sources → documents → tokenizer → splits → ids → shards → dataset.json
"""

import argparse
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fledge.base.errors import UserError
from fledge.base.files import atomic_folder, cache_dir, human_bytes, user_path
from fledge.base.settings import build, read_overrides
from fledge.batches.config import DataConfig
from fledge.recipes.screen import progress, report, say
from fledge.recipes.tokenizers import make_tokenizer, named_tokenizer
from fledge.text import sources
from fledge.text.formats import Document
from fledge.tokens import shards
from fledge.tokens import tokenizer as tokenizers
from fledge.tokens.config import TokenizerConfig
from fledge.tokens.foreign import open_any
from fledge.tokens.shards import Dataset
from fledge.tokens.tokenizer import Tokenizer

MANY_DOCUMENTS = 100  # from here on a split by whole documents is fair to every split


@dataclass(frozen=True)
class PrepareSettings:
    data: DataConfig
    tokenizer: TokenizerConfig


def run(args: argparse.Namespace) -> None:
    settings = build(PrepareSettings, read_overrides(args.overrides))
    tokenizer = replace(settings.tokenizer, file=args.tokenizer or settings.tokenizer.file)
    dataset = prepare(args.sources, tokenizer, settings.data, args.out)
    report(summary(dataset), as_json=args.json, text=in_words(dataset))


Check = Callable[[Dataset], object]


def ensure(data: DataConfig, tokenizer: TokenizerConfig, check: Check = lambda _: None) -> Dataset:
    """The dataset that a run asks for: opened where it is there, prepared first where it is not."""
    if data.path is not None:
        return open_any(user_path(data.path), lambda: named_tokenizer(tokenizer))
    content = tokenizers.fingerprint(tokenizers.load(user_path(tokenizer.file))) if tokenizer.file else ""
    recipe = [sources.fingerprint([data.corpus]), asdict(tokenizer), content, data.split_by, data.val, data.test]
    address = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    folder = cache_dir() / "datasets" / f"{Path(data.corpus).stem}-{address}"
    if folder.exists():
        try:
            return shards.open_dataset(folder)
        except UserError as error:  # ours to mend: it is only a cache
            say(f"warning: {error.message}; it is prepared anew")
            shutil.rmtree(folder)
    say(f"preparing '{data.corpus}' first: text → tokens, kept in {folder}")
    try:
        return prepare([data.corpus], tokenizer, data, folder, check)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return shards.open_dataset(folder)  # another process was faster


def prepare(
    source: Sequence[str], config: TokenizerConfig, data: DataConfig, out: Path, check: Check = lambda _: None
) -> Dataset:
    """Read, split, encode, write. `out` appears when all of it is done, and only if `check` does not refuse it."""
    if out.exists():
        raise UserError(f"'{out}' exists already", "choose another --out, or remove it first")
    documents = sources.read_all(source)
    tokenizer = make_tokenizer(documents, config)
    with atomic_folder(out) as folder:
        written, sizes = {}, {}
        for name, texts in divide(documents, data).items():
            ids = (encode_document(tokenizer, text) for text in progress(texts, f"encoding {name}"))
            written[name] = shards.write_split(folder, name, ids, tokenizer.vocab_size)
            sizes[name] = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        tokenizers.save(tokenizer, folder / "tokenizer.json")
        shards.write_manifest(folder, tokenizer, written, sizes, sources.fingerprint(source))
        check(shards.open_dataset(folder))
    return shards.open_dataset(out)


def encode_document(tokenizer: Tokenizer, text: str) -> tokenizers.Ids:
    ids = tokenizer.encode(text)
    end = tokenizer.end_of_text
    return ids if end is None else np.append(ids, np.uint32(end))


def divide(documents: Sequence[Document], data: DataConfig) -> dict[str, list[str]]:
    """Text for training, validation and the final test, by whole documents or by the end of each."""
    by_document = data.split_by == "document" or (data.split_by == "auto" and len(documents) >= MANY_DOCUMENTS)
    parts: dict[str, list[str]] = {name: [] for name in shards.SPLITS}
    for document in documents:
        pieces = {side(document.text, data): document.text} if by_document else tail_split(document.text, data)
        for name, text in pieces.items():
            if text:
                parts[name].append(text)
    return parts


def side(text: str, data: DataConfig) -> str:
    """By a hash of the text itself: the same document lands on the same side in every dataset."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if place < data.test else "val" if place < data.test + data.val else "train"


def tail_split(text: str, data: DataConfig) -> dict[str, str]:
    first, second = int(len(text) * (1 - data.val - data.test)), int(len(text) * (1 - data.test))
    return {"train": text[:first], "val": text[first:second], "test": text[second:]}


def summary(dataset: Dataset) -> dict[str, Any]:
    splits = {
        name: {key: split[key] for key in ("tokens", "documents", "bytes")}
        for name, split in dataset.manifest["splits"].items()
    }
    return {"folder": str(dataset.folder), "vocab_size": dataset.tokenizer.vocab_size, "splits": splits}


def in_words(dataset: Dataset) -> str:
    lines = [f"{dataset.folder}: {dataset.tokenizer.kind} tokenizer with {dataset.tokenizer.vocab_size:,} tokens"]
    for name, split in summary(dataset)["splits"].items():
        if split["tokens"]:
            size = human_bytes(split["bytes"])
            lines.append(f"  {name:<6}{split['tokens']:>14,} tokens  {split['documents']:>8,} documents  {size:>10}")
    return "\n".join([*lines, f"next: fledge train demo --data.path {dataset.folder}"])
