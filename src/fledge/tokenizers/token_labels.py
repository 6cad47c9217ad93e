"""How single tokens are shown to people."""

from collections.abc import Sequence

from fledge.tokenizers.base import Tokenizer


def token_labels(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token; bytes that are part of a character as `\\xe2\\x80`, special tokens by their names.

    A model may have more ids than the tokenizer: these are `[300]`.
    """
    known = tokenizer.vocab_size
    labels = {id: _label(tokenizer.id_to_bytes(id)) if id < known else f"[{id}]" for id in set(ids)}
    if not all(labels.values()):
        names = {each["id"]: each["content"] for each in tokenizer.to_json()["added_tokens"]}
        labels = {token: label or names.get(token, "") for token, label in labels.items()}
    return [labels[token] for token in ids]


def visible(label: str) -> str:
    """With signs for spaces and line ends, and escapes for what else has no shape."""
    signs = {" ": "·", "\n": "↵", "\t": "→"}
    return "".join(signs.get(c) or (c if c.isprintable() else f"\\x{ord(c):02x}") for c in label)


def _label(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in content)
