"""Two and three engines behind a listing: who answers, who answers instead, and that one call is one bill."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import openai
import pytest
from support.market import Market, wait_until
from support.upstream import (
    Asked,
    Reply,
    Upstream,
    add_endpoint,
    change_endpoints,
    events_of,
    holds_of,
    refuses,
    usual,
)
from support.upstream_answers import TEXT

from marketplace.prices.components import Components

# How engines are chosen does not depend on the database.
pytestmark = pytest.mark.parametrize("market", ["sqlite"], indirect=True)
PER_CALL = Components(input_u_per_m=0, output_u_per_m=0, request_u=10_000)
DEARER = Components(input_u_per_m=0, output_u_per_m=0, request_u=30_000)
ASK: list[Any] = [{"role": "user", "content": "hello"}]


class House:
    """A listing with the engines behind it, and an organisation that calls it."""

    def __init__(self, market: Market, engines: list[Upstream], *columns: dict[str, Any]) -> None:
        self.market = market
        self.slug = market.listing(PER_CALL, url=engines[0].url, model="m", context_length=100_000)
        self.ids = change_endpoints(market, self.slug, **columns[0])
        for engine, more in zip(engines[1:], columns[1:], strict=True):
            self.ids.append(add_endpoint(market, self.slug, engine, **more))
        self.org_id, key = market.organisation(voucher_u=10_000_000)
        self.client = openai.OpenAI(base_url=f"{market.url}/v1", api_key=key, max_retries=0)

    def ask(self, **fields: Any) -> Any:
        """Make a call; return the answer's text, whether it is streamed or not."""
        known = {"model": self.slug, "messages": ASK} | fields
        answer = self.client.chat.completions.create(**known)
        if not fields.get("stream"):
            return answer.choices[0].message.content
        return "".join(c.choices[0].delta.content or "" for c in answer if c.choices)

    def routes(self) -> list[tuple[int, str]]:
        """Return (number of the engine, why) of every call, in order."""
        found = [json.loads(event.route) for event in events_of(self.market, self.org_id)]
        return [(self.ids.index(route["endpoint"]), route["why"]) for route in found]

    def nothing_charged(self) -> bool:
        return not events_of(self.market, self.org_id) and not holds_of(self.market, self.org_id)


Build = Callable[..., House]


@pytest.fixture
def house(market: Market, engines: list[Upstream]) -> Any:
    made: list[House] = []

    def build(*columns: dict[str, Any]) -> House:
        made.append(House(market, engines[: len(columns)], *columns))
        return made[-1]

    yield build
    for one in made:
        one.client.close()


def test_weights_share_the_load(house: Build, engines: list[Upstream]) -> None:
    """Conversations have homes, as many as the weight says; one of weight 0 is the home of none."""
    here = house({"weight": 4}, {"weight": 1}, {"weight": 0})
    for number in range(60):
        here.ask(messages=[{"role": "user", "content": f"conversation {number}"}])
    shares = Counter(number for number, _ in here.routes())
    assert sum(shares.values()) == 60
    assert shares[0] > 2 * shares[1] > 0
    assert engines[2].asked == []
    assert {why for _, why in here.routes()} == {"affinity"}


def test_a_conversation_stays_where_it_is_cached(house: Build) -> None:
    here = house({}, {}, {})
    for turns in range(1, 5):
        talk = [{"role": "user", "content": f"turn {n}"} for n in range(turns)]
        here.ask(messages=talk)
    assert len({number for number, _ in here.routes()}) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("first", "why"),
    [
        (refuses(500), "retry:status"),
        (refuses(429), "retry:busy"),
        (refuses(503), "retry:busy"),
        (refuses(504), "retry:timeout"),
        (Reply({}, fails="reset"), "retry:broken"),
        (Reply({}, fails="close"), "retry:broken"),
    ],
    ids=["500", "429", "503", "504", "reset", "close"],
)
def test_another_engine_answers_before_the_first_byte(
    house: Build, engines: list[Upstream], first: Reply, why: str, stream: bool
) -> None:
    here = house({"priority": 0}, {"priority": 1})
    # Always: a kept connection that ends without an answer is asked once more on a new one.
    engines[0].answer = lambda asked: first
    assert here.ask(stream=stream) == TEXT
    assert here.routes() == [(1, f"{why}>only")]
    (event,) = events_of(here.market, here.org_id)
    assert (event.cost_u, event.voucher_u, event.overrun_u) == (10_000, 10_000, 0)
    assert holds_of(here.market, here.org_id) == 0
    assert engines[0].asked[0].document == engines[1].asked[0].document
    # One generation, whoever answers: the engine that failed was asked under the same id.
    assert {a.headers["x-request-id"] for e in engines for a in e.asked} == {event.id}


def test_an_engine_that_is_not_there(house: Build, engines: list[Upstream]) -> None:
    here = house({"priority": 0}, {"priority": 1})
    engines[0].down()
    try:
        assert here.ask() == TEXT
        assert here.routes() == [(1, "retry:connect>only")]
    finally:
        engines[0].start()


def test_at_most_three_are_tried_and_nobody_pays(house: Build, engines: list[Upstream]) -> None:
    here = house({}, {}, {})
    for engine in engines:
        engine.script(refuses(500))
    with pytest.raises(openai.InternalServerError) as error:
        here.ask()
    assert error.value.status_code == 502
    assert [len(engine.asked) for engine in engines] == [1, 1, 1]
    assert here.nothing_charged()


def test_a_refusal_of_the_request_is_final(house: Build, engines: list[Upstream]) -> None:
    here = house({"priority": 0}, {"priority": 1})
    engines[0].script(refuses(400, "top_k is too small", code="invalid_value", param="top_k"))
    with pytest.raises(openai.BadRequestError, match="top_k is too small") as error:
        here.ask()
    assert (error.value.param, error.value.code) == ("top_k", "invalid_value")
    assert engines[1].asked == []
    assert here.nothing_charged()


@pytest.mark.parametrize("fails", ["reset", "close"])
def test_after_the_first_byte_nobody_else_answers(
    house: Build, engines: list[Upstream], fails: Any
) -> None:
    here = house({"priority": 0}, {"priority": 1})

    def breaks(asked: Asked) -> Reply:
        return Reply(events=usual(asked).events, after=3, fails=fails)

    engines[0].script(breaks)
    with pytest.raises(openai.APIError):
        here.ask(stream=True)
    assert engines[1].asked == []
    assert here.nothing_charged()


def test_half_an_answer_that_nobody_has_seen_is_asked_for_again(
    house: Build, engines: list[Upstream]
) -> None:
    here = house({"priority": 0}, {"priority": 1})
    engines[0].script(Reply({}, fails="close", after=1))
    assert here.ask() == TEXT
    assert here.routes() == [(1, "retry:broken>only")]


def test_an_engine_that_fails_often_is_left_alone_and_comes_back(
    house: Build, engines: list[Upstream]
) -> None:
    here = house({"priority": 0}, {"priority": 1})
    engines[0].script(*[refuses(500)] * 3)
    for _ in range(5):
        here.ask()
    whys = here.routes()
    assert whys[:3] == [(1, "retry:status>only")] * 3
    assert {number for number, _ in whys[3:]} == {1}
    assert len(engines[0].asked) == 3

    def recovered() -> bool:
        here.ask()
        return len(engines[0].asked) > 3

    wait_until(recovered)
    assert (0, "probe") in here.routes()
    here.ask()
    assert here.routes()[-1][0] == 0


def test_an_organisation_whose_prompts_break_an_engine_breaks_it_for_nobody_else(
    house: Build, engines: list[Upstream]
) -> None:
    here = house({})
    _, key = here.market.organisation(voucher_u=10_000_000)

    def chokes(asked: Asked) -> Reply:
        poison = "poison" in asked.document["messages"][0]["content"]
        return Reply({}, fails="close") if poison else usual(asked)

    engines[0].answer = chokes
    for number in range(3):
        with pytest.raises(openai.InternalServerError) as broke:
            here.ask(messages=[{"role": "user", "content": f"poison {number}"}])
        assert broke.value.status_code == 502
    with pytest.raises(openai.InternalServerError) as cooling:
        here.ask(messages=[{"role": "user", "content": "poison again"}])
    assert (cooling.value.status_code, cooling.value.code) == (503, "no_healthy_endpoint")
    others = here.client.with_options(api_key=key).chat.completions
    for _ in range(5):
        assert others.create(model=here.slug, messages=ASK).choices[0].message.content == TEXT
    # A second organisation that meets failures shows that it is the engine.
    poison: Any = [{"role": "user", "content": "poison"}]
    engines[0].answer = lambda asked: Reply({}, fails="close")
    with pytest.raises(openai.InternalServerError):
        others.create(model=here.slug, messages=poison)
    _, third = here.market.organisation(voucher_u=10_000_000)
    with pytest.raises(openai.InternalServerError) as away:
        here.client.with_options(api_key=third).chat.completions.create(
            model=here.slug, messages=ASK
        )
    assert away.value.code == "no_healthy_endpoint"
    assert here.nothing_charged()


def test_a_draining_engine_gets_nothing(house: Build, engines: list[Upstream]) -> None:
    here = house({"priority": 0}, {"priority": 1})
    here.ask()
    done = here.market.run("endpoint", "drain", here.ids[0])
    assert done.returncode == 0, done.stderr

    def elsewhere() -> bool:
        here.ask()
        return here.routes()[-1][0] == 1

    wait_until(elsewhere, 5)
    count = len(engines[0].asked)
    for _ in range(5):
        here.ask()
    assert len(engines[0].asked) == count
    change_endpoints(here.market, here.slug, state="draining")

    def refused() -> bool:
        try:
            here.ask()
        except openai.InternalServerError as error:
            return error.code == "no_healthy_endpoint" and error.status_code == 503
        return False

    wait_until(refused, 5)


# What a request may wish.


@pytest.fixture
def providers(house: Build) -> House:
    return house({"provider": "acme/turbo"}, {"provider": "beta"}, {"provider": "gamma"})


@pytest.mark.parametrize(
    ("wish", "number", "why"),
    [
        ({"order": ["beta"]}, 1, "order[0]>only"),
        ({"order": ["nobody", "gamma", "beta"]}, 2, "order[1]>only"),
        ({"only": ["acme"]}, 0, "only"),
        ({"ignore": ["acme", "beta"]}, 2, "only"),
        ({"order": ["gamma"], "allow_fallbacks": False}, 2, "order[0]>only"),
    ],
)
def test_wishes(
    providers: House, engines: list[Upstream], wish: Any, number: int, why: str
) -> None:
    providers.ask(extra_body={"provider": wish})
    assert providers.routes() == [(number, why)]
    assert set(engines[number].asked[0].document) == {
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
    }


def test_without_fallbacks_the_failure_is_told(providers: House, engines: list[Upstream]) -> None:
    engines[1].script(refuses(500))
    with pytest.raises(openai.InternalServerError):
        providers.ask(extra_body={"provider": {"order": ["beta"], "allow_fallbacks": False}})
    engines[1].script(refuses(500))
    assert providers.ask(extra_body={"provider": {"order": ["beta", "gamma"]}}) == TEXT
    assert providers.routes() == [(2, "retry:status>order[1]>only")]


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"oder": ["beta"]}, "provider"),
        ({"order": "beta"}, "provider.order"),
        ({"quantizations": ["fp7"]}, "provider"),
        ({"max_price": {"prompt": -1}}, "provider.max_price"),
        ([], "provider"),
        ({"only": ["nobody"]}, "provider"),
    ],
)
def test_a_wish_that_cannot_be_met_is_named(
    providers: House, engines: list[Upstream], wish: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        providers.ask(extra_body={"provider": wish})
    assert error.value.param == param
    assert error.value.response.json()["error"]["rule"] == "routing.wish"
    assert [engine.asked for engine in engines] == [[], [], []]
    assert providers.nothing_charged()


def test_who_may_not_answer_does_not_see_the_prompt_to_count_it(
    providers: House, engines: list[Upstream]
) -> None:
    long = [{"role": "user", "content": "x" * 100_000}]
    for wish in ({"ignore": ["acme"]}, {"only": ["gamma"]}):
        providers.ask(messages=long, extra_body={"provider": wish})
    assert [engine.counted for engine in engines] == [0, 1, 1]
    with pytest.raises(openai.BadRequestError, match="No endpoint"):
        providers.ask(messages=long, extra_body={"provider": {"zdr": True}})
    assert [engine.counted for engine in engines] == [0, 1, 1]


def test_who_is_ruled_out_counts_no_prompt_either(
    providers: House, engines: list[Upstream]
) -> None:
    def count(wish: dict[str, Any]) -> Any:
        body = {"model": providers.slug, "messages": ASK, "provider": wish}
        return providers.client.post("/messages/count_tokens", body=body, cast_to=object)

    for wish in ({"ignore": ["acme"]}, {"only": ["gamma"]}):
        assert count(wish) == {"input_tokens": engines[0].tokens}
    with pytest.raises(openai.BadRequestError, match="No endpoint"):
        count({"zdr": True})
    assert [engine.counted for engine in engines] == [0, 1, 1]


def test_an_engine_without_tools_gets_no_tools(house: Build, engines: list[Upstream]) -> None:
    here = house({"priority": 0, "supports": '["temperature"]'}, {"priority": 1})
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    here.ask(tools=[tool], max_tokens=5)
    here.ask(temperature=0.5, max_tokens=5)
    strict = {"provider": {"require_parameters": True}}
    here.ask(temperature=0.5, seed=1, extra_body=strict)
    here.ask(temperature=0.5, stream=True, extra_body=strict)
    assert [number for number, _ in here.routes()] == [1, 0, 1, 0]


# Other listings.


def test_another_listing_answers_only_when_asked_for(house: Build, engines: list[Upstream]) -> None:
    here = house({})
    other = here.market.listing(DEARER, url=engines[1].url, model="m", context_length=100_000)
    engines[0].script(refuses(500))
    with pytest.raises(openai.InternalServerError):
        here.ask()
    assert here.nothing_charged()
    engines[0].script(refuses(500))
    assert here.ask(extra_body={"models": [other]}) == TEXT
    (event,) = events_of(here.market, here.org_id)
    assert (event.listing, event.cost_u) == (other, 30_000)
    assert json.loads(event.route)["instead_of"] == here.slug
    assert "models" not in engines[1].asked[0].document
    assert holds_of(here.market, here.org_id) == 0
    here.ask(extra_body={"models": [other]})
    told = events_of(here.market, here.org_id)[-1]
    assert (told.listing, told.cost_u) == (here.slug, 10_000)
    assert "instead_of" not in json.loads(told.route)


@pytest.mark.parametrize("status", [429, 503])
def test_another_listing_answers_for_one_that_is_busy(
    house: Build, engines: list[Upstream], status: int
) -> None:
    here = house({})
    other = here.market.listing(DEARER, url=engines[1].url, model="m", context_length=100_000)
    engines[0].script(refuses(status))
    assert here.ask(extra_body={"models": [other]}) == TEXT
    (event,) = events_of(here.market, here.org_id)
    assert event.listing == other


def test_a_stream_that_has_begun_falls_back_to_nobody(
    house: Build, engines: list[Upstream]
) -> None:
    here = house({})
    other = here.market.listing(DEARER, url=engines[1].url, model="m", context_length=100_000)

    def breaks(asked: Asked) -> Reply:
        return Reply(events=usual(asked).events, after=3, fails="close")

    engines[0].script(breaks)
    with pytest.raises(openai.APIError):
        here.ask(stream=True, extra_body={"models": [other]})
    assert engines[1].asked == []
    assert here.nothing_charged()


def test_every_listing_is_asked_once_and_the_last_ones_error_is_told(
    house: Build, engines: list[Upstream]
) -> None:
    here = house({})
    other = here.market.listing(DEARER, url=engines[1].url, model="m", context_length=100_000)
    engines[0].script(refuses(500))
    engines[1].script(refuses(504))
    with pytest.raises(openai.InternalServerError) as error:
        here.ask(extra_body={"models": [other, here.slug]})
    assert error.value.status_code == 504
    assert [len(engine.asked) for engine in engines] == [1, 1, 0]
    assert here.nothing_charged()
    too_many = [f"a/{n}" for n in range(5)]
    with pytest.raises(openai.BadRequestError) as wrong:
        here.ask(extra_body={"models": too_many})
    assert wrong.value.param == "models"
