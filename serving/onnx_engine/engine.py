"""Between the endpoints and the model thread: prompts become ids, ids become sequences.

Lives in the event loop. A `Generation` is one request's answer on its way: what the model thread makes
is collected in it, and closing it frees its rows before the next step.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from catalog.ground.errors import BadRequest, ContextTooLong, NotFound, Unavailable
from catalog.ground.ids import new_id
from serving.onnx_engine import requests
from serving.onnx_engine.loading import Model
from serving.onnx_engine.meters import Meters
from serving.onnx_engine.options import Options
from serving.onnx_engine.requests import ChatAsk, TextAsk
from serving.onnx_engine.sampling import Sampling
from serving.onnx_engine.scheduler import Delivery, Scheduler
from serving.onnx_engine.sequence import Limits, Piece, Sequence
from serving.process.edge import ClientLeftError

Left = Callable[[], Awaitable[bool]]
"""Tells whether the client has gone."""

THREAD_CHARACTERS = 20_000
"""Longer texts are encoded beside the event loop, so that no other answer waits for them."""


class Generation:
    """One request's answer: its pieces as they come, and what has been used so far."""

    def __init__(self, kind: str, model: str, prompt_tokens: int) -> None:
        self.id = new_id(kind)
        self.created_s = int(time.time())
        self.model = model
        self.prompt_tokens = prompt_tokens
        self.sequences: list[Sequence] = []
        self._counts: dict[int, int] = {}
        self._open = 0
        self._pieces: deque[Piece] = deque()
        self._news = asyncio.Event()
        self.left = False

    @property
    def completion_tokens(self) -> int:
        """Output tokens of all choices so far: every id produced, the one that ended it included."""
        return sum(self._counts.values())

    @property
    def unfinished(self) -> bool:
        """Whether a choice has not ended yet."""
        return self._open > 0

    def attach(self, sequences: list[Sequence]) -> None:
        """Take the sequences whose pieces will be delivered here."""
        self.sequences, self._open = sequences, len(sequences)

    def deliver(self, piece: Piece) -> None:
        """Take a piece (event loop only)."""
        self._pieces.append(piece)
        self._news.set()

    def leave(self) -> None:
        """The client has gone: whoever waits for pieces is told to stop."""
        self.left = True
        self._news.set()

    async def batches(self) -> AsyncIterator[list[Piece]]:
        """Yield what has come since the last time, until every choice has ended or the client left.

        Raises the error of a choice that failed.
        """
        while self._open and not self.left:
            await self._news.wait()
            self._news.clear()
            batch = list(self._pieces)
            self._pieces.clear()
            for piece in batch:
                if piece.error is not None:
                    raise piece.error
                self._counts[piece.choice] = piece.completion_tokens
                self._open -= piece.last
            if batch:
                yield batch


class Engine:
    """The loaded model with its scheduler; refuses new work while `draining`."""

    def __init__(self, options: Options, model: Model, meters: Meters) -> None:
        self.options, self.model, self.meters = options, model, meters
        self.names = options.served_names or (model.manifest.name,)
        self.created_s = int(time.time())
        self.draining = False
        self.open: set[Generation] = set()
        # One at a time: four million characters take a gigabyte while they are encoded.
        self._long_text = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self.scheduler = Scheduler(model.decoder, meters, options.max_waiting, self._hand_over)
        meters.watch(self.scheduler.running, self.scheduler.waiting)
        self.scheduler.start()

    @property
    def context_length(self) -> int:
        """Prompt and output tokens that fit together."""
        return self.model.context_length

    def check_name(self, name: str) -> None:
        """Raise `NotFound` unless the engine answers to `name`."""
        if name not in self.names:
            raise NotFound(
                f"The model {name!r} does not exist here.", code="model_not_found", param="model"
            )

    async def encode_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        left: Left,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Return the ids of the rendered chat template, which brings its own special tokens."""
        template = self.model.template
        if template is None:
            raise BadRequest(
                "This model has no chat template.",
                code="template_missing",
                remedy="Use /v1/completions.",
            )
        text = template.render(
            requests.plain_messages(messages),
            tools=tools,
            add_generation_prompt=add_generation_prompt,
        )
        return await self.encode_text(text, left, add_special_tokens=False)

    async def encode_text(self, text: str, left: Left, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text; `ClientLeftError` for a long one that nobody waits for any more."""

        def ids() -> list[int]:
            # A batch of one, because `encode` keeps Python's lock: even the model thread would stand still.
            found = self.model.tokenizer.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
            return list(found[0].ids)

        if len(text) <= THREAD_CHARACTERS:
            return ids()
        async with self._long_text:
            if await left():
                raise ClientLeftError
            return await asyncio.to_thread(ids)

    def start(self, kind: str, ask: ChatAsk | TextAsk, prompts: list[list[int]]) -> Generation:
        """Submit `n` choices of every prompt; the caller must `close` what it gets."""
        if self.draining:
            raise Unavailable("The engine is stopping.", code="engine_draining")
        copies = ask.n or 1
        if copies * len(prompts) > self.options.max_rows:
            raise requests.refuse("n", f"at most {self.options.max_rows} choices in one request.")
        for prompt in prompts:
            self._check_ids(prompt, "messages" if isinstance(ask, ChatAsk) else "prompt")
        generation = Generation(kind, ask.model, sum(len(prompt) for prompt in prompts))
        sampling = self._sampling(ask)
        deadline_s = time.monotonic() + self.options.request_timeout_s
        generation.attach(
            [
                Sequence(
                    choice=place * copies + draw,
                    draw=draw,
                    prompt=prompt,
                    limits=limits,
                    sampling=sampling,
                    tokenizer=self.model.tokenizer,
                    deliver=generation.deliver,
                    deadline_s=deadline_s,
                )
                for place, prompt in enumerate(prompts)
                for limits in [self._limits(ask, prompt)]
                for draw in range(copies)
            ]
        )
        self.scheduler.submit(generation.sequences)
        self.open.add(generation)
        return generation

    def close(self, generation: Generation) -> None:
        """Forget a generation; what still runs of it leaves its rows."""
        self.open.discard(generation)
        if generation.unfinished:
            self.scheduler.cancel(generation.sequences)

    def _hand_over(self, deliveries: list[Delivery]) -> None:
        self._loop.call_soon_threadsafe(_distribute, deliveries)

    def _check_ids(self, ids: list[int], field: str) -> None:
        """Refuse ids that the model has no row for: the runtime would fail, for its other rows too.

        A caller may name such ids, and so may a tokenizer that was given more tokens than its model.
        """
        if ids and not 0 <= min(ids) <= max(ids) < self.model.manifest.vocab_size:
            raise requests.refuse(field, "a token id is outside the model's vocabulary.")

    def _sampling(self, ask: ChatAsk | TextAsk) -> Sampling:
        own = self.model.manifest.sampling
        temperature = own.get("temperature", 1.0) if ask.temperature is None else ask.temperature
        top_p = own.get("top_p", 1.0) if ask.top_p is None else ask.top_p
        top_k = int(own.get("top_k", 0)) if ask.top_k is None else ask.top_k
        bias = ask.logit_bias or {}
        self._check_ids(list(bias), "logit_bias")
        return Sampling(
            temperature,
            top_p or 1.0,
            max(0, top_k),
            ask.seed,
            min_p=ask.min_p or 0.0,
            presence=ask.presence_penalty or 0.0,
            frequency=ask.frequency_penalty or 0.0,
            repetition=ask.repetition_penalty or 1.0,
            bias=bias,
        )

    def _limits(self, ask: ChatAsk | TextAsk, prompt: list[int]) -> Limits:
        eos = () if ask.ignore_eos else self.model.manifest.eos_token_ids
        own = ask.stop_token_ids or []
        self._check_ids(own, "stop_token_ids")
        return Limits(
            max_tokens=self._max_tokens(ask, prompt),
            min_tokens=ask.min_tokens or 0,
            stop=ask.stops,
            stop_token_ids=frozenset(eos) | frozenset(own),
            logprobs=ask.alternatives,
        )

    def _max_tokens(self, ask: ChatAsk | TextAsk, prompt: list[int]) -> int:
        limit, count, asked = self.context_length, len(prompt), ask.token_limit
        if not prompt:
            raise requests.refuse("prompt", "at least one token is needed.")
        facts: dict[str, Any] = {"context_length": limit, "prompt_tokens": count}
        if count >= limit:
            raise ContextTooLong(
                f"The prompt has {count} tokens; the model's context is {limit} tokens, of which "
                "at least one must be left for the answer.",
                param="messages" if isinstance(ask, ChatAsk) else "prompt",
                details=facts,
                remedy="Shorten the prompt.",
            )
        if asked is not None and count + asked > limit:
            raise ContextTooLong(
                f"The prompt has {count} tokens and max_tokens is {asked}, together "
                f"{count + asked}; the model's context is {limit} tokens.",
                param="max_tokens",
                details=facts,
                remedy=f"Ask for at most {limit - count} tokens.",
            )
        return limit - count if asked is None else asked


def _distribute(deliveries: list[Delivery]) -> None:
    for sequence, piece in deliveries:
        sequence.deliver(piece)
