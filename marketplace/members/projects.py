"""Projects: what an organisation sorts its keys and its spending by."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from catalog.ground.errors import BadRequest, NotFound
from catalog.ground.ids import new_id
from marketplace.members.tables import Project


def create_project(session: Session, org_id: str, name: str, at_us: int) -> Project:
    """Add a project; creating it twice changes nothing."""
    name = name.strip()
    if not name:
        raise BadRequest("A project needs a name.", rule="project.name", param="name")
    found = session.exec(
        select(Project).where(Project.org_id == org_id, Project.name == name)
    ).first()
    if found is not None:
        return found
    made = Project(id=new_id("prj"), org_id=org_id, name=name, created_at_us=at_us)
    session.add(made)
    session.flush()
    return made


def project(session: Session, org_id: str, name: str) -> Project:
    """Return a project by its name or id; `NotFound` otherwise, other organisations' included."""
    for found in projects(session, org_id):
        if name in (found.name, found.id):
            return found
    raise NotFound(f"There is no project {name!r}.", rule="project.exists")


def projects(session: Session, org_id: str) -> Sequence[Project]:
    """Return an organisation's projects by name."""
    query = select(Project).where(Project.org_id == org_id)
    return session.exec(query.order_by(col(Project.name))).all()
