"""The text of one or more sources, downloaded and inspected, with the options to read it. Always a stream."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fledge.core.errors import UserError
from fledge.text import sources
from fledge.text.formats import is_packed, read_slice, with_encoding
from fledge.text.inputs import Chunk, Input, ReadCounts, ReadOptions, Slice
from fledge.text.kinds import list_kinds
from fledge.text.summary import FileSummary, summarize

COMPRESSION = 3  # assumed ratio of compressed text


@dataclass(frozen=True)
class SourceText:
    sources: tuple[str, ...]
    inputs: tuple[Input, ...]
    options: ReadOptions
    files: FileSummary

    @property
    def to_divide(self) -> "SourceText":
        """What is divided into splits: all but the texts that belong to one split as a whole."""
        return replace(self, inputs=tuple(each for each in self.inputs if not each.split))

    @property
    def name(self) -> str:
        return ", ".join(f"'{source}'" for source in self.sources)

    @property
    def size(self) -> int:
        """Bytes as stored, each input as often as it is read; 0 where the storage does not tell."""
        return sum(int((each.size or 0) * each.weight) for each in self.inputs)

    @property
    def text_size(self) -> float:
        """Estimate of the bytes of text, uncompressed."""
        return self.unpacked(self.size)

    def unpacked(self, stored: int) -> float:
        """Estimate of the bytes of text in `stored` bytes, some of which may be compressed."""
        packed = sum(each.size or 0 for each in self.inputs if is_packed(each))
        share = packed / max(1, sum(each.size or 0 for each in self.inputs))
        return stored * (1 + (COMPRESSION - 1) * share)

    def slices(self, target: int) -> list[Slice]:
        return sources.slice_inputs(self.inputs, target, self.options)

    def chunks(self, counts: ReadCounts | None = None) -> Iterator[Chunk]:
        """The whole text."""
        return sources.read_inputs(self.inputs, self.options, counts)

    def sample(self, limit: int) -> Iterator[Chunk]:
        """About `limit` bytes, some of every slice; the whole text if it is smaller."""
        if self.size <= limit:
            yield from self.chunks()
            return
        allowance = 0.0  # bytes that may still be read up to the current slice
        for part in self.slices(sources.SAMPLED_SLICE):
            allowance += part.size * limit / self.size
            if allowance <= 0:  # the chunk before was longer than its share: skip this slice
                continue
            for chunk in sources.sample_chunks(read_slice(part, self.options), part):
                yield chunk
                allowance -= len(chunk.text.encode())
                if allowance <= 0:
                    break


def open_sources(
    named: Sequence[str],
    options: ReadOptions | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    held_out: Mapping[str, Sequence[str]] | None = None,
    csv: bool = False,
) -> SourceText:
    """Find, download and inspect the sources. One with nothing but white space is refused.

    held_out: split → the sources of its text.  csv: documents become the rows of a table.
    """
    options = options or ReadOptions()
    groups = [("", source, number) for number, source in enumerate(named)]
    groups += [(split, source, 0) for split, names in (held_out or {}).items() for source in names]
    found = [(split, number, sources.find_files(source, include, exclude)) for split, source, number in groups]
    inspected = [
        (each, *with_encoding(replace(chosen, split=split, source=number, csv=csv), options))
        for split, number, each in found
        for chosen in sources.thin_files([fetch() for _, fetch in each.files])
    ]
    inputs = tuple(source for _, source, _ in inspected)
    damaged = {each.relative_name(source.name) for each, source, is_damaged in inspected if is_damaged}
    skipped = {name: kind for *_, each in found for name, kind in each.skipped}
    text = SourceText(tuple(named), inputs, options, summarize(inputs, skipped.values(), damaged))
    refuse_empty(text.to_divide, skipped)
    for split, names in (held_out or {}).items():
        own = tuple(each for each in inputs if each.split == split)
        refuse_empty(replace(text, sources=tuple(names), inputs=own), skipped)
    return text


def refuse_empty(text: SourceText, skipped: Mapping[str, str]) -> None:
    """skipped: files that are not read → their kinds."""
    if any(chunk.text.strip() for chunk in text.chunks()):
        return
    hint = "give a file or folder that contains text"
    if skipped:
        hint += f"; skipped: {list_kinds(Counter(skipped.values()))}"
    if any(each.weight < 1 for each in text.inputs):
        hint += "; a weight below 1 samples whole documents, and may leave none of a few"
    raise UserError(f"there is no text in {text.name}", hint)
