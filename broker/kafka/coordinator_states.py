"""The states of a classic group, and every way from one to another.

::

    Empty                nobody is in it; what it has committed stands
    PreparingRebalance   its members are asked to join, and those who have wait for the rest
    CompletingRebalance  a generation has begun; its leader divides the partitions
    Stable               everybody has what the leader said
    Dead                 gone from this coordinator: whoever still waits has been answered

The words are those of Kafka's DescribeGroups.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a group is. The values go over the wire."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


class Event(Enum):
    """What takes a group from one state to another."""

    REBALANCE = "a member came, changed or went"
    BEGUN = "all have joined, or the time for it is over, and the generation is stored"
    ALL_GONE = "the time for joining is over, and nobody is there"
    ASSIGNED = "the leader has said who gets what"
    DROPPED = "the coordinator lets go of it: deleted, taken over, or shutting down"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.EMPTY, Event.REBALANCE): State.PREPARING,
    (State.EMPTY, Event.DROPPED): State.DEAD,
    (State.PREPARING, Event.BEGUN): State.COMPLETING,
    (State.PREPARING, Event.ALL_GONE): State.EMPTY,
    (State.PREPARING, Event.DROPPED): State.DEAD,
    (State.COMPLETING, Event.REBALANCE): State.PREPARING,
    (State.COMPLETING, Event.ASSIGNED): State.STABLE,
    (State.COMPLETING, Event.DROPPED): State.DEAD,
    (State.STABLE, Event.REBALANCE): State.PREPARING,
    (State.STABLE, Event.DROPPED): State.DEAD,
}


class IllegalMove(Exception):
    """A transition that is not in the table: a bug of the caller's."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event.name} while {state.value}")
        self.state = state
        self.event = event


def move(state: State, event: Event) -> State:
    """The state that follows. Raises `IllegalMove`."""
    found = TRANSITIONS.get((state, event))
    if found is None:
        raise IllegalMove(state, event)
    return found
