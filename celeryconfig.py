"""How Celery runs: queues, routes, delivery, limits, schedule. The one place that says so.

Each choice has its measurement in docs/celery.md; most defaults of Celery lose work or speed here.
"""

from __future__ import annotations

import uuid

from kombu.entity import Queue

from pipeline import settings as _settings

_s = _settings.load()
_url = _s.redis_url.get_secret_value() if _s.redis_url else "redis://127.0.0.1:6379/0"
if _url.startswith("rediss://") and "ssl_cert_reqs=" not in _url:
    # Celery refuses TLS without a word on certificates; redis-py checks them unless told otherwise, and so do we.
    _url += f"{'&' if '?' in _url else '?'}ssl_cert_reqs=required"

# ------------------------------------------------------------------ services
broker_url = _url
result_backend = f"tasks.results:AskedRedisBackend+{_url}"
# Names this process wherever it leaves a trace in Redis: its heartbeat, and the messages it holds.
worker_token = uuid.uuid4().hex[:12]
broker_transport_options = {
    "global_keyprefix": f"{_s.namespace}:",
    # Messages a worker holds are kept under a key of its own, so that those of a dead one, and no others,
    # can be delivered again at once (tasks/recovery.py).
    "unacked_key": f"unacked:{worker_token}",
    "unacked_index_key": f"unacked_index:{worker_token}",
    "unacked_mutex_key": f"unacked_mutex:{worker_token}",
    # The lock of a restore; one that is killed in the midst of it must not put the next one off for minutes.
    "unacked_mutex_expire": 10,
    "visibility_timeout": _s.visibility_timeout,
    # Kombu's own, spelled out because tasks/broker.py looks into the lists that they name: one per queue and priority.
    "priority_steps": [0, 3, 6, 9],
    "sep": "\x06\x16",
    # The default of 10 connections wedges a gevent worker of 100.
    "max_connections": _s.redis_connections,
    "socket_connect_timeout": _s.connect_timeout,
    "socket_timeout": 30,
    "socket_keepalive": True,
    "health_check_interval": 30,
}
broker_pool_limit = 50
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
worker_consumer = "tasks.reconnection:Consumer"
# A caller waits a moment for a broker that restarts, and not for ever for one that is gone.
task_publish_retry_policy = {"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1.0}

result_backend_transport_options = {
    "global_keyprefix": f"{_s.namespace}:",
    "visibility_timeout": _s.visibility_timeout,
    "retry_policy": {"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1.0},
}
visibility_timeout = _s.visibility_timeout
result_expires = _s.result_ttl
# Without it every greenlet builds a backend, and a connection pool, of its own for every task.
result_backend_thread_safe = True
redis_max_connections = _s.redis_connections
redis_socket_timeout = 30.0
redis_socket_connect_timeout = _s.connect_timeout
redis_socket_keepalive = True
redis_backend_health_check_interval = 30

# ------------------------------------------------------------------ messages
task_serializer = result_serializer = event_serializer = "json"
accept_content = result_accept_content = ["json"]

# ------------------------------------------------------------------ queues
task_queues = tuple(Queue(name, routing_key=name) for name in ("ask", "ingest", "parse", "control"))
task_default_queue = "ask"
task_create_missing_queues = False
task_routes = {
    "ask.*": {"queue": "ask"},
    "ingest.parse": {"queue": "parse"},
    "ingest.chunk": {"queue": "parse"},
    "parse.*": {"queue": "parse"},
    "ingest.*": {"queue": "ingest"},
    "control.*": {"queue": "control"},
}

# ------------------------------------------------------------------ delivery
task_acks_late = True
task_reject_on_worker_lost = True
# Below 2 a gevent worker starves: finishing tasks do not wake its consumer. The Procfile sets 1 for prefork.
worker_prefetch_multiplier = 2
task_track_started = False
worker_send_task_events = _s.task_events
# A message for each message; Flower hears of a task when a worker gets it.
task_send_sent_event = False
worker_cancel_long_running_tasks_on_connection_loss = False
worker_hijack_root_logger = False
worker_redirect_stdouts = False

# ------------------------------------------------------------------ schedule
beat_schedule = {
    "sweep": {
        "task": "control.sweep",
        "schedule": _s.sweep_every,
        "options": {"queue": "control", "expires": max(10.0, 4 * _s.sweep_every)},
    },
}
beat_max_loop_interval = 5
timezone = "UTC"
