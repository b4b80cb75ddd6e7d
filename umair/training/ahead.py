"""The next few items of an iterator, prepared in a thread while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
_END: Any = object()


def ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """The same items in the same order, `depth` of them made ahead of time. Errors surface where they would have."""
    source = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:  # one thread keeps the order
        waiting = deque(thread.submit(next, source, _END) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next, source, _END))
                yield item
        finally:
            for future in waiting:
                future.cancel()
