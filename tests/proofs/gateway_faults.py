"""Break everything around the gateway under load, and prove that the money is right and the door opens again.

    make prove-gateway-faults [FAULTS=500] [DURATION_S=3600] [SEED=1] [DATABASE=sqlite]

On SQLite and on PostgreSQL, real processes: a gateway under a supervisor, callers that never stop, and four
engines that misbehave, two of them behind TLS (with a certificate of a test authority, which the gateway
trusts through SSL_CERT_FILE). Some callers send an Idempotency-Key and repeat the call, whatever became of
it, until they have the answer twice. The faults, drawn at random: SIGKILL of a worker, of the office, of
both; SIGSTOP for longer than a hold lives; a rollout (SIGTERM); a database that restarts, crashes, drops its
connections or is locked; a full disk; a wall clock that jumps both ways; engines that hang, reset, close,
talk nonsense, fail or are gone; clients that leave at every moment, read slowly, or send in drips.

Where the gateway has its compiled part, the proof asks how many calls that has answered and given back, and
demands a share of all: a lane that serves nobody proves nothing.

After every bunch the callers pause, and `support.fault_verdict` says what must hold; the ledger is proven
from its journal; every hold has ended; every worker without an office has ended; descriptors and memory
are counted. After each fault the door has to answer by itself (the supervisor starts an office again that
was killed, and a PostgreSQL that gave up; everything else is the gateway's own business).
DURATION_S bounds each database's run. Writes build/proofs/gateway-faults-<database>.json.
"""

# `support` is importable only once the path is set, below.
# ruff: noqa: E402

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))

from sqlalchemy import text
from sqlmodel import Session
from support.certificates import Authority, can_certify
from support.fault_database import Fragile, fragile
from support.fault_gateway import DRAIN_S, HOLD_TTL_S, SILENCE_S, Gateway, Pulse, wait_for
from support.fault_load import Caller, begun, whole
from support.fault_plans import CLIENT, ENGINE, faulty, healthy
from support.fault_repeats import code
from support.fault_verdict import Verdict, Window, judge

from catalog.ground.clock import now_us
from marketplace.cli.ledger import recost
from marketplace.gateway.express.lane import core_type
from marketplace.ledger.verify import verify
from marketplace.vouchers.proof import prove

HEAVY = {
    "kill_worker": 6, "kill_office": 3, "kill_all": 3, "stop_worker": 2, "stop_office": 2,
    "drain": 3, "engine_down": 3, "engines_down": 1, "database_restart": 4, "database_cut": 3,
    "database_lock": 3, "disk_full": 3, "clock_forward": 2, "clock_back": 2,
}  # fmt: skip
"""Faults around the calls, and how often each is drawn."""
STARTS = frozenset({"kill_worker", "kill_office", "kill_all", "drain"})
LIGHT = (*ENGINE, *CLIENT)
"""Faults of single calls."""
_LIGHT_SHARE = 0.65
BUNCH = 50
_BETWEEN_S = (0.02, 0.2)
"""Faults come so soon after one another; one that is about the surroundings after the last one is over."""
OPEN_S = 15.0
"""How long the door may stay shut after a fault is over."""
START_S = 60.0
"""The same where a process has to be started, on a machine whose cores are all busy."""
BREAKER_S = 62.0
"""The same where engines are out of favour: a circuit breaker that has tripped often waits up to a minute."""
_SWEPT_S = HOLD_TTL_S * 4 / 3 + 1 + 6
_MOST_DESCRIPTORS = 160
_MOST_MEMORY_KIB = 400 * 1024
_MOST_ALIKE = 3
_EXPRESS_SHARE = 0.15
"""Of the complete calls, answered by compiled code at least; a third are behind TLS, a tenth have a key."""
_FEW_CALLS = 500
"""So few prove nothing of that: the lane begins anew with every fault around the calls."""
_JUMPS_S = (40, 3600, 2 * 86_400)
_EVENTS = (
    "SELECT id, outcome, usage_source, input_uncached + cache_read + cache_write, cache_read, "
    "output + reasoning, cost_u, wallet_u, voucher_u, free_u, overrun_u FROM usage_event"
)
_CHARGED = "SELECT count(DISTINCT tx) FROM ledger_transfer WHERE kind = 1 AND code = 4"
_COMPILED = (
    "SELECT count(*) FROM usage_event JOIN ledger_lane ON ledger_lane.id = usage_event.lane "
    "WHERE ledger_lane.name LIKE '%-express'"
)
_EXPRESS = ("tokenmart_gateway_express_total", "tokenmart_gateway_resumed_total")
_LATE = "SELECT count(DISTINCT tx) FROM ledger_transfer WHERE tx LIKE '%~late'"
_BELOW = "SELECT code FROM ledger_account WHERE rule = 1 AND dr_posted + dr_pending > cr_posted"
_PAID = (
    "SELECT (SELECT coalesce(sum(dr_posted), 0) FROM ledger_account WHERE code LIKE 'grant:%'), "
    "(SELECT coalesce(sum(voucher_u + free_u), 0) FROM usage_event)"
)
_EVENT = (
    "id", "outcome", "source", "input", "cached", "output", "cost_u", "wallet_u", "voucher_u",
    "free_u", "overrun_u",
)  # fmt: skip


def deck(chance: random.Random, faults: int) -> list[str]:
    """Return so many faults in random order; each kind is in it when there is room."""
    kinds = [*HEAVY, *LIGHT]
    chance.shuffle(kinds)
    drawn = kinds[:faults]
    while len(drawn) < faults:
        if chance.random() < _LIGHT_SHARE:
            drawn.append(chance.choice(LIGHT))
        else:
            drawn += chance.choices(list(HEAVY), weights=list(HEAVY.values()))
    chance.shuffle(drawn)
    return drawn


@dataclass
class Outcome:
    """What a run did and found; `problems` is empty when all is well."""

    kind: str
    seed: int
    problems: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)
    open_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    pulses: list[list[Pulse]] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    charged: int = 0
    """Calls that were paid beside a reserve, without a hold of their own."""
    express: int = 0
    """Calls that compiled code has answered, and those that it gave back: at least so many, because a killed
    process takes with it what it has counted since it was last asked.
    """
    resumed: int = 0
    compiled: int = 0
    """Bills that compiled code has booked itself."""
    late: int = 0
    ahead: int = 0
    restarts: int = 0
    spent_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Where the time went."""
    tracebacks: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Gauntlet:
    """One gateway, its engines, its callers, and what happens to them."""

    def __init__(self, kind: str, folder: Path, seed: int, *, lines: int = 6, say: Any = print):
        self._chance = random.Random(f"{kind}/{seed}")
        self._folder = folder
        self._lines = lines
        self._say = say
        self._stack = ExitStack()
        self._windows: list[Window] = []
        self._number = self._victim = self._place = 0
        self._said = ""
        self._resting: list[subprocess.Popen[str]] = []
        self._counted = (0, 0)
        self.outcome = Outcome(kind, seed)

    def __enter__(self) -> Gauntlet:
        with ExitStack() as stack:
            self._database: Fragile = stack.enter_context(fragile(self.outcome.kind, self._folder))
            shown, trusted = self._certificate()
            self._engines = self._child(stack, "faulty_engine", f"{self._folder}/engines", *shown)
            ports = json.loads(self._told(self._engines))["ports"]
            self._many = len(ports)
            self.gateway = Gateway(
                self._folder, self._database.url, self._database.workers, trusted
            )
            key, models = self.gateway.set_up(ports[:2], ports[2:])
            stack.callback(self.gateway.stop)
            self.gateway.start()
            self._caller = Caller(self.gateway.port, key, models)
            self._probes = (self._folder / "calls-probe").open("a", buffering=1)
            stack.callback(self._probes.close)
            self._loads = [
                self._child(
                    stack, "fault_load", str(self.gateway.port), key, *models,
                    f"{self.outcome.seed}-{number}", str(self._lines),
                    str(self._folder / f"calls-{number}"),
                )
                for number in range(2)
            ]  # fmt: skip
            self._stack = stack.pop_all()
        return self

    def _certificate(self) -> tuple[list[str], dict[str, str]]:
        """Return what the engines show and what the gateway's environment says of it."""
        if not can_certify():
            self.outcome.left_out.append("TLS (there is no openssl command)")
            return [], {}
        authority = Authority(self._folder / "authority")
        shown = authority.certify("engine")
        return [str(shown.certificate), str(shown.key)], authority.environment

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _child(self, stack: ExitStack, module: str, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", f"support.{module}", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

        def end() -> None:
            child.kill()
            child.communicate()

        stack.callback(end)
        return child

    @staticmethod
    def _tell(child: subprocess.Popen[str], words: str) -> None:
        assert child.stdin is not None
        child.stdin.write(words + "\n")
        child.stdin.flush()

    @staticmethod
    def _told(child: subprocess.Popen[str]) -> str:
        assert child.stdout is not None
        return child.stdout.readline()

    # The run.

    def run(self, faults: list[str], duration_s: float = 1e9) -> Outcome:
        """Suffer the faults, judging after every bunch; returns what was found."""
        began, out = time.monotonic(), self.outcome
        self._opens("start", START_S)
        if out.problems:
            return out  # it has never been there: nothing to prove
        self._let_go()
        for number, kind in enumerate(faults, 1):
            if time.monotonic() - began > duration_s:
                break
            self._suffer(kind)
            if number % BUNCH == 0 or number == len(faults):
                self._rest(number, len(faults))
                if number < len(faults):
                    self._let_go()
        if self._resting:
            self._rest(len(faults), len(faults))
        self._judge_share()
        out.seconds = time.monotonic() - began
        out.restarts = self.gateway.restarts
        out.tracebacks = Counter(self.gateway.tracebacks())
        out.problems += [f"the gateway failed by itself: {x}" for x in self.gateway.own_failures()]
        return out

    def _let_go(self) -> None:
        # Engines that failed often are left alone for up to a minute, and the rest of the faults would
        # meet nobody. At a new address they get a new chance.
        self._place += 1
        self.gateway.move_engines(f"127.0.0.{1 + self._place % 3}")
        for load in self._loads:
            self._tell(load, "go")
        self._resting = self._loads

    def _suffer(self, kind: str) -> None:
        chance, out = self._chance, self.outcome
        if kind in LIGHT:
            for _ in range(chance.randint(1, 3)):
                self._order(kind)
            self._sleep_between()
            out.done[kind] += 1
            return
        if kind == "disk_full" and not self._database.disk.small:
            if kind not in out.left_out:
                out.left_out.append(kind)
            return
        self._count_express()
        # Something is always in an odd state when it happens.
        for _ in range(2):
            self._order(chance.choice(LIGHT))
        self._sleep_between()
        began, self._said = time.monotonic(), ""
        patience_s = START_S if kind in STARTS else OPEN_S
        getattr(self, f"_{kind}")()
        over = time.monotonic()
        self._opens(kind, patience_s)
        ended = time.monotonic()
        self._windows.append(Window(kind, began, ended))
        out.spent_s["faults around the calls"] += over - began
        out.spent_s["until the door was open"] += ended - over
        out.done[kind] += 1
        why = f"; before it said {self._said}" if self._said else ""
        self._say(
            f"    {kind}: {over - began:.1f} s, the door was open {ended - over:.2f} s later{why}"
        )

    def _count_express(self) -> None:
        """Add what compiled code has done since the last time; an office that has ended counts from 0."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.gateway.port}/metrics", timeout=10
            ) as told:
                lines = told.read().decode().splitlines()
        except (OSError, http.client.HTTPException):
            return
        sums = dict(line.split(" ", 1) for line in lines if line.startswith(_EXPRESS))
        express, resumed = (int(float(sums.get(name, "0"))) for name in _EXPRESS)
        before = self._counted
        if express < before[0] or resumed < before[1]:
            before = (0, 0)
        self.outcome.express += express - before[0]
        self.outcome.resumed += resumed - before[1]
        self._counted = express, resumed

    def _judge_share(self) -> None:
        out = self.outcome
        calls = out.verdict.counts["complete"]
        if core_type() is None or os.environ.get("TOKENMART_GATEWAY_EXPRESS") == "off":
            return
        if calls >= _FEW_CALLS and out.express < _EXPRESS_SHARE * calls:
            out.problems.append(f"compiled code has answered {out.express} of {calls} calls")

    def _sleep_between(self) -> None:
        seconds = self._chance.uniform(*_BETWEEN_S)
        time.sleep(seconds)
        self.outcome.spent_s["between faults"] += seconds

    def _order(self, kind: str) -> None:
        self._number += 1
        call = faulty(self._chance, f"bad-{self._number}", kind)
        self._tell(self._chance.choice(self._loads), json.dumps(call))

    def _opens(self, kind: str, patience_s: float) -> None:
        """Note how long it takes until a call is answered again."""
        whole = self._all_there if kind in STARTS else (lambda: True)
        took = wait_for(lambda: whole() and self._probe(), patience_s, 0.05)
        if took is None and self._said == "no_healthy_endpoint":
            more = wait_for(lambda: whole() and self._probe(), BREAKER_S - patience_s, 0.05)
            took = None if more is None else patience_s + more
        if took is None:
            self.outcome.problems.append(
                f"after {kind} the door stayed shut for {patience_s} s: {self._said}"
            )
        else:
            self.outcome.open_s[kind].append(took)

    def _all_there(self) -> bool:
        """Return whether every worker runs, and none of them is the one that was killed."""
        there = self.gateway.children()
        return len(there) == self.gateway.workers and self._victim not in there

    def _probe(self) -> bool:
        """Return whether healthy calls are answered, on a plain connection and behind TLS."""
        return all(self._probe_one(secure) for secure in (False, True))

    def _probe_one(self, secure: bool) -> bool:
        """Make a call; a client like any other, so what it saw is judged with the rest."""
        self._number += 1
        call = healthy(self._chance, f"probe-{self._number}")
        call |= {"stream": False, "secure": secure, "key": ""}
        seen = begun(call)
        request = self._caller.request(call)
        head, body = request.split(b"\r\n\r\n", 1)
        headers = dict(row.split(": ", 1) for row in head.decode().split("\r\n")[1:])
        line = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=10)
        try:
            line.connect()
        except OSError as error:
            self._said = str(error)
            return False
        try:
            line.request("POST", "/v1/chat/completions", body, headers)
            answer = line.getresponse()
            seen["status"] = answer.status
            told = {name.lower(): value for name, value in answer.getheaders()}
            seen["generation"] = told.get("x-tm-generation", "")
            whole(seen, told, answer.read())
        except TimeoutError:
            seen["how"] = "left"
        except (OSError, http.client.HTTPException):
            seen["how"] = "broken"
        finally:
            seen["ended"] = time.monotonic()
            line.close()
        if seen["how"] != "complete":
            self._said = code(seen) or seen["how"]
        self._probes.write(json.dumps(seen) + "\n")
        return bool(seen["how"] == "complete")

    # The faults. Each returns when the harm is over.

    def _a_worker(self) -> int:
        return self._chance.choice(self.gateway.children() or [0])

    def _kill_worker(self) -> None:
        self._victim = self._a_worker()
        self.gateway.signal(self._victim, signal.SIGKILL)

    def _kill_office(self) -> None:
        office = self.gateway.office
        self.gateway.signal(office, signal.SIGKILL)
        self._replaced(office)

    def _kill_all(self) -> None:
        office = self.gateway.office
        self.gateway.kill_group()
        self._replaced(office)

    def _replaced(self, office: int) -> None:
        """Return when the supervisor has noticed: from then on the gateway is on its own."""
        wait_for(lambda: self.gateway.office != office, DRAIN_S + 15)

    def _stop_worker(self) -> None:
        self._stand_still(self._a_worker(), HOLD_TTL_S + self._chance.uniform(1.5, 3))

    def _stop_office(self) -> None:
        self._stand_still(self.gateway.office, self._chance.uniform(0.5, 3))

    def _stand_still(self, pid: int, seconds: float) -> None:
        self.gateway.signal(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self.gateway.signal(pid, signal.SIGCONT)

    def _drain(self) -> None:
        office = self.gateway.office
        self.gateway.terminate_office()
        self._replaced(office)

    def _engine_down(self) -> None:
        seconds = self._chance.uniform(0.5, 2)
        self._tell(self._engines, f"down {self._chance.randrange(self._many)} {seconds}")
        time.sleep(seconds)

    def _engines_down(self) -> None:
        seconds = self._chance.uniform(0.5, 2)
        for number in range(self._many):
            self._tell(self._engines, f"down {number} {seconds}")
        time.sleep(seconds)

    def _database_restart(self) -> None:
        self._database.restart(self._chance.choice(("fast", "immediate")))

    def _database_cut(self) -> None:
        self._database.cut()

    def _database_lock(self) -> None:
        self._database.lock(self._chance.uniform(0.5, 6))

    def _disk_full(self) -> None:
        for _ in range(self._chance.randint(5, 20)):
            self._database.disk.fill()
            time.sleep(0.1)
        self._database.disk.free()
        self._database.mend()

    def _clock_forward(self) -> None:
        self._jump(1)

    def _clock_back(self) -> None:
        self._jump(-1)

    def _jump(self, sign: int) -> None:
        self.gateway.clock.set(sign * self._chance.choice(_JUMPS_S))
        try:
            self._opens("clock_jumped", OPEN_S)
            time.sleep(self._chance.uniform(0, 1))
        finally:
            self.gateway.clock.set(0)

    # The rest between two bunches, and what must hold then.

    def _rest(self, number: int, faults: int) -> None:
        began, out = time.monotonic(), self.outcome
        for load in self._resting:
            self._tell(load, "pause")
        for load in self._resting:
            if self._told(load).strip() != "idle":
                raise RuntimeError("a load process has ended")
        self._resting = []
        idle = time.monotonic()
        self._must(f"holds were left after {_SWEPT_S:.0f} s", _SWEPT_S, self._holds)
        self._must("engines still work for nobody", SILENCE_S + 4.0, self._working)
        self._must("workers outlived their office", DRAIN_S + 12.0, self.gateway.orphans)
        swept = time.monotonic()
        self._judge()
        out.spent_s["rest: until no call ran"] += idle - began
        out.spent_s["rest: until every hold had ended"] += swept - idle
        out.spent_s["rest: judging"] += time.monotonic() - swept
        self._count_express()
        pulses = self.gateway.pulses()
        out.pulses.append(pulses)
        for pulse in pulses:
            if pulse.descriptors > _MOST_DESCRIPTORS or pulse.memory_kib > _MOST_MEMORY_KIB:
                out.problems.append(f"a process has grown: {pulse}")
        problems = len(out.problems) + len(out.verdict.problems)
        self._say(
            f"{out.kind}: {number}/{faults} faults, {sum(out.verdict.counts[h] for h in _HOWS)} "
            f"calls, {out.verdict.counts['event ok']} settled, {problems} problems; "
            + ", ".join(f"{p.descriptors} fds {p.memory_kib >> 10} MiB" for p in pulses)
        )

    def _must(self, words: str, within_s: float, left: Callable[[], list[Any]]) -> None:
        if wait_for(lambda: not left(), within_s, 0.2) is None:
            self.outcome.problems.append(f"{words}: {str(left())[:600]}")

    def _holds(self) -> list[Any]:
        """Return the holds that should have ended.

        Not among them, but counted: those made while the clock was ahead, by a worker that died before it
        could renew them. They end when the clock gets there.
        """
        with self.gateway.database() as database, database.reading() as session:
            rows = session.execute(
                text("SELECT tx, held_at_us, expires_at_us FROM ledger_hold")
            ).all()
        now = now_us()
        self.outcome.ahead = sum(row.held_at_us > now for row in rows)
        return [row for row in rows if row.held_at_us <= now]

    def _working(self) -> list[Any]:
        self._tell(self._engines, "open")
        found: list[Any] = json.loads(self._told(self._engines))
        return found

    def _judge(self) -> None:
        calls = [row for path in self._folder.glob("calls-*") for row in _rows(path)]
        attempts = _rows(self._folder / "engines")
        out = self.outcome
        with self.gateway.database() as database:
            report = verify(database, recost=recost, checks=[lambda c: prove(Session(bind=c))])
            with database.reading() as session:
                rows = session.execute(text(_EVENTS)).all()
                out.charged = int(session.execute(text(_CHARGED)).scalar_one())
                out.compiled = int(session.execute(text(_COMPILED)).scalar_one())
                out.late = int(session.execute(text(_LATE)).scalar_one())
                below = [f"{row[0]} is below zero" for row in session.execute(text(_BELOW))]
                paid, billed = session.execute(text(_PAID)).one()
        events = [dict(zip(_EVENT, row, strict=True)) for row in rows]
        if paid != billed:
            below.append(f"vouchers gave {paid}, the bills say {billed}")
        out.problems += [p for p in [*report.problems, *below] if p not in out.problems]
        out.verdict = judge(calls, attempts, events, self._windows)


_HOWS = ("complete", "error", "broken", "left", "timeout")


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open() as lines:
        return [json.loads(line) for line in lines]


def tell(out: Outcome) -> None:
    """Print what a run did, and keep it as JSON."""
    verdict = out.verdict
    print(f"{out.kind}, seed {out.seed}: {sum(out.done.values())} faults in {out.seconds:.0f} s")
    for name, times in sorted(out.done.items()):
        waits = out.open_s.get(name)
        opened = f", door open after {max(waits):.2f} s at most" if waits else ""
        print(f"    {times:5} {name}{opened}")
    for what, seconds in sorted(out.spent_s.items()):
        print(f"    {seconds:7.1f} s {what}")
    for what, times in sorted(verdict.counts.items()):
        print(f"    {times:7} {what}")
    for what, times in verdict.unknowable.items():
        print(f"    {times:7} unknowable: {what}")
    aborts = sorted(verdict.abort_s)
    if aborts:
        print(
            f"    engines were stopped {len(aborts)} times: {aborts[len(aborts) // 2] * 1e3:.0f} ms "
            f"after the client left (median), {aborts[-1] * 1e3:.0f} ms at most"
        )
    if verdict.unseen:
        print(f"    left callers paid for {max(verdict.unseen)} tokens more than they saw at most")
    print(f"    {out.charged} calls charged beside a reserve")
    print(
        f"    {out.express} calls answered by compiled code, {out.resumed} begun and given back by it"
    )
    print(f"    {out.compiled} bills booked by compiled code")
    print(f"    {out.late} late settlements, {out.restarts} restarts by the supervisor")
    if out.ahead:
        print(
            f"    {out.ahead} holds of dead workers wait for the clock: it was ahead when they were made"
        )
    for words, times in out.tracebacks.most_common(12):
        print(f"    {times:5} x in the log: {words}")
    for kind in out.left_out:
        print(f"    NOT PROVEN: {kind} cannot be made here")
    alike: Counter[str] = Counter()
    for words in out.problems + verdict.problems:
        alike[words.partition(":")[0]] += 1
        if alike[words.partition(":")[0]] <= _MOST_ALIKE:
            print(f"    OFF: {words}")
    for what, times in alike.items():
        print(f"    OFF, {times} times: {what}")
    kept = ROOT / "build" / "proofs"
    kept.mkdir(parents=True, exist_ok=True)
    document = vars(out) | {"verdict": vars(verdict)}
    path = kept / f"gateway-faults-{out.kind}.json"
    path.write_text(json.dumps(document, indent=1, default=list) + "\n")


def main() -> None:
    """Run on both databases; exit 1 when anything is off or a kind of fault could not be made."""
    faults = int(os.environ.get("FAULTS") or 500)
    duration_s = float(os.environ.get("DURATION_S") or 3600)
    seed = int(os.environ.get("SEED") or time.time_ns() % 10**6)
    kinds = (os.environ.get("DATABASE") or "sqlite,postgresql").split(",")
    print(f"seed {seed}, {faults} faults on each of {', '.join(kinds)}", flush=True)
    failed = False
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # mounts and processes are cleared away
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="tm-faults-", dir="/tmp") as name:
            folder = Path(name)
            folder.chmod(0o755)
            drawn = deck(random.Random(f"{kind}/{seed}/deck"), faults)
            with Gauntlet(kind, folder, seed, say=lambda words: print(words, flush=True)) as run:
                try:
                    out = run.run(drawn, duration_s)
                finally:
                    kept = ROOT / "build" / "proofs"
                    kept.mkdir(parents=True, exist_ok=True)
                    log = kept / f"gateway-faults-{kind}.log"
                    log.write_bytes(run.gateway.log.read_bytes())
        tell(out)
        failed = failed or bool(out.problems or out.verdict.problems or out.left_out)
    sys.exit(failed)


if __name__ == "__main__":
    main()
