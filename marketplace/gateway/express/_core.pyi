"""The compiled part of the express lane."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

from marketplace.gateway.door import Connection

class Hooks(Protocol):
    """What the compiled part asks of Python."""

    def connection(self, transport: Any) -> Connection:
        """Return Python's side of a connection; its `connection_made` has been called with the transport."""

class Core:
    """All sockets of one worker, and the lane. `hooks` is a `lane.Hooks`.

    The listener stays the caller's to close, after `stop_listening`. Half a request is Python's after
    `half_s`; see `door` and `wire` of the gateway for the other durations. With `echo` the lane is one for
    the wire's tests (echo_lane.hpp). Hooks and lane may refer to the core, which the garbage collector
    cannot see: such cycles are broken by `close`, after which nothing else may be called.
    """

    def __init__(
        self,
        hooks: Any,
        *,
        listener: int = -1,
        body_limit: int,
        connect_s: float,
        silence_s: float,
        half_s: float = 5.0,
        idle_s: float = 75.0,
        stall_s: float = 60.0,
        kept_s: float = 60.0,
        echo: bool = False,
    ) -> None: ...
    def fileno(self) -> int:
        """Return the descriptor that is readable when `poll` has something to do."""
    def poll(self) -> None:
        """Deal with what is ready, for about a millisecond at most.

        Raises what is no `Exception` and was raised by a protocol; errors go to `sys.unraisablehook`.
        """
    def look_around(self) -> None:
        """Notice who is late; to be called some ten times a second."""
    def adopt(self, fd: int, read: bytes) -> None:
        """Serve a connection; the descriptor is the core's from now on."""
    def stop_listening(self) -> None: ...
    def close_idle(self) -> None:
        """Close idle connections, the others after their answer; those with a protocol are its door's."""
    @property
    def connections(self) -> int: ...
    def lane(self, what: str, *arguments: Any) -> Any:
        """Ask the lane: learn, forget, heard, running, told, charges, close (see `lane.Express`)."""
    def close(self) -> None:
        """End everything at once: clients are cut off, protocols hear that their connection is lost, calls
        that are under way give back what they took. Not for whom the core calls.
        """

class Transport:
    """What a protocol of `Hooks.connection` gets: `asyncio.Transport`, as far as the gateway uses it.

    Its extra information is `peername`, `sockname` and `socket` (something with a `fileno`).
    """

    def write(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def writelines(self, parts: Iterable[bytes | bytearray | memoryview], /) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_reading(self) -> bool: ...
    def can_write_eof(self) -> bool: ...
    def write_eof(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def get_write_buffer_limits(self) -> tuple[int, int]: ...
    def get_protocol(self) -> Any: ...
    def set_protocol(self, protocol: Any, /) -> None: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...
    def fileno(self) -> int: ...

# What the wire reads of HTTP (http.hpp): for the tests.

def plain_head(data: bytes, /) -> tuple[int, int, bytes] | None:
    """Return a plain head's size, its body's length and its authorization; None for any other."""

def read_answer(pieces: list[bytes], push: bool, /) -> tuple[Any, ...]:
    """Return what comes of an answer in these pieces, behind which the engine closes.

    That is what was pushed, status, headers, body, and whether the connection would be kept; or what was
    pushed and whether anything had come, of an answer that is broken.
    """

# Price, plan and bill (pay.hpp), for the tests.

class Terms:
    """Who calls what: `terms` is a `terms.Terms`, `books` a `money.Books`.

    Raises ValueError where the lane must not serve these terms. A plan is kept until the next `draw`, a bill
    until the next `settle`.
    """

    def __new__(cls, terms: Any, books: Any, /) -> Terms: ...
    def accounts(self) -> list[int]:
        """Return who may pay: vouchers, wallet, caps, each once."""
    def draw(
        self, input_tokens: int, output_tokens: int, began_us: int, open_bits: int, /
    ) -> dict[str, Any]:
        """Return the plan where the accounts have a reserve whose bits are set: its `cost_u`, `tokens`,
        `self_u`, `slack_u`, `shortfall_u`, `draws` (the legs of `plan.Leg` without their grants), `skipped`
        and `legs` (those of `Call.legs`).
        """
    def saw_all(self, open_bits: int, empty_until_us: list[int], began_us: int, /) -> bool:
        """Return whether the last plan looked at all that matters; one instant for each account."""
    def settle(
        self,
        used: tuple[int, int, int, int, int],
        input_tokens: int,
        max_tokens: int,
        began_us: int,
        /,
    ) -> dict[str, Any] | None:
        """Return the bill of the last plan: amounts, `legs`, `entries`, `used`; None where Python must."""
    def usage_row(
        self,
        *,
        id: str,
        raw_usage: str,
        request_sha256: str,
        source: str,
        outcome: str,
        why: str,
        began_us: int,
        first_token_us: int,
        ended_us: int,
        streamed: bool,
    ) -> list[int | str]:
        """Return the last bill's row of `usage_event`, in the order of `USAGE_COLUMNS`."""
    def cost_headers(self) -> bytes:
        """Return the last bill's headers as lines."""

# Bytes, requests and streams (bind_text.cpp): for the tests.

def sha256(data: bytes, portable: bool = False) -> bytes:
    """Return the digest; `portable` does without the processor's instructions for it."""

def hex_sha256(data: bytes, /) -> str: ...
def number(value: int, /) -> bytes:
    """Return a number of 64 bits in decimal."""

def clocks() -> tuple[int, float]:
    """Return the wall clock in microseconds since the Unix epoch, and `time.monotonic`."""

def new_id(prefix: str, /) -> str:
    """Return `prefix_ULID`, see `catalog.ground.ids`."""

def json_string(text: str, /) -> bytes:
    """Return what `msgspec.json.encode` writes."""

def is_utf8(data: bytes, portable: bool = False) -> bool: ...
def read_request(body: bytes, /) -> dict[str, Any] | None:
    """Return what is known of a request that is plain enough, None for any other.

    That is `fields` (pairs of bytes), `model`, `stream`, `include_usage` and `max_tokens` (0: no bound).
    """

def write_request(body: bytes, model: bytes, max_tokens: int, /) -> bytes | None:
    """Return the body for the engine; `model` is a JSON string. None where `read_request` says None."""

def read_usage(document: bytes, /) -> tuple[tuple[int, int, int, int, int], bytes] | None:
    """Return the usage in an answer or an event, and its text; None where Python has to read it.

    Its buckets are uncached input, cache reads, cache writes, output and reasoning.
    """

class StreamReader:
    """`marketplace.gateway.sse.StreamReader`, less what only Python needs."""

    def feed(self, piece: bytes, /) -> bytes | None:
        """Return what may be forwarded now; None where the stream has failed."""
    def tail(self) -> bytes:
        """Return what Python's reader has to be fed to stand where this one stands."""
    @property
    def done(self) -> bool: ...
    @property
    def usage(self) -> bytes | None: ...
    @property
    def usage_chunk(self) -> bytes | None: ...
    @property
    def forwarded(self) -> bytes:
        """What the last piece added, also where the stream has failed."""

# Charges (bind_charges.cpp): the writer for the tests, the turns also for Python's own writer.

class ChargeWriter:
    """Books charges in batches, in a thread of its own, on the SQLite database at `path`.

    `lane` (its own, nobody else writes there) and `clearing` are ids; `patience_s` is how long it waits while
    others have the database's lock. Raises `RuntimeError` where that cannot be.
    """

    def __init__(self, path: str, lane: int, clearing: int, patience_s: float = 30.0) -> None: ...
    def send(
        self,
        tx: str,
        legs: Sequence[Sequence[int]],
        entries: Sequence[Sequence[int]],
        usage: Sequence[str | bytes | int],
        at_us: int,
    ) -> int:
        """Queue a charge, as `operations.Charge` has it; returns its number, counted from 1.

        Bytes in `usage` are a text that need not be UTF-8.
        """
    def wait(self, seconds: float) -> bool:
        """Wait for an answer; returns whether there is one."""
    def collect(self) -> list[tuple[int, Literal["booked", "refused", "unsure"]]]:
        """Return what has been answered since the last time: number and outcome each."""
    def fileno(self) -> int:
        """Return the descriptor that is readable when there is an answer."""
    def close(self) -> None:
        """Book what is queued, then stop."""
    @property
    def queued(self) -> int: ...

class Turn:
    """A writer's turn among the writers of this process; one thread at a time uses it.

    Entering waits, without the interpreter's lock, until whoever came before has left.
    """

    def __enter__(self) -> Turn: ...
    def __exit__(self, *_: object) -> None: ...
