"""How the marketplace API is entered: who calls, may it, and has this write been answered before.

Every write carries an `Idempotency-Key`. Its answer is kept with the hash of the request, in the same
transaction as what it did: the same request gets the same answer, another request under the key is
refused, and two at once wait for each other. Lists are paged by the id of the last row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Header, Query, Request
from sqlalchemy import text
from sqlmodel import Session, SQLModel, col, select

from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.ground.errors import BadRequest, Conflict
from catalog.ground.identity import Caller, Identify
from marketplace.members.four_eyes import Act, allow
from marketplace.members.identify import identify_by
from marketplace.members.tables import Idempotency

Authorization = Annotated[str | None, Header()]
After = Annotated[str, Query(description="the `next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Work = Callable[[Session, Caller, int], Any]

_KEY_LENGTH = 200
_JSON_COLUMNS = frozenset({"facts", "evidence", "body", "rules"})


class Letter(NamedTuple):
    """What every write comes with: its method and path, who sends it, and its `Idempotency-Key`."""

    method: str
    path: str
    authorization: str | None
    key: str | None


def letter(
    request: Request,
    authorization: Authorization = None,
    key: Annotated[str | None, Header(alias="Idempotency-Key")] = None,
) -> Letter:
    """Return what FastAPI found of it in a request."""
    return Letter(request.method, request.url.path, authorization, key)


Signed = Annotated[Letter, Depends(letter)]


class Door:
    """The database behind the API, and who may do what with it."""

    def __init__(
        self, database: Database, identify: Identify | None = None, clock: Clock = now_us
    ) -> None:
        self.database = database
        self.clock = clock
        self._identify = identify or identify_by(database, clock)

    @contextmanager
    def reading(self, authorization: str | None, act: Act, org: str = "") -> Iterator[Session]:
        """Yield a session that reads, once the caller may do this (for `org`)."""
        with self.visiting(authorization, act, org) as (session, _):
            yield session

    @contextmanager
    def visiting(
        self, authorization: str | None, act: Act, org: str = ""
    ) -> Iterator[tuple[Session, Caller]]:
        """Yield a session that reads and who is calling, once the caller may do this (for `org`)."""
        caller = allow(self._identify(authorization), act, org)
        with self.database.reading() as session:
            yield session, caller

    def write(
        self,
        signed: Letter,
        act: Act,
        body: Mapping[str, Any],
        work: Work,
        org: str = "",
    ) -> Any:
        """Do the work once for the caller's key and return its answer (JSON types)."""
        caller = allow(self._identify(signed.authorization), act, org)
        key = signed.key
        if not key or len(key) > _KEY_LENGTH:
            raise BadRequest(
                "A write carries an Idempotency-Key of 1 to 200 characters.",
                rule="http.idempotency_key",
                param="Idempotency-Key",
                remedy="Make a new one for each write, and repeat it when you retry.",
            )
        asked = json.dumps([signed.method, signed.path, dict(body)], sort_keys=True)
        sha256 = hashlib.sha256(asked.encode()).hexdigest()
        who = f"{caller.name}@{','.join(sorted(caller.orgs))}"
        with self.database.session() as session:
            at_us = self.clock()
            known = _known(session, who, key, sha256, at_us)
            if known is not None:
                return known
            answer = work(session, caller, at_us)
            row = session.get_one(Idempotency, (who, key))
            row.answer = json.dumps(answer, ensure_ascii=False)
            session.add(row)
            return answer


def _known(session: Session, who: str, key: str, sha256: str, at_us: int) -> Any:
    """Return the kept answer, or None after taking the key: whoever comes second waits here."""
    taken = session.execute(
        text(
            "INSERT INTO idempotency_key (caller, key, request_sha256, answer, at_us)"
            " VALUES (:who, :key, :sha256, '', :at_us) ON CONFLICT (caller, key) DO NOTHING"
        ),
        {"who": who, "key": key, "sha256": sha256, "at_us": at_us},
    )
    if getattr(taken, "rowcount", 0) == 1:
        return None
    row = session.get_one(Idempotency, (who, key))
    if row.request_sha256 != sha256:
        raise Conflict(
            "This Idempotency-Key was used for another request.",
            rule="http.idempotency_key",
            remedy="Make a new key for each write.",
        )
    return json.loads(row.answer)


def told(row: SQLModel) -> dict[str, Any]:
    """Return a row as an answer: its columns, documents as documents."""
    values = row.model_dump()
    return {
        name: json.loads(value) if name in _JSON_COLUMNS and isinstance(value, str) else value
        for name, value in values.items()
    }


def page(
    session: Session,
    table: Any,
    after: str,
    limit: int,
    *conditions: Any,
    show: Callable[[Any], dict[str, Any]] = told,
) -> dict[str, Any]:
    """Return `{"data": rows by id, "next": cursor or None}` of a table with a text id."""
    query = select(table).where(col(table.id) > after, *conditions)
    rows = session.exec(query.order_by(col(table.id)).limit(limit + 1)).all()
    more = len(rows) > limit
    return {
        "data": [show(row) for row in rows[:limit]],
        "next": rows[limit - 1].id if more else None,
    }
