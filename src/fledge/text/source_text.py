"""What a verb reads: some sources, looked at and downloaded, and how their text is to be taken.

Everything here streams. Does not know what the text is read for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fledge.core.errors import UserError
from fledge.text import sources
from fledge.text.formats import Slice, read_slice
from fledge.text.inputs import Chunk, Input, ReadCounts, ReadOptions

STRIDE = 4 << 20  # bytes: a sample looks into the text at least this often


@dataclass(frozen=True)
class SourceText:
    sources: tuple[str, ...]
    inputs: tuple[Input, ...]
    options: ReadOptions

    @property
    def name(self) -> str:
        return ", ".join(f"'{source}'" for source in self.sources)

    @property
    def size(self) -> int:
        """In bytes, as stored, each input as often as it is read; 0 where storage does not tell."""
        return sum(int((each.size or 0) * each.weight) for each in self.inputs)

    def slices(self, target: int) -> list[Slice]:
        return sources.slice_inputs(self.inputs, target)

    def chunks(self, counts: ReadCounts | None = None) -> Iterator[Chunk]:
        """All of it."""
        return sources.read_inputs(self.inputs, self.options, counts)

    def sample(self, limit: int) -> Iterator[Chunk]:
        """About `limit` bytes, spread evenly over the whole; all where it is not more."""
        if self.size <= limit:
            yield from self.chunks()
            return
        pending_hooks = 0.0
        for part in self.slices(STRIDE):
            pending_hooks += part.size * limit / self.size
            if pending_hooks <= 0:  # the last chunk was more than its share: nothing is read here
                continue
            for chunk in sources.sample_chunks(read_slice(part, self.options), part.fraction):
                yield chunk
                pending_hooks -= len(chunk.text.encode())
                if pending_hooks <= 0:
                    break


def open_sources(
    named: Sequence[str], options: ReadOptions | None = None, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> SourceText:
    """Finds and fetches what is named; a text of nothing is refused here, once for everyone."""
    inputs = tuple(each for source in named for each in sources.fetch_inputs(source, include, exclude))
    reading = SourceText(tuple(named), inputs, options or ReadOptions())
    if not any(chunk.text.strip() for chunk in reading.chunks()):
        hint = "give a file or folder that holds some"
        if any(each.weight < 1 for each in inputs):
            hint += "; a share is of whole documents, so of a few it may be none"
        raise UserError(f"there is no text in {reading.name}", hint)
    return reading
