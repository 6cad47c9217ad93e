"""[data]: which text, how it is read, filtered and split, and how windows are cut from it."""

import codecs
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fledge.core.config import check_counts, setting
from fledge.core.errors import UserError

TRAINING_ONLY = ("path", "stride", "corpus")  # settings that do not change the dataset
ASCII = bytes(range(128)).decode("ascii")


@dataclass(frozen=True)
class DataConfig:
    corpus: str | tuple[str, ...] | None = setting(
        None, "a named corpus, file, folder, glob or URL, or a list of them; prepared when first needed; unset: python"
    )
    path: str | None = setting(None, "a dataset made by 'fledge prepare', local or at s3://…; replaces corpus")
    include: str = setting("", "of a folder, glob or Hub repository, read only files like these: '*.md,*.txt'")
    exclude: str = setting("", "leave out files like these")
    field: str = setting("text", "jsonl, parquet, csv and tsv: the field or column that holds the text")
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


def building_settings(data: DataConfig) -> dict[str, Any]:
    """The settings that a dataset depends on."""
    return {name: value for name, value in asdict(data).items() if name not in TRAINING_ONLY}


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
