"""[data]: which text, how it is read, filtered and split, and how windows are cut from it."""

import codecs
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fledge.core.config import check_counts, setting
from fledge.core.errors import UserError
from fledge.core.formatting import counted

TRAINING_ONLY = ("path", "stride", "order")  # settings that do not change the dataset
TEXTS = ("corpus", "val_corpus", "test_corpus")  # sources; a dataset names them apart from its settings
ASCII = bytes(range(128)).decode("ascii")


@dataclass(frozen=True)
class DataConfig:
    corpus: str | tuple[str, ...] | None = setting(
        None, "a named corpus, file, folder, glob or URL, or a list of them; prepared when first needed; unset: python"
    )
    val_corpus: str | tuple[str, ...] | None = setting(
        None, "the text of the validation split, if it is another; unset: the corpus's own, or a part of the corpus"
    )
    test_corpus: str | tuple[str, ...] | None = setting(None, "the same for the final test")
    shares: tuple[float, ...] | None = setting(
        None, "of each source of corpus in the tokens of the training split: 0.7,0.3; unset: all of each text"
    )
    path: str | None = setting(None, "a dataset made by 'fledge prepare', local or at s3://…; replaces corpus")
    include: str = setting("", "of a folder, glob or Hub repository, read only files like these: '*.md,*.txt'")
    exclude: str = setting("", "leave out files like these")
    field: str = setting("text", "jsonl, parquet, csv and tsv: the field or column that holds the text")
    csv: bool = setting(
        False, "the documents of each file become the rows of a CSV table with the header 'text', as pandas writes it"
    )
    separator: str = setting("", r"plain text: separator of documents, such as '\n\n'; unset: one per file")
    errors: Literal["replace", "strict"] = setting(
        "replace", "invalid bytes: replace by '�' and count; strict: refuse the file, and guess no encoding"
    )
    encoding: str = setting("auto", "encoding of the files, such as cp1251; auto: UTF-8, else a guess that is reported")
    newlines: Literal["lf", "keep"] = setting("lf", "line ends of Windows and old Macs: lf makes them LF, or keep them")
    min_length: int | None = setting(None, "drop documents with fewer characters")
    max_length: int | None = setting(None, "drop documents with more characters")
    charset: str | None = setting(None, "drop documents not written in this character set: ascii, latin-1, koi8-r, …")
    charset_share: float = setting(1.0, "share of a document's characters that must be in the charset")
    dedup: bool = setting(False, "drop documents that are identical to an earlier one")
    split_by: Literal["auto", "document", "tail"] = setting(
        "auto", "by document: whole documents by hash; by tail: the end of each; auto: by document if there are many"
    )
    val: float | None = setting(
        None, "fraction held out for validation; unset: 0.1, but at least 64 KiB (at most a fifth) and at most 4 MB"
    )
    test: float = setting(0.0, "fraction held out for the final test")
    stride: int | None = setting(
        None, "distance between training windows; unset: the context, so windows do not overlap"
    )
    order: Literal["shuffled", "random", "sequential"] = setting(
        "shuffled", "of training windows; random: with replacement, from any token on; sequential: as in the text"
    )

    def held_out_sources(self) -> dict[str, tuple[str, ...]]:
        """Of the splits that have a text of their own."""
        found = {"val": self.val_corpus, "test": self.test_corpus}
        return {split: (text,) if isinstance(text, str) else text for split, text in found.items() if text}

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that `corpus` names."""
        corpus = "python" if self.corpus is None else self.corpus
        return (corpus,) if isinstance(corpus, str) else corpus

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("data.corpus cannot be empty", "name a file, a folder or a named corpus")
        val = self.val or 0.0
        if not (0 <= val < 1 and 0 <= self.test < 1 and val + self.test < 1):
            raise UserError(
                f"data.val = {val} and data.test = {self.test} leave nothing to train on",
                "they are fractions of the text: 0.05 is 5 %",
            )
        for split in ("val", "test"):
            if getattr(self, f"{split}_corpus") and getattr(self, split):
                raise UserError(
                    f"data.{split}_corpus is another text, so data.{split} = {getattr(self, split)} has no effect",
                    "leave one of them out",
                )
        if self.order == "random" and self.stride is not None:
            raise UserError(
                "data.stride has no effect with data.order = random, whose windows begin at any token",
                "leave it out, or use --data.order shuffled or sequential",
            )
        if self.csv and (self.min_length or self.max_length or self.charset or self.dedup):
            raise UserError(
                "data.csv makes one table of all documents, which filters cannot judge one by one",
                "leave out data.csv, or min_length, max_length, charset and dedup",
            )
        check_shares(self)
        check_counts(self, "data", ["stride", "min_length", "max_length"])
        if self.min_length and self.max_length and self.min_length > self.max_length:
            raise UserError(
                f"data.min_length = {self.min_length} is more than data.max_length = {self.max_length}",
                "no document can satisfy both: change one of them",
            )
        if not 0 < self.charset_share <= 1:
            raise UserError(f"data.charset_share cannot be {self.charset_share}", "it is a fraction: 0.9 is 90 %")
        if self.charset is not None and not is_charset(self.charset):
            raise UserError(
                f"data.charset cannot be {self.charset!r}", "use one like ascii, latin-1, cp1251, shift_jis or gb18030"
            )
        if self.encoding != "auto" and not is_encoding(self.encoding):
            raise UserError(
                f"data.encoding cannot be {self.encoding!r}",
                "use auto, or one like cp1252, shift_jis or utf-16",
            )
        if not is_valid_utf8(self.separator):
            raise UserError(f"data.separator = {self.separator!r} is not valid UTF-8", "use characters that are")


def check_shares(data: DataConfig) -> None:
    if data.shares is None:
        return
    shown = ",".join(f"{share:g}" for share in data.shares)
    if not data.shares or not all(0 < share < 1 for share in data.shares) or abs(sum(data.shares) - 1) > 1e-6:
        raise UserError(f"data.shares cannot be {shown or 'empty'}", "they are fractions that add up to 1: 0.7,0.3")
    if data.corpus is not None and len(data.shares) != len(data.sources):
        raise unequal_shares(len(data.shares), len(data.sources))


def unequal_shares(shares: int, sources: int) -> UserError:
    return UserError(
        f"data.shares are for {counted(shares, 'source')}, and the text has {sources}",
        "give one for each source, in their order",
    )


def building_settings(data: DataConfig) -> dict[str, Any]:
    """The settings that a dataset depends on."""
    return {name: value for name, value in asdict(data).items() if name not in (*TRAINING_ONLY, *TEXTS)}


def is_valid_utf8(text: str) -> bool:
    """An argument of the command line may contain invalid bytes as lone surrogates."""
    return text == text.encode("utf-8", "replace").decode()


def is_encoding(name: str) -> bool:
    """Whether Python can read text files in it."""
    try:
        return is_charset(name) or codecs.lookup(name).name.startswith(("utf-16", "utf-32"))
    except (LookupError, ValueError):
        return False


def is_charset(name: str) -> bool:
    """Whether Python knows the character set, and it extends ASCII."""
    try:
        return codecs.lookup(name)._is_text_encoding and ASCII.encode(name) == ASCII.encode("ascii")
    except (LookupError, ValueError):
        return False
