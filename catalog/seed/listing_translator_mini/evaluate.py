"""Measure a build on the held-out files; one JSON object per file on stdout.

    python -m catalog.seed.listing_translator_mini.evaluate FOLDER
    python -m catalog.seed.listing_translator_mini.evaluate FOLDER --against OTHER_FOLDER
    python -m catalog.seed.listing_translator_mini.evaluate --endpoint URL --model NAME

A FOLDER holds safetensors weights (needs torch) or a served ONNX variant (needs onnxruntime);
``--against`` adds KL and top-1 agreement to a reference. An endpoint is asked at temperature 0, so
what is measured is the shipped build behind its real engine. ``--require`` makes it exit with 1
when the ordinary file misses the release targets.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from catalog.seed.listing_translator_mini import distance, splits
from catalog.seed.listing_translator_mini.decoding import Row, produced
from catalog.seed.listing_translator_mini.endpoint import Endpoint
from catalog.seed.listing_translator_mini.runners import Runner, open_runner
from catalog.seed.listing_translator_mini.scoring import Score, score

EXACT_SHARE_MIN = 0.98
NUMBERS_SHARE_MIN = 0.998
KEY_VARIABLE = "OPENAI_API_KEY"


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description="Measure a build on the held-out titles.")
    made.add_argument("folder", nargs="?", type=Path, help="weights or served ONNX variant")
    made.add_argument("--against", type=Path, help="reference folder for KL and top-1 agreement")
    made.add_argument("--endpoint", metavar="URL", help="OpenAI base URL, ending in /v1")
    made.add_argument("--model", help="model name at the endpoint")
    made.add_argument("--at-once", type=int, default=8, help="open requests at the endpoint")
    made.add_argument("--limit", type=int, default=splits.ROWS, help="titles of each file")
    made.add_argument("--failures", type=int, default=0, help="show so many wrong titles")
    made.add_argument("--require", action="store_true", help="exit 1 below the release targets")
    return made


def _show(rows: list[Row], answers: list[str], limit: int) -> None:
    wrong = [(*row, got) for row, got in zip(rows, answers, strict=True) if row[1] != got]
    for zh, en, got in wrong[:limit]:
        print(f"  title {zh}\n  want  {en}\n  got   {got}\n", file=sys.stderr)


def _meets_targets(found: Score) -> bool:
    enough_numbers = found.numbers_preserved >= NUMBERS_SHARE_MIN * found.numbers
    return found.exact >= EXACT_SHARE_MIN * found.titles and enough_numbers


def main() -> int:
    """Measure, print, judge."""
    made = parser()
    options = made.parse_args()
    if (options.folder is None) == (options.endpoint is None):
        made.error("name a FOLDER, or --endpoint with --model")
    if options.endpoint and not options.model:
        made.error("--endpoint needs --model")
    runner: Runner | None = open_runner(options.folder) if options.folder else None
    reference = open_runner(options.against) if runner and options.against else None
    met = True
    for path in splits.SEEDS:
        rows = splits.read_rows(path)[: options.limit]
        if runner:
            answers = produced(runner, rows)
        else:
            key = os.environ.get(KEY_VARIABLE, "none")
            asked = Endpoint(options.endpoint, options.model, key)
            answers = asked.produced([zh for zh, _ in rows], options.at_once)
        found = score(zip((en for _, en in rows), answers, strict=True))
        line: dict[str, object] = {"file": path.name, **found.as_row()}
        if runner and reference:
            line |= distance.between(reference, runner, rows)
        print(json.dumps(line), flush=True)
        _show(rows, answers, options.failures)
        if path == splits.HELDOUT:
            met = _meets_targets(found)
    return 0 if met or not options.require else 1


if __name__ == "__main__":
    raise SystemExit(main())
