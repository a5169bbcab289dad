"""The keys and the values of checkpoints, channels and writes in state entries.

A value has a first line of JSON, then the bytes of the serializer. An encrypting serializer encrypts these bytes; ids,
names of channels and types stay readable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

NAMESPACE: Final = "langgraph"
CHECKPOINTS: Final = "c/"
"""The prefix of the keys of all checkpoints; those of channels and writes are `b/` and `w/`."""
_KINDS: Final = ("c", "b", "w")
_LONGEST_ID: Final = 128
_INLINE: Final = 256
"""The longest text in characters that a checkpoint contains. Larger values are entries of their own."""


def prefixes_of_thread(thread_id: str) -> tuple[str, ...]:
    """Return the prefixes of all keys of a thread; those of two threads are in one order.

    Raises:
        ValueError: The thread id is not a string.
    """
    _check_text("thread_id", thread_id)
    return tuple(f"{kind}/{_hash(thread_id)}/" for kind in _KINDS)


@dataclass(frozen=True, slots=True)
class Place:
    """A checkpoint namespace of a thread. Both are any text: keys contain their hashes, which have one length."""

    thread_id: str
    checkpoint_ns: str

    def __post_init__(self) -> None:
        """Check that both are strings.

        Raises:
            ValueError: One is not.
        """
        _check_text("thread_id", self.thread_id)
        _check_text("checkpoint_ns", self.checkpoint_ns)

    def key(self, kind: str, *names: str) -> str:
        """Return a key, or without names the prefix of the keys of a kind: `c`, `b` or `w`."""
        return "/".join((kind, _hash(self.thread_id), _hash(self.checkpoint_ns), *(names or ("",))))

    def checkpoint(self, checkpoint_id: str) -> str:
        """Return the key of a checkpoint. The keys of a place are in the order of the ids."""
        return self.key("c", _checked_id(checkpoint_id))

    def writes(self, checkpoint_id: str) -> str:
        """Return the prefix of the keys of the writes of a checkpoint."""
        return self.key("w", _checked_id(checkpoint_id), "")

    def task(self, checkpoint_id: str, task_id: str, name: str) -> str:
        """Return a key of writes of a task."""
        return self.writes(checkpoint_id) + f"{_hash(task_id)}/{name}"

    def channel(self, name: str, version: object) -> str:
        """Return the key of the value that a channel has in a version."""
        return self.key("b", _hash(name, version))


@dataclass(frozen=True, slots=True)
class Record:
    """A stored checkpoint. `has_deltas` marks one of a graph with a DeltaChannel, whose parents must be kept.

    `versions` has the channels whose values are entries of their own.
    """

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str
    parent_id: str | None
    has_deltas: bool
    versions: Mapping[str, str | int | float | None]
    kind: str
    payload: bytes

    @property
    def place(self) -> Place:
        """The place of the checkpoint."""
        return Place(self.thread_id, self.checkpoint_ns)

    @property
    def key(self) -> str:
        """The key of the checkpoint."""
        return self.place.checkpoint(self.checkpoint_id)

    @property
    def channels(self) -> dict[str, str]:
        """The keys of the values that are entries of their own, by the channel."""
        return {name: self.place.channel(name, version) for name, version in self.versions.items()}

    def packed(self) -> bytes:
        """Return the value of the entry."""
        head = asdict(self)
        payload = head.pop("payload")
        return pack(head, payload)

    @classmethod
    def unpacked(cls, value: bytes) -> Record:
        """Return the checkpoint of an entry."""
        head, payload = unpack(value)
        return cls(**head, payload=payload)


Typed = tuple[str, bytes]
"""A value as the serializer dumps it: the name of its type, and bytes."""


@dataclass(frozen=True, slots=True)
class Writes:
    """Writes of a task by their index: the channel and the value."""

    task_id: str
    task_path: str
    by_index: Mapping[int, tuple[str, Typed]]

    def packed(self) -> bytes:
        """Return the value of the entry."""
        writes = [(index, channel, kind, len(data)) for index, (channel, (kind, data)) in self.by_index.items()]
        payload = b"".join(data for _, (_, data) in self.by_index.values())
        return pack({"task_id": self.task_id, "task_path": self.task_path, "writes": writes}, payload)

    @classmethod
    def unpacked(cls, value: bytes) -> Writes:
        """Return the writes of an entry."""
        head, payload = unpack(value)
        return cls(head["task_id"], head["task_path"], dict(_split(head["writes"], payload)))


def pack(head: Mapping[str, Any], payload: bytes) -> bytes:
    """Return a value: JSON in one line, and bytes. The JSON is ASCII, so that lone surrogates are kept."""
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + payload


def unpack(value: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the JSON and the bytes of a value."""
    head, _, payload = value.partition(b"\n")
    return json.loads(head), payload


def is_inline(value: object) -> bool:
    """Return True if a checkpoint contains the value of a channel itself."""
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= _INLINE)


def _split(writes: list[tuple[int, str, str, int]], payload: bytes) -> Iterator[tuple[int, tuple[str, Typed]]]:
    first = 0
    for index, channel, kind, size in writes:
        yield index, (channel, (kind, payload[first : first + size]))
        first += size


def _hash(*parts: object) -> str:
    """Return a hash of 128 bits of texts, whose places are unambiguous in JSON."""
    return sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, got a {type(value).__name__}")  # noqa: TRY004 - bad input


def _checked_id(checkpoint_id: object) -> str:
    if isinstance(checkpoint_id, str) and 1 <= len(checkpoint_id) <= _LONGEST_ID and "/" not in checkpoint_id:
        return checkpoint_id
    got = f"{len(checkpoint_id)} characters" if isinstance(checkpoint_id, str) else f"a {type(checkpoint_id).__name__}"
    raise ValueError(f"checkpoint_id must be 1 to {_LONGEST_ID} characters without a slash, got {got}")
