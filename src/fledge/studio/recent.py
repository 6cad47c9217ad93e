"""Results that were computed last, as many as fit in a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The oldest go first; the newest `at_least` stay, however large they are. Safe to use from several threads."""

    def __init__(self, max_bytes: int, *, at_least: int = 1) -> None:
        self._max_bytes, self._at_least, self._bytes = max_bytes, at_least, 0
        self._kept: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: T, size: int) -> T:
        with self._lock:
            self._bytes += size - self._kept.pop(key, (value, 0))[1]
            self._kept[key] = value, size
            while self._bytes > self._max_bytes and len(self._kept) > self._at_least:
                self._bytes -= self._kept.popitem(last=False)[1][1]
        return value
