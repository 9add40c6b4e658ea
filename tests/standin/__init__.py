"""A stand-in for an OpenAI-compatible service: the same protocol, settable latency and settable faults."""
