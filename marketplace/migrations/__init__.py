"""The schema, step by step (Alembic). Tables of every folder, one chain of revisions.

A revision is never edited once it is on main; a change is a new revision.
"""
