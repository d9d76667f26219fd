"""Measuring a location: rates and latencies of producers and consumers, each a process.

`run` makes the topic and goes through the phases, `crew` has the processes, `worker` is what
runs in them, `histogram` is what they bring home. All of it uses only what every location has:
topics, ends, a producer, a consumer.
"""
