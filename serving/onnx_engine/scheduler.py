"""The model thread: which rows run, who joins, who leaves.

Decoding rows are 0..n-1, always compact; at most one more row, number n, is being prefilled. A round
reads one chunk of that prompt and then takes one step of all decoding rows, so a long prompt delays
its neighbours by one chunk at a time. Whoever ends leaves a gap that the last row is moved into.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable

from catalog.ground.errors import (
    InternalError,
    RateLimited,
    TokenMartError,
    Unavailable,
    UpstreamTimeout,
)
from serving.onnx_engine.decoder import Decoder
from serving.onnx_engine.meters import Meters
from serving.onnx_engine.sequence import Piece, Sequence

RETRY_AFTER_S = 1.0
Delivery = tuple[Sequence, Piece]


class Scheduler:
    """Owns the decoder. `submit`, `cancel` and `stop` may be called from any thread.

    `hand_over` gets the pieces of a round in one call, on the model thread.
    """

    def __init__(
        self,
        decoder: Decoder,
        meters: Meters,
        max_waiting: int,
        hand_over: Callable[[list[Delivery]], None],
    ) -> None:
        self._decoder, self._meters, self._max_waiting = decoder, meters, max_waiting
        self._hand_over = hand_over
        self._changed = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._decoding: list[Sequence] = []
        self._prefilling: Sequence | None = None
        self._stopping = False
        self._out: list[Delivery] = []
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Start the model thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the model thread is there to take work."""
        return self._thread.is_alive()

    def running(self) -> int:
        """Return how many sequences hold a row."""
        return len(self._decoding) + (self._prefilling is not None)

    def waiting(self) -> int:
        """Return how many sequences wait for a row."""
        return len(self._waiting)

    def submit(self, sequences: Iterable[Sequence]) -> None:
        """Put sequences in line, all or none: `RateLimited` when the line is full."""
        batch = list(sequences)
        with self._changed:
            if self._stopping or not self.alive:
                raise Unavailable("The engine is stopping.", code="engine_draining")
            room = self._decoder.rows - self.running() + self._max_waiting - len(self._waiting)
            if len(batch) > room:
                raise RateLimited(
                    "The engine is busy: every row is taken and the waiting line is full.",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._waiting.extend(batch)
            self._changed.notify()

    def cancel(self, sequences: Iterable[Sequence]) -> None:
        """Have sequences leave before the next step; nothing more of them is delivered."""
        for sequence in sequences:
            sequence.cancelled = True
        with self._changed:
            self._changed.notify()

    def stop(self) -> None:
        """End the model thread; whatever still runs or waits gets an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self.alive:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                self._round()
            except Exception:  # One bad step must not take the engine down with it.
                traceback.print_exc(file=sys.stderr)
                self._drop_all(InternalError("The model failed on this request."))
            self._flush()
        self._drop_all(Unavailable("The engine has stopped.", code="engine_draining"))
        self._flush()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._stopping or self._waiting or self.running()):
                self._changed.wait()
            if self._stopping:
                return False
            while self._prefilling is None and self._waiting:
                if len(self._decoding) == self._decoder.rows:
                    break
                self._prefilling = self._waiting.popleft()
            return True

    def _round(self) -> None:
        self._sweep()
        if self._prefilling is not None:
            self._prefill(self._prefilling)
        if self._decoding:
            self._step()

    def _sweep(self) -> None:
        """Let the cancelled and the late go, in rows and in line."""
        now_s = time.monotonic()
        for place in range(len(self._decoding) - 1, -1, -1):
            if self._leaves(self._decoding[place], now_s):
                self._free(place)
        if self._prefilling is not None and self._leaves(self._prefilling, now_s):
            self._prefilling = None
        with self._changed:
            gone = [item for item in self._waiting if self._leaves(item, now_s)]
            for item in gone:
                self._waiting.remove(item)

    def _leaves(self, sequence: Sequence, now_s: float) -> bool:
        if sequence.cancelled:
            self._meters.cancelled.inc()
            return True
        if now_s > sequence.deadline_s:
            self._fail(sequence, UpstreamTimeout("The request took longer than the engine allows."))
            return True
        return False

    def _prefill(self, sequence: Sequence) -> None:
        row, start = len(self._decoding), sequence.length
        chunk = sequence.prompt[start : start + self._decoder.chunk_tokens]
        logits = self._decoder.prefill(row, chunk, start)
        sequence.length += len(chunk)
        if sequence.length < len(sequence.prompt):
            return
        self._prefilling = None
        self._decoding.append(sequence)
        self._meters.prompt_tokens.inc(len(sequence.prompt))
        sequence.first_token_s = time.monotonic()
        self._meters.first_token_s.observe(sequence.first_token_s - sequence.submitted_s)
        self._settle([sequence.take(logits)], first=row)

    def _step(self) -> None:
        batch = self._decoding
        logits = self._decoder.step([s.token for s in batch], [s.length for s in batch])
        likeliest = logits.argmax(axis=1).tolist()
        pieces = []
        for row, sequence in enumerate(batch):
            sequence.length += 1
            plain = sequence.takes_argmax
            pieces.append(sequence.add(likeliest[row]) if plain else sequence.take(logits[row]))
        self._settle(pieces, first=0)

    def _settle(self, pieces: list[Piece], first: int) -> None:
        """Queue the pieces of rows `first`…; from the last row down, free those that have ended."""
        self._meters.generation_tokens.inc(len(pieces))
        for place in range(len(pieces) - 1, -1, -1):
            sequence, piece = self._decoding[first + place], pieces[place]
            self._out.append((sequence, piece))
            if piece.last:
                self._free(first + place)
                self._observe_pace(sequence)

    def _observe_pace(self, sequence: Sequence) -> None:
        if sequence.completion_tokens > 1:
            took_s = time.monotonic() - sequence.first_token_s
            self._meters.per_token_s.observe(took_s / (sequence.completion_tokens - 1))

    def _free(self, row: int) -> None:
        """Close the gap at `row`: the last decoding row moves there, the prefilling one moves up."""
        last = len(self._decoding) - 1
        mover = self._decoding.pop()
        if row != last:
            self._decoder.move(last, row, mover.length)
            self._decoding[row] = mover
        if self._prefilling is not None and self._prefilling.length:
            self._decoder.move(last + 1, last, self._prefilling.length)

    def _fail(self, sequence: Sequence, error: TokenMartError) -> None:
        piece = Piece(sequence.choice, "", sequence.completion_tokens, error=error)
        self._out.append((sequence, piece))

    def _drop_all(self, error: TokenMartError) -> None:
        with self._changed:
            lost = [*self._decoding, *self._waiting]
            if self._prefilling is not None:
                lost.append(self._prefilling)
            self._decoding, self._prefilling = [], None
            self._waiting.clear()
        for sequence in lost:
            self._fail(sequence, error)

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, []
            self._hand_over(out)
