"""Keep what a call was answered for as long as its caller may ask again: remember, recall, sweep.

The caller of these functions commits. Only answers of calls that were served are worth keeping: one that
was refused has cost nothing and may simply be tried again.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlmodel import Session, select

from catalog.ground.clock import DAY_US
from marketplace.gateway.idempotency import Answer, expect_same
from marketplace.gateway.tables_answers import GatewayAnswer
from marketplace.ledger.tables import UsageEvent

KEPT_US = DAY_US
_SWEPT = 500
_REMEMBER = text(
    "INSERT INTO gateway_answer (id, org_id, request_sha256, status, content_type, body,"
    " created_at_us, expires_at_us) VALUES (:id, :org_id, :request_sha256, :status, :content_type,"
    " :body, :created_at_us, :expires_at_us) ON CONFLICT (id) DO NOTHING RETURNING id"
)
_FORGET = text("DELETE FROM gateway_answer WHERE id = :id")
_SWEEP = text(
    "DELETE FROM gateway_answer WHERE id IN (SELECT id FROM gateway_answer"
    " WHERE expires_at_us <= :at_us ORDER BY expires_at_us LIMIT :most) RETURNING id"
)


def remember(
    session: Session, generation: str, org_id: str, answer: Answer, kept_us: int = KEPT_US
) -> bool:
    """Keep the answer of a generation for `kept_us`; False when one is kept already, which stays."""
    values = {
        "id": generation,
        "org_id": org_id,
        "request_sha256": answer.request_sha256,
        "status": answer.status,
        "content_type": answer.content_type,
        "body": answer.body,
        "created_at_us": answer.created_at_us,
        "expires_at_us": answer.created_at_us + kept_us,
    }
    return session.execute(_REMEMBER, values).first() is not None


def recall(
    session: Session, generation: str, org_id: str, request_sha256: str, at_us: int
) -> Answer | None:
    """Return the answer to this request, None when none is kept at `at_us`.

    `Unprocessable` when the answer that is kept belongs to another request. What an earlier try has left is
    not the answer of the try that was settled, whose own could perhaps not be kept.
    """
    query = select(GatewayAnswer).where(
        GatewayAnswer.id == generation,
        GatewayAnswer.org_id == org_id,
        GatewayAnswer.expires_at_us > at_us,
    )
    row = session.exec(query).first()
    if row is None:
        return None
    expect_same(row.request_sha256, request_sha256)
    event = session.get(UsageEvent, generation)
    if event and not event.started_at_us <= row.created_at_us <= event.ended_at_us:
        return None
    return Answer(
        row.request_sha256, row.status, row.content_type, bytes(row.body), row.created_at_us
    )


def forget(session: Session, generation: str) -> None:
    """Drop what is kept of a generation."""
    session.execute(_FORGET, {"id": generation})


def sweep(session: Session, at_us: int, most: int = _SWEPT) -> int:
    """Delete up to `most` answers that are due; return how many. Repeat until it returns 0."""
    return len(session.execute(_SWEEP, {"at_us": at_us, "most": most}).all())
