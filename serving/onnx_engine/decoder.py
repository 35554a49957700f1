"""The graph and its cache: rows of tokens in, logits out, nothing copied.

The cache of each layer is one array [rows, kv_heads, cache_length, head_size] (float32), bound by
pointer both as `past` and as `present`, so a step writes its new columns in place. Rows 0..n-1 decode
together; the graph takes every row's own length (`seqlens_k`), so rows of different lengths share a
step. Any row can be prefilled alone: its slice of the pool starts at `row x bytes of a row`.

Not thread-safe: it belongs to the model thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.variants.onnx_manifest import Manifest

Logits = npt.NDArray[np.float32]


class Decoder:
    """An onnxruntime session over a pool of `rows`, each of `cache_length` tokens."""

    def __init__(
        self, session: Any, manifest: Manifest, rows: int, cache_length: int, chunk_tokens: int
    ) -> None:
        self.rows, self.cache_length, self.chunk_tokens = rows, cache_length, chunk_tokens
        self.vocab_size = manifest.vocab_size
        self._session = session
        self._row_shape = (manifest.kv_heads, cache_length, manifest.head_size)
        # Zeros are mapped lazily: memory is taken only as far as rows are really filled.
        self._pool = {
            f"{layer}.{kind}": np.zeros((rows, *self._row_shape), np.float32)
            for layer in range(manifest.layers)
            for kind in ("key", "value")
        }
        self._step_ids = np.zeros((rows, 1), np.int64)
        self._chunk_ids = np.zeros((1, chunk_tokens), np.int64)
        self._seqlens = np.zeros(rows, np.int32)
        self._total = np.zeros((), np.int32)
        self._first_position = np.zeros(1, np.int64)
        self._last_position = np.zeros(1, np.int64)
        self._logits = np.zeros((rows, 1, self.vocab_size), np.float32)
        self._steps = [self._bind_step(width) for width in range(1, rows + 1)]
        self._chunks = [self._bind_chunk(row) for row in range(rows)]

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Logits:
        """Append one token to each of rows 0..n-1; return their logits [n, vocab].

        `lengths` are the rows' lengths before the step. The result is valid until the next call.
        """
        width = len(tokens)
        self._step_ids[:width, 0] = tokens
        self._seqlens[:width] = lengths
        self._total[()] = max(lengths) + 1
        self._session.run_with_iobinding(self._steps[width - 1])
        return self._logits[:width, 0]

    def prefill(self, row: int, tokens: Sequence[int], length: int) -> Logits:
        """Append at most `chunk_tokens` tokens to a row of `length`; return the last's logits [vocab].

        Valid until the next call. Row 0 of the logits buffer is used, whichever row is filled.
        """
        count = len(tokens)
        self._chunk_ids[0, :count] = tokens
        self._seqlens[0] = length + count - 1
        self._total[()] = length + count
        self._last_position[0] = count - 1
        binding = self._chunks[row]
        self._bind_in(binding, "input_ids", self._chunk_ids, (1, count))
        self._session.run_with_iobinding(binding)
        logits: Logits = self._logits[0, 0]
        return logits

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of a row over another row."""
        for layer in self._pool.values():
            layer[target, :, :length] = layer[source, :, :length]

    def _bind_step(self, width: int) -> Any:
        binding = self._session.io_binding()
        self._bind_in(binding, "input_ids", self._step_ids, (width, 1))
        self._bind_in(binding, "logit_positions", self._first_position, (1,))
        self._bind_rows(binding, 0, width)
        return binding

    def _bind_chunk(self, row: int) -> Any:
        binding = self._session.io_binding()
        self._bind_in(binding, "logit_positions", self._last_position, (1,))
        self._bind_rows(binding, row, 1)
        return binding

    def _bind_rows(self, binding: Any, row: int, width: int) -> None:
        self._bind_in(binding, "seqlens_k", self._seqlens, (width,))
        self._bind_in(binding, "total_sequence_length", self._total, ())
        shape = (width, *self._row_shape)
        for name, layer in self._pool.items():
            address = layer[row].ctypes.data
            past, present = f"past_key_values.{name}", f"present.{name}"
            binding.bind_input(past, "cpu", 0, np.float32, shape, address)
            binding.bind_output(present, "cpu", 0, np.float32, shape, address)
        picked = (width, 1, self.vocab_size)
        binding.bind_output("logits", "cpu", 0, np.float32, picked, self._logits.ctypes.data)

    @staticmethod
    def _bind_in(binding: Any, name: str, array: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
        binding.bind_input(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)
