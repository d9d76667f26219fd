"""`seawall serve`: a broker directory answers as Kafka.

Bytes, decisions and I/O are in three files: `framing` (bytes -> frames), `dispatch` (header,
version, handler, error) and `connection` (sockets, order, limits). `server` puts them together.
Nothing here touches a disk: `Node.run` has it done on the engine's bounded executor.

How to add an API
=================

One small file for each, ``broker/kafka/<name>.py``, all of one shape::

    '''ListGroups (key 16): which groups there are.

    Versions: 3 flexible; 4 filters by state (KIP-518); 5 by type (KIP-848).
    '''

    async def handle(request: Any, context: RequestContext) -> Values:
        names = await context.run(context.broker.groups)      # blocking work, on the executor
        return {
            "error_code": codes.NONE,
            "groups": [{"group_id": name, "protocol_type": "consumer"} for name in names],
        }

    API = Api(key=16, name="ListGroups", versions=(0, 5), handle=handle)

and a line in `registry.MODULES`; the answer to ApiVersions follows from that.

* ``request`` is kio's entity of the version that was sent (``kio.schema.list_groups.v5…``).
  A field that only some versions have is read with ``getattr(request, "states_filter", ())``.
* The answer is a dict of everything that the handler knows, nested as the message is, with
  kio's field names. What the version lacks is left out; what it needs and was forgotten is an
  error. Plain numbers stand for error codes, durations and times (in ms); see `schema`.
  ``throttle_time`` is 0 by itself. ``None`` means: no response (``acks=0``).
* ``context`` has ``version``, ``client_id``, ``connection`` (``peer``), ``broker``, ``engine``,
  ``settings``, ``node``. ``await context.run(call, *arguments)`` runs blocking work and
  translates the storage engine's errors. What lives as long as the server (a coordinator, say)
  is a `Part`: ``context.node.part(Coordinator)`` makes it once, and its ``close`` is awaited
  when the server stops.
* A `BrokerError` or a `KafkaError` that leaves the handler becomes the error of the whole
  response; any other exception is a bug, is logged, and becomes UNKNOWN_SERVER_ERROR. Where
  the response has no ``error_code`` at its top, the `Api` names a ``refuse`` that puts one in
  every item. ``codes.code_of(error)`` is the table.
* Requests of one connection are handled one after the other, so a handler may wait; one with
  ``is_pipelined`` begins before those ahead of it are answered. Who waits for long, waits for
  ``node.stopping``, too.

What is there to lean on: ``topics.Topics`` finds partitions by a topic's name or id, in memory;
``wire_topics.create_wire_topic`` creates a topic with what Kafka clients expect;
``wakes.Wakes`` sleeps until a partition's durable end has moved; ``lanes.Lanes`` stores batches;
``broker/raw.py`` is what they use of the broker. A fetch acquires memory from
``node.response_budget`` before it reads; a handler whose response may be large does the same
(``context.response_bytes``).

Tests: ``tests/broker/kafka/test_<name>.py`` with the fixtures ``server`` and ``wire`` of the
``conftest.py`` there; ``wire.ask(16, 5, types_filter=())`` sends a request and gives kio's
response.
"""
