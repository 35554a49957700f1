"""Run a variant or an agent behind an OpenAI-compatible HTTP endpoint.

Lives here: engines, launch plans, the fleet that starts and watches them, and routing.

May import: `catalog`. It knows no money and no database (a contract in `pyproject.toml` holds that),
so that an edge device can run this folder alone; what it needs from above it declares as a small
interface and is handed.
"""
