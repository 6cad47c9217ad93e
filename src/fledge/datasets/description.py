"""A dataset in a line for people, from its dataset.json: what was read, skipped, guessed and held out."""

from typing import Any

from fledge.core.files import human_bytes
from fledge.core.formatting import counted
from fledge.datasets.shards import Dataset
from fledge.text.summary import FileSummary


def describe_text(dataset: Dataset) -> str:
    """read 214 files (180 md, 34 txt), 10 MB; skipped 7: 7 pdf; held out 10 %: 1.0 MB in 21 documents"""
    manifest = dataset.manifest
    if "files" not in manifest:  # of another program, which does not say
        return ", ".join(f"{len(dataset.split(name)):,} tokens in {name}" for name in dataset.available_splits)
    size = human_bytes(sum(split["bytes"] for split in manifest["splits"].values()))
    return f"{FileSummary(**manifest['files']).line(f', {size}')}; {describe_held_out(manifest)}"


def describe_damage(dataset: Dataset) -> str:
    """A warning, if bytes of the text were invalid."""
    replaced = dataset.manifest.get("read", {}).get("replaced", 0)
    what = f"warning: {counted(replaced, 'invalid byte')} of the text became '\ufffd'"
    return f"{what}; if you know the encoding: --data.encoding cp1251" if replaced else ""


def describe_held_out(manifest: dict[str, Any]) -> str:
    """held out 10 %: 112 KB in 3 documents"""
    splits, by_tail = manifest["splits"], manifest["data"]["split_by"] == "tail"
    total, words = sum(split["bytes"] for split in splits.values()), []
    for name, what in (("val", "held out"), ("test", "for the final test")):
        if splits[name]["tokens"]:
            size, documents = splits[name]["bytes"], splits[name]["documents"]
            end = "the end of the document" if documents == 1 else f"the ends of {documents:,} documents"
            where = f", {end}" if by_tail else f" in {counted(documents, 'document')}"
            words.append(f"{what} {100 * size / total:.2g} %: {human_bytes(size)}{where}")
    return "; ".join(words) or "nothing held out"
