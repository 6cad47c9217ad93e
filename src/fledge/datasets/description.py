"""A dataset in a line for people, from its dataset.json: what was read, skipped, guessed and held out."""

from typing import Any

from fledge.core.files import human_bytes
from fledge.core.formatting import counted
from fledge.datasets.shards import Dataset
from fledge.text.sources import split_weight
from fledge.text.summary import FileSummary


def describe_text(dataset: Dataset) -> str:
    """read 214 files (180 md, 34 txt), 10 MB; skipped 7: 7 pdf; held out 10 %: 1.0 MB in 21 documents"""
    manifest = dataset.manifest
    if "files" not in manifest:  # of another program, which does not say
        return ", ".join(f"{len(dataset.split(name)):,} tokens in {name}" for name in dataset.available_splits)
    size = human_bytes(sum(split["bytes"] for split in manifest["splits"].values()))
    words = [FileSummary(**manifest["files"]).line(f", {size}"), describe_held_out(manifest)]
    if mixture := manifest.get("mixture"):
        words.append(describe_mixture(mixture))
    return "; ".join(words)


def describe_mixture(mixture: list[dict[str, Any]]) -> str:
    """mixed 70 % 'a.txt' (all of its 72,001 tokens), 30 % 'b.txt' (30,857 of its 300,000)"""
    words = []
    for each in mixture:
        amount = f"{each['tokens']:,} of its {each['of']:,}"
        amount = f"all of its {each['of']:,} tokens" if each["tokens"] == each["of"] else amount
        words.append(f"{100 * each['share']:.3g} % '{each['source']}' ({amount})")
    return f"mixed {', '.join(words)}"


def mixture_hint(mixture: list[dict[str, Any]]) -> str:
    """How to get a larger mix; '' where nothing was left out."""
    whole = [each["source"] for each in mixture if each["tokens"] == each["of"]]
    if len(whole) == len(mixture):
        return ""
    source, weight = split_weight(whole[0])
    return (
        f"no text is repeated, so '{whole[0]}' limits the mix; '{source}:{2 * weight:g}' would read it twice as often"
    )


def describe_damage(dataset: Dataset) -> str:
    """A warning, if bytes of the text were invalid."""
    replaced = dataset.manifest.get("read", {}).get("replaced", 0)
    what = f"warning: {counted(replaced, 'invalid byte')} of the text became '\ufffd'"
    return f"{what}; if you know the encoding: --data.encoding cp1251" if replaced else ""


PURPOSE = {"val": "held out", "test": "for the final test"}


def describe_held_out(manifest: dict[str, Any]) -> str:
    """held out 10 %: 112 KB in 3 documents; for the final test: all of 'test.txt', 60 KB in 1 document"""
    splits, by_tail = manifest["splits"], manifest["data"]["split_by"] == "tail"
    own, words = own_texts(manifest), []
    total = sum(split["bytes"] for name, split in splits.items() if name not in own)
    for name, what in PURPOSE.items():
        if not splits[name]["tokens"]:
            continue
        size, documents = human_bytes(splits[name]["bytes"]), splits[name]["documents"]
        count = counted(documents, "document")
        if name in own:
            words.append(f"{what}: all of {', '.join(map(repr, own[name]))}, {size} in {count}")
            continue
        end = "the end of the document" if documents == 1 else f"the ends of {documents:,} documents"
        share = f"{100 * splits[name]['bytes'] / total:.2g} %"
        words.append(f"{what} {share}: {size}{f', {end}' if by_tail else f' in {count}'}")
    return "; ".join(words) or "nothing held out"


def own_texts(manifest: dict[str, Any]) -> dict[str, list[str]]:
    """The sources of each split that has a text of its own."""
    found: dict[str, list[str]] = {}
    for source in manifest.get("sources", []):
        if "split" in source:
            found.setdefault(source["split"], []).append(source["name"])
    return found
