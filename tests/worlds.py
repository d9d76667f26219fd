"""A log in a list, correct by construction, with clients that use it at random: what the
history checker must find nothing wrong with, and faults that it must find."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from itertools import groupby

from seawall.broker.torture.events import Event

PARTITIONS = ("orders/0", "orders/1")
GROUPS = ("g", "h")
History = list[Event]
Steps = Generator[None, None, None]


class World:
    """Everything there is, and the history of everything that was done.

    Each client is a generator that stops wherever others may come in between: behind an
    invocation, and before a completion.
    """

    def __init__(self, randomness: random.Random, steps: int = 90) -> None:
        self.random = randomness
        self.history: History = []
        self.logs: dict[str, list[str | None]] = {name: [] for name in PARTITIONS}
        self.starts = dict.fromkeys(PARTITIONS, 0)
        self.groups: dict[str, dict[str, int]] = {}
        self.holders: dict[str, str] = {}
        self._steps = steps
        self._now = 0
        self._numbers: dict[str, int] = {}
        self._lives = 0

    @classmethod
    def of(cls, seed: int) -> World:
        return cls(random.Random(seed))

    def run(self) -> None:
        """Let everybody do something for a while, then read everything."""
        makers: list[Callable[[str], Steps]] = [
            *(self._produce, self._produce, self._consume, self._consume),
            *(self._join, self._join, self._operate),
        ]
        clients = {maker: self._start(maker) for maker in enumerate(makers)}
        for _ in range(self._steps):
            maker = self.random.choice(list(clients))
            process, client = clients[maker]
            if self.random.random() < 0.02:  # killed in the middle of something
                client.close()
                self._leave(process)
                self.history.append(Event(process, 0, self._time(), "info", "crash"))
                clients[maker] = self._start(maker)
            else:
                next(client)
        self._read_everything()

    def _start(self, maker: tuple[int, Callable[[str], Steps]]) -> tuple[str, Steps]:
        self._lives += 1
        process = f"c{self._lives}"
        return process, maker[1](process)

    def _time(self) -> int:
        self._now += 1
        return self._now

    def invoke(self, process: str, op: str, **said: object) -> int:
        number = self._numbers[process] = self._numbers.get(process, -1) + 1
        event = Event(process, number, self._time(), "invoke", op, **said)  # type: ignore[arg-type]
        self.history.append(event)
        return number

    def complete(self, process: str, number: int, kind: str, op: str, **said: object) -> None:
        event = Event(process, number, self._time(), kind, op, **said)  # type: ignore[arg-type]
        self.history.append(event)

    # -- producing -------------------------------------------------------------------

    def _produce(self, process: str) -> Steps:
        count = 0
        while True:
            under_way: list[tuple[int, str, tuple[str, ...]]] = []
            for _ in range(self.random.randrange(1, 4)):
                partition = self.random.choice(PARTITIONS)
                values = tuple(f"{process}.{count + n}" for n in range(self.random.randrange(1, 3)))
                count += len(values)
                said = partition if self.random.random() < 0.7 else "orders/"
                number = self.invoke(process, "send", partition=said, values=values)
                under_way.append((number, partition, values))
                yield
            ends = []
            for number, partition, values in under_way:
                outcome = self.random.choice(["ok", "ok", "ok", "info", "lost", "fail", "again"])
                if outcome == "again":  # what was sent before arrives after all, twice
                    yield from self._send_again(process, partition, values)
                    outcome = "info"
                if outcome in ("ok", "info"):
                    ends.append((number, partition, self._append(partition, values), outcome))
                else:
                    ends.append((number, partition, (), {"lost": "info"}.get(outcome, outcome)))
                if self.random.random() < 0.05:
                    self.logs[partition].append(None)  # a hole
                yield
            self.random.shuffle(ends)
            for number, partition, offsets, outcome in ends:
                if outcome == "ok":
                    self.complete(
                        process, number, "ok", "send", partition=partition, offsets=offsets
                    )
                else:
                    self.complete(process, number, outcome, "send", error="SomeError")
                yield

    def _send_again(self, process: str, partition: str, values: tuple[str, ...]) -> Steps:
        number = self.invoke(process, "send", partition=partition, values=values)
        yield
        self._append(partition, values)
        self.complete(process, number, "info", "send", error="SomeError")

    def _append(self, partition: str, values: tuple[str, ...]) -> tuple[int, ...]:
        log = self.logs[partition]
        log += values
        return tuple(range(len(log) - len(values), len(log)))

    # -- consuming -------------------------------------------------------------------

    def _consume(self, process: str) -> Steps:
        while True:
            number = self.invoke(process, "assign")
            yield
            places = {
                name: self.random.randint(self.starts[name], len(self.logs[name]))
                for name in PARTITIONS
            }
            self.complete(process, number, "ok", "assign", places=dict(places))
            for _ in range(self.random.randrange(8)):
                yield from self._poll_or_seek(process, places)

    def _poll_or_seek(self, process: str, places: dict[str, int]) -> Steps:
        yield
        if self.random.random() < 0.15:
            name = self.random.choice(PARTITIONS)
            target = self.random.randint(self.starts[name], len(self.logs[name]))
            number = self.invoke(process, "seek", places={name: target})
            yield
            places[name] = target
            self.complete(process, number, "ok", "seek")
        else:
            number = self.invoke(process, "poll")
            yield
            records = {
                name: tuple(self._take(name, places, self.random.randrange(6)))
                for name in PARTITIONS
            }
            yield
            records = {name: taken for name, taken in records.items() if taken}
            self.complete(process, number, "ok", "poll", records=records)

    def _take(self, name: str, places: dict[str, int], most: int) -> Iterator[tuple[int, str]]:
        places[name] = max(places[name], self.starts[name])
        while most and places[name] < len(self.logs[name]):
            offset = places[name]
            value = self.logs[name][offset]
            places[name] += 1
            if value is not None:
                most -= 1
                yield offset, value

    # -- groups ----------------------------------------------------------------------

    def _join(self, process: str) -> Steps:
        while True:
            group = self.random.choice(GROUPS)
            number = self.invoke(process, "assign", group=group)
            yield
            if group in self.holders:
                self.complete(process, number, "fail", "assign", error="GroupBusy")
                continue
            self.holders[group] = process
            committed = self.groups.setdefault(group, {})
            for name in PARTITIONS:
                start = self.random.choice([self.starts[name], len(self.logs[name])])
                committed.setdefault(name, start)
            places = dict(committed)
            yield
            self.complete(process, number, "ok", "assign", places=dict(places))
            for _ in range(self.random.randrange(8)):
                yield from self._poll_or_seek(process, places)
                if self.random.random() < 0.5:
                    yield from self._ack(process, group, places)
            self._leave(process)

    def _ack(self, process: str, group: str, places: dict[str, int]) -> Steps:
        said = dict(places)
        number = self.invoke(process, "ack", group=group, places=said)
        yield
        committed = self.groups[group]
        for name, offset in said.items():
            committed[name] = max(committed[name], offset)
        yield
        self.complete(process, number, "ok", "ack")

    def _leave(self, process: str) -> None:
        for group in [each for each, holder in self.holders.items() if holder == process]:
            del self.holders[group]

    def _operate(self, process: str) -> Steps:
        while True:
            group = self.random.choice(GROUPS)
            chance = self.random.random()
            yield
            if chance < 0.6:
                yield from self._look(process, group)
            elif chance < 0.8:
                name = self.random.choice(PARTITIONS)
                target = self.random.randint(self.starts[name], len(self.logs[name]))
                yield from self._reset(process, group, {name: target})
            elif chance < 0.9:
                name = self.random.choice(PARTITIONS)
                target = self.random.randint(0, len(self.logs[name]))
                number = self.invoke(process, "drop", places={name: target})
                yield
                self.starts[name] = max(self.starts[name], self.random.randint(0, target))
                self.complete(process, number, "ok", "drop")
            elif group == "h":
                yield from self._reset(process, group, None)

    def _look(self, process: str, group: str) -> Steps:
        number = self.invoke(process, "committed", group=group)
        yield
        places = dict(self.groups.get(group, {}))
        yield
        self.complete(process, number, "ok", "committed", places=places)

    def _reset(self, process: str, group: str, target: dict[str, int] | None) -> Steps:
        op, said = ("forget", {}) if target is None else ("reset", {"places": target})
        number = self.invoke(process, op, group=group, **said)
        yield
        if group in self.holders:
            self.complete(process, number, "fail", op, error="GroupBusy")
            return
        if target is None:
            self.groups.pop(group, None)
        else:
            self.groups.setdefault(group, {}).update(target)
        yield
        self.complete(process, number, "ok", op)

    # -- the end ---------------------------------------------------------------------

    def _read_everything(self) -> None:
        places = dict(self.starts)
        number = self.invoke("final", "assign", final=True)
        self.complete("final", number, "ok", "assign", places=dict(places))
        for name in PARTITIONS:
            number = self.invoke("final", "poll")
            records = tuple(self._take(name, places, len(self.logs[name])))
            self.complete("final", number, "ok", "poll", records={name: records})
        number = self.invoke("final", "end")
        ends = {name: len(log) for name, log in self.logs.items()}
        self.complete("final", number, "ok", "end", starts=dict(self.starts), places=ends)


# -- faults --------------------------------------------------------------------------

# Takes a history, and gives one with the fault; None if there is no place for it.
Mutation = Callable[[History, World], History | None]
MUTATIONS: dict[str, Mutation] = {}


def fault(name: str) -> Callable[[Mutation], Mutation]:
    def note(mutation: Mutation) -> Mutation:
        MUTATIONS[name] = mutation
        return mutation

    return note


def mutated(name: str, world: World) -> History | None:
    """The world's history with one fault; None if there is no place for it."""
    return MUTATIONS[name](list(world.history), world)


def _replace(history: History, at: int, **said: object) -> History:
    return [*history[:at], history[at]._replace(**said), *history[at + 1 :]]  # type: ignore[arg-type]


def _with_records(history: History, at: int, name: str, records: object) -> History:
    return _replace(history, at, records={**history[at].records, name: records})


def _polls(world: World, history: History, least: int, *, final: bool) -> list[tuple[int, str]]:
    """Where the polls with so many records of a partition are; and of which."""
    found = [
        (at, name)
        for at, event in enumerate(history)
        for name, records in event.records.items()
        if len(records) >= least and (event.process == "final") == final
    ]
    world.random.shuffle(found)
    return found


def _final(history: History, name: str) -> int:
    """Where the final reading reads this partition."""
    return next(
        at for at, event in enumerate(history) if event.process == "final" and name in event.records
    )


def _dropped(history: History, name: str) -> int:
    """Below this, records may be gone."""
    drops = [event.places.get(name, 0) for event in history if event.op == "drop"]
    return max(drops, default=0)


def _sends(world: World, history: History, kind: str = "ok") -> list[tuple[Event, int]]:
    """Invocations and where their completions are, of sends that are read at the end."""
    opened: dict[tuple[str, int], Event] = {}
    found = []
    last = {value for event in history if event.process == "final" for value in _values(event)}
    for at, event in enumerate(history):
        if event.op != "send":
            continue
        if event.kind == "invoke":
            opened[event.process, event.number] = event
        elif event.kind == kind and set(opened[event.process, event.number].values) <= last:
            found.append((opened[event.process, event.number], at))
    world.random.shuffle(found)
    return found


def _values(event: Event) -> list[str]:
    return [value for records in event.records.values() for _, value in records]


def _sent_once(history: History, value: str) -> bool:
    return sum(value in event.values for event in history) == 1


@fault("lost-write")
def _lose(history: History, world: World) -> History | None:
    for name in PARTITIONS:
        promised = {
            offset
            for event in history
            if event.process != "final"
            for offset in (
                *(event.offsets if event.partition == name else ()),
                *(offset for offset, _ in event.records.get(name, ())),
            )
            if offset >= _dropped(history, name)
        }
        if promised:
            at, lost = _final(history, name), world.random.choice(sorted(promised))
            kept = tuple(each for each in history[at].records[name] if each[0] != lost)
            return _with_records(history, at, name, kept)
    return None


@fault("unseen")
def _hide(history: History, world: World) -> History | None:
    history = [event for event in history if event.process != "final"]
    places = [
        (event.partition, offset)
        for event in history
        if event.op == "send" and event.kind == "ok"
        for offset in event.offsets
    ]
    world.random.shuffle(places)
    for name, offset in places:
        if offset >= _dropped(history, name):
            for at, event in enumerate(history):
                if name in event.records:
                    kept = tuple(each for each in event.records[name] if each[0] < offset)
                    history = _with_records(history, at, name, kept)
            return history
    return None


@fault("duplicate")
def _double(history: History, world: World) -> History | None:
    for name in PARTITIONS:
        at = _final(history, name)
        records = history[at].records[name]
        once = [value for _, value in records if _sent_once(history, value)]
        if once:
            again = (len(world.logs[name]), world.random.choice(once))
            return _with_records(history, at, name, (*records, again))
    return None


@fault("inconsistent-offsets")
def _change(history: History, world: World) -> History | None:
    for at, name in _polls(world, history, 1, final=False):
        records = list(history[at].records[name])
        which = world.random.randrange(len(records))
        records[which] = (records[which][0], "something else")
        if records[which][0] >= _dropped(history, name):  # so that it is read again
            return _with_records(history, at, name, tuple(records))
    return None


@fault("aborted-read")
def _fail(history: History, world: World) -> History | None:
    for kind in ("ok", "info"):
        for invocation, at in _sends(world, history, kind):
            if all(_sent_once(history, value) for value in invocation.values):
                return _replace(history, at, kind="fail", offsets=())
    return None


@fault("unexpected")
def _unsend(history: History, world: World) -> History | None:
    for invocation, _ in _sends(world, history):
        if all(_sent_once(history, value) for value in invocation.values):
            operation = invocation.process, invocation.number
            return [event for event in history if (event.process, event.number) != operation]
    return None


@fault("nonmonotonic-send")
def _cross(history: History, world: World) -> History | None:
    sends = _sends(world, history)
    for one, at in sends:
        for other, there in sends:
            if (
                one.number < other.number
                and one.process == other.process
                and history[at].partition == history[there].partition
                and len(history[at].offsets) == len(history[there].offsets)
            ):
                crossed = _replace(history, at, offsets=history[there].offsets)
                return _replace(crossed, there, offsets=history[at].offsets)
    return None


@fault("int-nonmonotonic-send")
def _turn_around(history: History, world: World) -> History | None:
    for _, at in _sends(world, history):
        if len(history[at].offsets) > 1:
            return _replace(history, at, offsets=history[at].offsets[::-1])
    return None


@fault("nonmonotonic-poll")
def _go_back(history: History, world: World) -> History | None:
    for at, name in _polls(world, history, 1, final=False):
        event = history[at]
        again = event._replace(records={name: event.records[name]}, number=2 * event.number + 1)
        # Even numbers for all, so that there is one for another poll behind this one.
        spread = [each._replace(number=2 * each.number) for each in history]
        asked = again._replace(kind="invoke", records={})
        return [*spread[: at + 1], asked, again, *spread[at + 1 :]]
    return None


@fault("int-nonmonotonic-poll")
def _read_backwards(history: History, world: World) -> History | None:
    for at, name in _polls(world, history, 2, final=False):
        return _with_records(history, at, name, history[at].records[name][::-1])
    return None


@fault("poll-skip")
def _skip(history: History, world: World) -> History | None:
    return _leave_out(history, world, 0)


@fault("int-poll-skip")
def _skip_inside(history: History, world: World) -> History | None:
    return _leave_out(history, world, 1)


def _leave_out(history: History, world: World, which: int) -> History | None:
    for at, name in _polls(world, history, which + 2, final=False):
        records = history[at].records[name]
        if records[which][0] >= _dropped(history, name):  # so that it is read at the end
            return _with_records(history, at, name, (*records[:which], *records[which + 1 :]))
    return None


@fault("committed-backwards")
def _set_back(history: History, world: World) -> History | None:
    for at, invocation in _acks(history, world):
        for name, offset in invocation.places.items():
            if offset:
                return _look_behind(history, at, invocation.group, {name: offset - 1})
    return None


@fault("committed-ahead")
def _run_ahead(history: History, world: World) -> History | None:
    for at, invocation in _acks(history, world):
        if any(event.op == "forget" and event.group == invocation.group for event in history):
            continue
        for name in invocation.places:
            return _look_behind(history, at, invocation.group, {name: 10**6})
    return None


@fault("committed-beyond-end")
def _acknowledge_too_much(history: History, world: World) -> History | None:
    for _, invocation in _acks(history, world):
        places = dict.fromkeys(invocation.places, 10**6)
        return _replace(history, history.index(invocation), places=places)
    return None


def _acks(history: History, world: World) -> Iterator[tuple[int, Event]]:
    """Where acknowledgements end that no reset came near; and their invocations."""
    opened = {(event.process, event.number): event for event in history if event.kind == "invoke"}
    ends = [
        (at, opened[event.process, event.number])
        for at, event in enumerate(history)
        if (event.op, event.kind) == ("ack", "ok")
    ]
    world.random.shuffle(ends)
    for at, invocation in ends:
        resets = [
            kind
            for _, events in groupby(
                sorted(
                    (
                        event
                        for event in history[: at + 1]
                        if event.op in ("reset", "forget")
                        and opened[event.process, event.number].group == invocation.group
                    ),
                    key=lambda event: (event.process, event.number),
                ),
                key=lambda event: (event.process, event.number),
            )
            for kind in [[event.kind for event in events][-1]]
        ]
        began = history.index(invocation)
        is_near = any(event.op in ("reset", "forget") for event in history[began:at])
        if "invoke" not in resets and not is_near:
            yield at, invocation


def _look_behind(history: History, at: int, group: str, places: dict[str, int]) -> History:
    looked = Event("looker", 0, 0, "ok", "committed", places=places)
    asked = Event("looker", 0, 0, "invoke", "committed", group=group)
    return [*history[: at + 1], asked, looked, *history[at + 1 :]]
