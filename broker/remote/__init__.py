"""The broker's interface over servers that speak the Kafka protocol.

confluent-kafka (librdkafka) does the talking. What seawall promises about waiting,
reporting, resuming and errors is done here, around it. Only this folder imports it, and
`connect` imports this folder only for ``kafka://``.
"""
