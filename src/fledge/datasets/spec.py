"""Sources and settings of a dataset → a `BuildSpec`, with the key by which a finished dataset is recognized."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.files import user_path
from fledge.datasets.build import BuildSpec
from fledge.datasets.config import DataConfig, building_settings
from fledge.datasets.plan import digest
from fledge.text import sources
from fledge.text.inputs import ReadOptions, is_url
from fledge.text.local_files import is_hidden
from fledge.text.source_text import open_sources
from fledge.text.sources import SourceVersion
from fledge.tokenizers.base import fingerprint, load_tokenizer
from fledge.tokenizers.config import TokenizerConfig
from fledge.tokenizers.create import create_tokenizer


def build_spec(names: Sequence[str], data: DataConfig, tokenizer: TokenizerConfig, out: str) -> BuildSpec:
    """Find the text in the sources and describe the dataset to build. Reads only the beginning of the text."""
    versions = sources.source_versions(names)
    separator = unescape(data.separator)
    options = ReadOptions(data.field, separator, "", data.errors, data.encoding, data.newlines)
    key = dataset_key(versions, data, tokenizer)
    text = open_sources(names, options, split_globs(data.include), split_globs(data.exclude))
    out = out if is_url(out) else str(user_path(out).absolute())
    refuse_out_inside_source(out, names)
    listed = [{"name": each.name, "files": each.files} for each in versions]  # no paths of this machine
    return BuildSpec(text, data, lambda: create_tokenizer(tokenizer, text), key, listed, out)


def dataset_key(versions: Sequence[SourceVersion], data: DataConfig, tokenizer: TokenizerConfig) -> str:
    """The hash of everything that the dataset depends on."""
    found = [(each.place, each.weight, each.files) for each in versions]
    content = fingerprint(load_tokenizer(user_path(tokenizer.file))) if tokenizer.file else ""
    return digest(found, building_settings(data), {**asdict(tokenizer), "file": content})


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
