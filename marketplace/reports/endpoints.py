"""The API of reports under `/api`: the claim pack, for the operator and for the funder that pays it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter, Response

from catalog.ground.clock import Clock, now_us
from catalog.ground.database import Database
from catalog.ground.identity import Identify
from marketplace.members.door import Authorization, Door
from marketplace.members.four_eyes import Act
from marketplace.reports.claim_pack import claim_pack
from marketplace.reports.sheets import Report, workbook
from marketplace.vouchers.funders import funded

_FORMS: dict[str, tuple[str, Callable[[Report], bytes]]] = {
    "json": ("application/json", Report.json),
    "csv": ("text/csv; charset=utf-8", lambda report: report.sheets[0].csv()),
    "xlsx": ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", workbook),
}


def reports_router(
    database: Database, identify: Identify | None = None, clock: Clock = now_us
) -> APIRouter:
    """Return the routes; callers are identified by their keys."""
    door = Door(database, identify, clock)
    router = APIRouter(prefix="/api", tags=["reports"])

    @router.get("/claims/{claim_id}/pack")
    def pack(
        claim_id: str,
        form: Literal["json", "csv", "xlsx"] = "json",
        authorization: Authorization = None,
    ) -> Response:
        """Download a claim's pack; as CSV its lines alone."""
        media_type, render = _FORMS[form]
        with funded(door, authorization, Act.READ_CLAIMS) as (session, scope):
            row = scope.claim(session, claim_id)
            content = render(claim_pack(session, row.id, door.clock()))
        name = f'attachment; filename="claim-{row.id}.{form}"'
        return Response(content, media_type=media_type, headers={"Content-Disposition": name})

    return router
