"""Sources and settings of a dataset → a `BuildSpec`, with the key by which a finished dataset is recognized."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from fledge.core.errors import UserError
from fledge.core.files import user_path
from fledge.datasets.build import BuildSpec
from fledge.datasets.config import DataConfig, building_settings, unequal_shares
from fledge.datasets.plan import digest
from fledge.text import sources
from fledge.text.corpora import held_out_corpus
from fledge.text.inputs import ReadOptions, is_url
from fledge.text.local_files import is_hidden
from fledge.text.source_text import open_sources
from fledge.tokenizers.base import fingerprint, load_tokenizer
from fledge.tokenizers.config import TokenizerConfig
from fledge.tokenizers.create import create_tokenizer


def build_spec(names: Sequence[str], data: DataConfig, tokenizer: TokenizerConfig, out: str) -> BuildSpec:
    """Find the text in the sources and describe the dataset to build. Reads only the beginning of the text."""
    if data.shares is not None and len(data.shares) != len(names):
        raise unequal_shares(len(data.shares), len(names))
    held_out = data.held_out_sources()
    key = dataset_key(names, data, tokenizer)
    separator = unescape(data.separator)
    options = ReadOptions(data.field, separator, "", data.errors, data.encoding, data.newlines)
    include, exclude = split_globs(data.include), split_globs(data.exclude)
    text = open_sources(names, options, include, exclude, held_out=held_out, csv=data.csv)
    out = out if is_url(out) else str(user_path(out).absolute())
    refuse_out_inside_source(out, [*names, *chain(*held_out.values())])
    listed = [{"name": each.name, "files": each.files} for each in sources.source_versions(names)]  # no local paths
    for split, own in held_out.items():
        listed += [{"name": each.name, "files": each.files, "split": split} for each in sources.source_versions(own)]
    ends = tokenizer.end_of_text and not data.csv
    return BuildSpec(text, data, lambda: create_tokenizer(tokenizer, text), key, listed, out, ends)


def with_own_splits(names: Sequence[str], data: DataConfig) -> DataConfig:
    """These settings, with the validation and test texts that all of the sources were published with.

    A fraction that is set (data.val, data.test) and a text that is named (val_corpus, test_corpus) win over them.
    """
    bare = [sources.split_weight(source)[0] for source in names]
    named = [] if any(user_path(source).exists() for source in bare) else bare
    found: dict[str, Any] = {}
    for split in ("val", "test"):
        own = [held_out_corpus(name, split) for name in named]
        if own and all(own):
            found[f"{split}_corpus"] = own[0] if len(set(own)) == 1 else tuple(dict.fromkeys(own))
    if data.val is not None or data.val_corpus is not None:
        found.pop("val_corpus", None)
    if data.test or data.test_corpus is not None:
        found.pop("test_corpus", None)
    return replace(data, **found)


def dataset_key(names: Sequence[str], data: DataConfig, tokenizer: TokenizerConfig) -> str:
    """The hash of everything that the dataset depends on."""
    found = [source_facts(names), *([split, source_facts(own)] for split, own in data.held_out_sources().items())]
    content = fingerprint(load_tokenizer(user_path(tokenizer.file))) if tokenizer.file else ""
    return digest(found, building_settings(data), {**asdict(tokenizer), "file": content})


def source_facts(names: Sequence[str]) -> list[tuple[str, float, tuple[str, ...]]]:
    return [(each.place, each.weight, each.files) for each in sources.source_versions(names)]


def refuse_out_inside_source(out: str, names: Sequence[str]) -> None:
    """A dataset inside its own source folder would be read as text the next time."""
    for source in names:
        folder, target = user_path(sources.split_weight(source)[0]).resolve(), Path(out).resolve()
        if folder in target.parents and folder.is_dir() and not is_hidden(target.relative_to(folder).parts):
            raise UserError(f"'{out}' lies inside the text in '{source}'", "choose an --out outside of that folder")


def split_globs(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def unescape(separator: str) -> str:
    r"""Turn the two characters `\n`, `\r`, `\t` of a command line into the one they mean."""
    return separator.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t")
