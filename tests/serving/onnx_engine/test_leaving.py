"""Clients that leave, engines that are told to: nothing goes on for nobody, nothing breaks off."""

from __future__ import annotations

import http.client
import json
import re
import signal
import threading
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest


def _until(what: Any, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def _request(
    engine: Any, tokens: int, *, stream: bool, n: int = 8, prompt: Any = (5, 5, 5, 5)
) -> http.client.HTTPConnection:
    place = urlsplit(engine.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    body = {
        "model": engine.model,
        "prompt": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": stream,
        "n": n,
    }
    headers = {"authorization": f"Bearer {engine.client.api_key}"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    return connection


def test_a_client_that_leaves_a_stream_frees_its_rows(engine: Any) -> None:
    tokens = engine.context_length - 8
    before, left = engine.metric("generation_tokens_total"), engine.metric("cancelled_total")
    connection = _request(engine, tokens, stream=True)
    answer = connection.getresponse()
    answer.read(100)
    answer.close()
    connection.close()
    _until(lambda: engine.metric("sequences_running") == 0)
    produced = engine.metric("generation_tokens_total") - before
    assert engine.metric("cancelled_total") - left == 8
    assert produced < 8 * tokens / 2, "generation went on for nobody"
    time.sleep(0.05)
    assert engine.metric("generation_tokens_total") - before == produced


def test_a_client_that_hangs_up_before_its_answer_frees_its_rows(engine: Any) -> None:
    before = engine.metric("generation_tokens_total")
    tokens = engine.context_length - 8
    connection = _request(engine, tokens, stream=False)
    _until(lambda: engine.metric("generation_tokens_total") > before)
    connection.close()
    _until(lambda: engine.metric("sequences_running") == 0)
    assert engine.metric("generation_tokens_total") - before < 8 * tokens


def test_a_long_text_is_not_encoded_for_who_has_left(engine: Any) -> None:
    before = engine.metric("requests_total")
    left = _gone(engine)
    connection = _request(engine, 1, stream=False, prompt=["a title " * 200_000] * 2)
    connection.close()
    _until(lambda: engine.metric("requests_total") > before, 60)
    assert _gone(engine) == left + 1, "the second text was encoded, and the prompts refused"


def _gone(engine: Any) -> float:
    page = urllib.request.urlopen(f"{engine.url}/metrics").read().decode()
    found = re.search(r'requests_total\{.*completions",outcome="499"\} (\S+)', page)
    return float(found[1]) if found else 0


def test_an_idle_engine_takes_no_processor_time(engine: Any) -> None:
    def cpu_ticks() -> int:
        stat = Path(f"/proc/{engine.process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    time.sleep(0.2)
    before = cpu_ticks()
    time.sleep(1.0)
    assert cpu_ticks() - before <= 2, "more than 20 ms of a second"


def test_sigterm_lets_a_stream_finish_and_takes_nothing_new(start: Any) -> None:
    engine = start("--max-rows", "1")
    tokens = engine.context_length - 8
    with engine.client.completions.create(
        model=engine.model,
        prompt=[5] * 4,
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True, "min_tokens": tokens},
    ) as stream:
        chunks = [next(stream)]
        engine.process.send_signal(signal.SIGTERM)
        _until(lambda: _draining(engine))
        statuses: list[int] = []
        newcomer = threading.Thread(target=_knock, args=(engine, statuses))
        newcomer.start()
        chunks += list(stream)
        newcomer.join()
    assert chunks[-1].usage.completion_tokens == tokens
    assert engine.process.wait(timeout=10) == 0
    assert set(statuses) <= {503}


def _draining(engine: Any) -> bool:
    try:
        urllib.request.urlopen(f"{engine.url}/healthz").close()
    except OSError:  # 503, or gone already
        return True
    return False


def _knock(engine: Any, statuses: list[int]) -> None:
    with suppress(OSError, http.client.HTTPException):
        connection = _request(engine, 1, stream=False, n=1)
        with closing(connection):
            statuses.append(connection.getresponse().status)


def test_a_drain_that_takes_too_long_ends_the_stream_with_an_error(start: Any) -> None:
    engine = start("--drain-seconds", "0")
    with (
        pytest.raises(openai.APIError, match="stopped"),
        engine.client.completions.create(
            model=engine.model,
            prompt=[5] * 4,
            n=8,
            max_tokens=engine.context_length - 8,
            stream=True,
            extra_body={"ignore_eos": True},
        ) as stream,
    ):
        next(stream)
        engine.process.send_signal(signal.SIGTERM)
        list(stream)
    assert engine.process.wait(timeout=10) == 0
