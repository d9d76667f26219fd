"""What every client is put through, and what of it each can do.

A scenario is a function of a `Stage`: one client, and a server that it shares with the others
that play the same scenario at the same time. It says what `passed`; what it does not get to has
failed, with the reason.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from clients.endpoints import Endpoint
from clients.neutral import Neutral
from clients.programs import Client, Running, wait_for
from wire import batch

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
YES = "yes"
RECORDS = [
    {"partition": 0, "key": "k", "value": "plain"},
    {"partition": 0, "key": None, "value": "without a key"},
    {"partition": 0, "key": "k", "value": None},
    {"partition": 0, "key": "k", "value": "h", "headers": [["a", "1"], ["b", ""], ["a", "2"]]},
    {"partition": 1, "key": "k", "value": "elsewhere"},
]
MEMBERS = 3
PATIENCE_S = 60.0
# So many records of a partition are on their way from kcat's output to ours.
MOST_UNTOLD = 10
PARTITIONS = 6
# Of members that are killed. Kafka takes no shorter one.
SESSION_TIMEOUT_MS = 6_000
# Of all others: longer than anybody waits, so that nobody is seen to go because it is over.
LONG_SESSION_MS = 240_000
CONFIG = {"retention.ms": "3600000", "max.message.bytes": "65536"}


class Unsupported(Exception):
    """The client has no such thing."""


class Shared:
    """The server of a scenario, and the one thing that its clients do together: its death."""

    def __init__(self, server: Endpoint, players: int) -> None:
        self.server = server
        self._players = players
        self._ready = 0
        self._restarts = 0
        self._changed = threading.Condition()

    def restart(self) -> None:
        """Kill the server and start it again, once everybody wants to; then go on."""
        with self._changed:
            self._ready += 1
            number = self._restarts
            self._restart_if_ready()
            while self._restarts == number:
                self._changed.wait()

    def leave(self) -> None:
        """One player less to wait for."""
        with self._changed:
            self._players -= 1
            self._restart_if_ready()

    def _restart_if_ready(self) -> None:
        if 0 < self._ready >= self._players:
            self._ready = 0
            try:
                self.server.die_unheard()
                time.sleep(0.3)
                self.server.start()
            finally:
                self._restarts += 1
                self._changed.notify_all()


@dataclass(slots=True)
class Stage:
    """One client in one scenario."""

    client: Client
    shared: Shared
    features: Sequence[str]
    name: str
    # Of the clients that have said theirs.
    versions: dict[str, str]
    outcome: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.shared.server.address

    def topic(self, what: str) -> str:
        """A name that no other client's stage uses."""
        letters = "".join(each if each.isalnum() else "-" for each in self.client.name)
        return f"{letters}-{self.name}-{what}"

    def start(self) -> Running:
        return Running(self.client, self.address)

    def passed(self, feature: str) -> None:
        self.outcome.setdefault(feature, YES)

    def unsupported(self, feature: str, why: str) -> None:
        self.outcome[feature] = why

    def ask(self, feature: str, program: Running, do: str, **arguments: Any) -> Any:
        """The answer to a command, None if the client cannot do it. Raises if it failed."""
        return self.checked(feature, program.ask(do, **arguments))

    def checked(self, feature: str, answer: dict[str, Any]) -> Any:
        if "unsupported" in answer:
            self.unsupported(feature, answer["unsupported"])
            return None
        if "error" in answer:
            raise RuntimeError(f"{feature}: {answer['error']}")
        return answer


@dataclass(frozen=True, slots=True)
class Scenario:
    """``title``: the heading of its features in the docs."""

    name: str
    title: str
    features: tuple[str, ...]
    play: Callable[[Stage], None]


def play(
    scenario: Scenario,
    clients: Sequence[Client],
    server: Endpoint,
    versions: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Have several clients play a scenario at once, on one server.

    What they say of their versions is added to `versions`.

    Returns for each client what came of each feature: "yes", why it is not there, or
    "failed: …".
    """
    shared = Shared(server, len(clients))
    versions = {} if versions is None else versions
    stages = [
        Stage(client, shared, scenario.features, f"{scenario.name}-{time.monotonic_ns()}", versions)
        for client in clients
    ]

    def run(stage: Stage) -> None:
        reason = "it did not get that far"
        try:
            scenario.play(stage)
        except Exception as error:  # noqa: BLE001 - an outcome
            reason = f"{error or type(error).__name__}"
            if not isinstance(error, RuntimeError | TimeoutError | AssertionError):
                reason = traceback.format_exc()
        finally:
            shared.leave()
        for feature in stage.features:
            stage.outcome.setdefault(feature, f"failed: {reason}")

    threads = [threading.Thread(target=run, args=(stage,)) for stage in stages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {stage.client.name: dict(stage.outcome) for stage in stages}


def expect(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: {found!r:.600} is not {expected!r:.600}")


# -- producing and consuming ---------------------------------------------------------------

PRODUCE, HEADERS = "produce with keys and null values", "headers"
FROM_START, FROM_END = "consume from the start", "consume from the end"
FROM_TIME = "consume from a time"


def produce_and_consume(stage: Stage) -> None:
    with Neutral(stage.address) as neutral, stage.start() as program:
        stage.versions[stage.client.name] = program.ask("about")["version"]
        _produce(stage, program, neutral)
        _consume(stage, program, neutral)
        for number, codec in enumerate(CODECS):
            _codec(stage, program, neutral, number, codec)


def _produce(stage: Stage, program: Running, neutral: Neutral) -> None:
    topic = stage.topic("produce")
    neutral.create(topic, 2)
    before_ms = time.time() * 1000 - 2
    answer = stage.ask(PRODUCE, program, "produce", topic=topic, records=RECORDS)
    if answer["offsets"] is not None:
        expect(answer["offsets"], [0, 1, 2, 3, 0], "offsets")
    values = [each["value"] for each in RECORDS]
    expect(neutral.read(topic), list(enumerate(values[:4])), "partition 0")
    expect(neutral.read(topic, 1), [(0, values[4])], "partition 1")
    answer = stage.ask(PRODUCE, program, "consume", topic=topic, count=4)
    records = answer["records"]
    expect([each["key"] for each in records], ["k", None, "k", "k"], "keys")
    expect([each["value"] for each in records], values[:4], "values")
    if not all(before_ms <= each["timestamp"] <= time.time() * 1000 + 2 for each in records):
        raise AssertionError(f"timestamps that are not now: {records}")
    stage.passed(PRODUCE)
    sent = RECORDS[3]["headers"]
    # kafkajs has them in an object: those of one name keep their order, and others do not.
    by_name = sorted(sent, key=itemgetter(0))
    logged = sorted(neutral.headers(topic, 3), key=itemgetter(0))
    expect(logged, by_name, "headers in the log")
    # kafka-go gives what is empty as null.
    found = [[name, value or ""] for name, value in records[3]["headers"]]
    expect(sorted(found, key=itemgetter(0)), by_name, "headers")
    stage.passed(HEADERS)


def _consume(stage: Stage, program: Running, neutral: Neutral) -> None:
    topic = stage.topic("consume")
    neutral.create(topic)
    begin_ms = int(time.time() * 1000) - 3_600_000
    for number in range(10):
        records = batch(f"{number}".encode(), timestamp=begin_ms + 1000 * number)
        neutral.produce_batch(topic, records)

    def values(answer: Any) -> list[tuple[int, str, int]]:
        return [(each["offset"], each["value"], each["timestamp"]) for each in answer["records"]]

    expected = [(number, f"{number}", begin_ms + 1000 * number) for number in range(10)]
    answer = stage.ask(FROM_START, program, "consume", topic=topic, count=10)
    expect(values(answer), expected, "from the start")
    stage.passed(FROM_START)
    later = begin_ms + 6_500
    answer = stage.ask(FROM_TIME, program, "consume", topic=topic, begin=later, count=3)
    if answer is not None:
        expect(values(answer), expected[7:], "from a time")
        stage.passed(FROM_TIME)
    seen = len(program.events_of("ready"))
    program.begin("consume", topic=topic, begin="end", count=1)
    wait_for("ready", [program], lambda: len(program.events_of("ready")) > seen)
    # Some clients look for the end only with their first request, so one record may be missed.
    done = threading.Event()

    def produce() -> None:
        number = 10
        with Neutral(stage.address) as own:
            while not done.is_set():
                own.produce(topic, [f"{number}"])
                number += 1
                done.wait(0.3)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        answer = stage.checked(FROM_END, program.answer())
    finally:
        done.set()
        producer.join()
    if answer is not None:
        [first] = answer["records"][:1]
        if first["offset"] < 10 or first["value"] != f"{first['offset']}":
            raise AssertionError(f"from the end: {first}")
        stage.passed(FROM_END)


def _codec(stage: Stage, program: Running, neutral: Neutral, number: int, codec: str) -> None:
    if codec == "none":
        return
    topic = stage.topic(codec)
    neutral.create(topic)
    values = [f"{number} " * 20 for number in range(50)]
    records = [{"partition": 0, "key": "k", "value": value} for value in values]
    many = stage.client.name != "kcat"  # which makes a batch of each
    sent = records if many else [{**records[0], "value": "".join(values)}]
    try:
        answer = stage.ask(codec, program, "produce", topic=topic, records=sent, codec=codec)
        if answer is None:
            return
        expect(neutral.codec_of(topic), number, "the codec of the batch in the log")
        expected = [each["value"] for each in sent]
        expect([value for _, value in neutral.read(topic)], expected, "read by seawall's code")
        answer = stage.ask(codec, program, "consume", topic=topic, count=len(sent))
        expect([each["value"] for each in answer["records"]], expected, "read by the client")
    except (RuntimeError, AssertionError, TimeoutError) as error:
        stage.outcome[codec] = f"failed: {error}"
    else:
        stage.passed(codec)


# -- groups --------------------------------------------------------------------------------

JOIN, LEAVE, KILL = "three members share a topic", "a member leaves", "a member is killed"


class Feeder:
    """Puts numbers into every partition, all the time, until it is told to stop."""

    def __init__(self, address: str, topic: str) -> None:
        self.values: list[str] = []
        self._neutral = Neutral(address)
        self._topic = topic
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over.wait(0.05):
                number = len(self.values)
                self._neutral.produce(self._topic, [f"{number}"], number % PARTITIONS)
                self.values.append(f"{number}")
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            self._failure = error

    def stop(self) -> None:
        """Safe to call twice."""
        self._over.set()
        self._thread.join()
        self._neutral.close()
        if self._failure:
            raise self._failure


def share_in_a_group(stage: Stage) -> None:
    topic = group = stage.topic("group")
    with Neutral(stage.address) as neutral:
        neutral.create(topic, PARTITIONS)
    feeder = Feeder(stage.address, topic)
    members = [stage.start() for _ in range(MEMBERS)]
    try:
        _share(stage, topic, group, members, feeder)
    finally:
        for member in members:
            member.__exit__(TimeoutError, TimeoutError(), None)
        feeder.stop()


def _share(stage: Stage, topic: str, group: str, members: list[Running], feeder: Feeder) -> None:
    everything = set(range(PARTITIONS))

    def is_shared(among: list[Running]) -> bool:
        owned = [each.owned() for each in among]
        return (
            all(owned) and set().union(*owned) == everything and sum(map(len, owned)) == PARTITIONS
        )

    leaving, killed, last = members
    staying = [killed, last]
    for member in members:
        session_ms = SESSION_TIMEOUT_MS if member is killed else LONG_SESSION_MS
        member.begin("member", topic=topic, group=group, session_timeout_ms=session_ms)
    wait_for("shared by three", members, lambda: is_shared(members))
    _all_get_records(members)
    stage.passed(JOIN)

    leaving_owned = leaving.owned()
    leaving.begin("leave")
    if stage.checked(LEAVE, leaving.answer()) is not None:
        wait_for("shared by two", staying, lambda: is_shared(staying))
        _all_get_records(staying)
        stage.passed(LEAVE)
    _describe(stage, leaving, group, len(staying))

    killed.kill()
    wait_for("taken over by the last one", [last], lambda: is_shared([last]))
    _all_get_records([last])
    feeder.stop()  # whoever commits each record may be slower than it
    wait_for(
        "given every record",
        [last],
        lambda: (
            {each["value"] for member in members for each in member.events_of("record")}
            | _committed_untold(leaving, leaving_owned)
            | _committed_untold(killed, killed.owned())
        ).issuperset(feeder.values),
    )
    stage.passed(KILL)


def _describe(stage: Stage, program: Running, group: str, members: int) -> None:
    """A program that is no member says how many are. Not while they are just joining anew."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        found = program.ask("group", group=group)
        if "unsupported" in found:
            stage.unsupported(DESCRIBE_GROUP, found["unsupported"])
            return
        if (found.get("state", "").lower(), found.get("members")) == ("stable", members):
            stage.passed(DESCRIBE_GROUP)
            return
        if time.monotonic() > deadline_s:
            raise AssertionError(f"the group is {found}, and has {members} members")
        time.sleep(0.1)


def _committed_untold(member: Running, owned: set[int]) -> set[str]:
    """What a member may have committed, and did not get to say that it had been given.

    None of those that commit what they have told. kcat commits on its own what it is about to
    print, and does not print it if it has to end just then.
    """
    if member.events_of("committed"):
        return set()
    tops: dict[int, int] = {}
    for each in member.events_of("record"):
        tops[each["partition"]] = max(each["offset"], tops.get(each["partition"], -1))
    return {
        f"{offset * PARTITIONS + partition}"
        for partition in owned
        for offset in range(tops.get(partition, -1) + 1, tops.get(partition, -1) + 1 + MOST_UNTOLD)
    }


def _all_get_records(members: list[Running]) -> None:
    """Every member is given records of every partition that it owns."""
    since = [len(each.events) for each in members]

    def have() -> bool:
        return all(
            {e["partition"] for e in list(each.events)[at:] if e["event"] == "record"}
            >= each.owned()
            for each, at in zip(members, since, strict=True)
        )

    wait_for("given records", members, have)


# -- the server is killed ------------------------------------------------------------------

RESUME = "a new member goes on where its group had committed"
SURVIVE = "a consumer that was there all the time goes on"
IDEMPOTENT = "an idempotent producer: nothing twice, nothing lost"


def survive_a_kill(stage: Stage) -> None:
    topic = stage.topic("kill")
    with Neutral(stage.address) as neutral:
        neutral.create(topic)
        neutral.create(stage.topic("stream"))
        neutral.produce(topic, [f"{number}" for number in range(50)])
    survivor, doomed, producer = (stage.start() for _ in range(3))
    successor: Running | None = None
    try:
        for member, group, session_ms in (
            (survivor, "s", LONG_SESSION_MS),
            (doomed, "d", SESSION_TIMEOUT_MS),
        ):
            member.begin(
                "member", topic=topic, group=stage.topic(group), session_timeout_ms=session_ms
            )
        both = [survivor, doomed]
        wait_for("read", both, lambda: all(len(each.events_of("record")) >= 50 for each in both))
        producer.begin("stream", topic=stage.topic("stream"), count=300, pause_ms=5)
        started = time.monotonic()
        wait_for(
            "producing",
            [],
            lambda: (
                any(each["count"] >= 60 for each in producer.events_of("acked"))
                or producer.unasked() is not None
                or time.monotonic() > started + 15
            ),
        )
        _wait_until_committed(doomed)
        stage.shared.restart()
        doomed.kill()
        with Neutral(stage.address) as neutral:
            neutral.produce(topic, [f"{number}" for number in range(50, 100)])
        successor = stage.start()
        successor.begin(
            "member",
            topic=topic,
            group=stage.topic("d"),
            session_timeout_ms=LONG_SESSION_MS,
        )
        with Neutral(stage.address) as neutral:
            _check_stream(stage, producer, neutral)
        _check_reading(stage, SURVIVE, survivor, [])
        _check_reading(stage, RESUME, successor, doomed.events_of("record"))
        begun = successor.events_of("record")[0]["offset"]
        committed = max((e["offset"] for e in doomed.events_of("committed")), default=0)
        if not committed <= begun <= 50:
            stage.outcome[RESUME] = f"failed: committed {committed}, and resumed at {begun}"
    finally:
        for each in (survivor, doomed, producer, successor):
            if each is not None:
                each.__exit__(TimeoutError, TimeoutError(), None)


def _wait_until_committed(member: Running) -> None:
    """All that it has read; a client that does not say when is given a second."""
    until_s = time.monotonic() + (10 if member.events_of("committed") else 1)
    while time.monotonic() < until_s:
        if any(each["offset"] >= 50 for each in member.events_of("committed")):
            return
        time.sleep(0.02)


def _check_stream(stage: Stage, producer: Running, neutral: Neutral) -> None:
    answer = producer.answer(3 * PATIENCE_S + 60)
    if "unsupported" in answer:
        stage.unsupported(IDEMPOTENT, answer["unsupported"])
        return
    if "error" in answer:
        stage.outcome[IDEMPOTENT] = f"failed: {answer['error']}"
        return
    found = neutral.read(stage.topic("stream"))
    expected = list(enumerate(map(str, range(300))))
    if found != expected:
        stage.outcome[IDEMPOTENT] = f"failed: the log has {len(found)} records: {found!r:.600}"
    elif answer["offsets"] is not None and answer["offsets"] != list(range(300)):
        stage.outcome[IDEMPOTENT] = f"failed: told offsets {answer['offsets']!r:.600}"
    else:
        stage.passed(IDEMPOTENT)


def _check_reading(
    stage: Stage, feature: str, member: Running, before: list[dict[str, Any]]
) -> None:
    """It is given all the rest, in order but for what it reads again."""

    def is_complete() -> bool:
        offsets = {each["offset"] for each in [*before, *member.events_of("record")]}
        return offsets >= set(range(100))

    try:
        wait_for("given every record", [member], is_complete)
        read = member.events_of("record")
        for each in read:
            expect(each["value"], str(each["offset"]), "the value at that offset")
        tops = -1
        for each in read:
            if tops >= 0 and each["offset"] > tops + 1:
                raise AssertionError(f"{feature}: passed over {tops + 1} to {each['offset']}")
            tops = max(tops, each["offset"])
    except (RuntimeError, TimeoutError, AssertionError) as error:
        stage.outcome[feature] = f"failed: {error}"
    else:
        stage.passed(feature)


# -- looking after -------------------------------------------------------------------------

CREATE, DESCRIBE, ALTER = "create a topic", "describe a topic", "alter its settings"
GROW, DELETE, LAG = "add partitions", "delete a topic", "lag of a group"
DESCRIBE_GROUP, DELETE_GROUP = "describe a group", "delete a group"


def look_after(stage: Stage) -> None:
    topic = stage.topic("admin")
    with Neutral(stage.address) as neutral, stage.start() as program:
        if stage.ask(CREATE, program, "create", topic=topic, partitions=3, config=CONFIG) is None:
            neutral.create(topic, 3)
        else:
            _expect_error(program.ask("create", topic=topic, partitions=3, config={}), "exist")
            stage.passed(CREATE)

        def described(**expected: Any) -> bool:
            answer = stage.ask(DESCRIBE, program, "describe", topic=topic, names=[*CONFIG])
            if answer is None:
                return False
            deadline_s = time.monotonic() + PATIENCE_S
            while answer != expected and time.monotonic() < deadline_s:
                time.sleep(0.05)
                answer = stage.ask(DESCRIBE, program, "describe", topic=topic, names=[*CONFIG])
            expect(answer, expected, "the topic")
            return True

        if described(partitions=3, config=CONFIG):
            stage.passed(DESCRIBE)
        changed = {**CONFIG, "retention.ms": "7200000"}
        if stage.ask(ALTER, program, "alter", topic=topic, config=changed) is not None:
            described(partitions=3, config=changed)
            stage.passed(ALTER)
        if stage.ask(GROW, program, "grow", topic=topic, partitions=5) is not None:
            described(partitions=5, config=changed)
            stage.passed(GROW)
        _lag(stage, program, neutral)
        if stage.ask(DELETE, program, "delete", topic=topic) is not None:
            deadline_s = time.monotonic() + PATIENCE_S
            while True:
                answer = program.ask("describe", topic=topic, names=[])
                if answer.get("partitions") == 0 or time.monotonic() > deadline_s:
                    break
                time.sleep(0.05)
            expect(answer.get("partitions"), 0, "after deleting")
            stage.passed(DELETE)


def _lag(stage: Stage, program: Running, neutral: Neutral) -> None:
    topic = group = stage.topic("lag")
    neutral.create(topic, 2)
    neutral.produce(topic, [f"{number}" for number in range(10)])
    neutral.produce(topic, ["0", "1"], 1)
    neutral.commit(group, topic, {0: 4, 1: 2})
    answer = stage.ask(LAG, program, "lag", topic=topic, group=group)
    if answer is not None:
        expect(answer["lag"], {"0": 6, "1": 0}, "lag")
        stage.passed(LAG)
    if stage.ask(DELETE_GROUP, program, "delete_group", group=group) is not None:
        answer = program.ask("lag", topic=topic, group=group)
        expect(answer.get("lag"), {"0": 10, "1": 2}, "lag without a group")
        stage.passed(DELETE_GROUP)


def _expect_error(answer: dict[str, Any], word: str) -> None:
    if word not in answer.get("error", "").lower():
        raise AssertionError(f"an error with {word!r} was expected: {answer}")


SCENARIOS = (
    Scenario(
        "records",
        "Producing and consuming",
        (PRODUCE, HEADERS, *CODECS[1:], FROM_START, FROM_END, FROM_TIME),
        produce_and_consume,
    ),
    Scenario("group", "Groups", (JOIN, LEAVE, KILL, DESCRIBE_GROUP), share_in_a_group),
    Scenario(
        "kill",
        "When the server is killed (SIGKILL), and started again",
        (RESUME, SURVIVE, IDEMPOTENT),
        survive_a_kill,
    ),
    Scenario(
        "admin",
        "Looking after topics and groups",
        (CREATE, DESCRIBE, ALTER, GROW, DELETE, LAG, DELETE_GROUP),
        look_after,
    ),
)
