"""Settings of Flower, which reads this file as a program and takes the names it knows.

What its environment says (``FLOWER_*``) it has read before, so only what is not set there is set here.
"""

import os
import sys

from tornado.options import options as given

if not (given.basic_auth or given.auth):
    sys.stderr.write(
        "Flower can revoke tasks and stop workers, so it does not run without a login: "
        "set FLOWER_BASIC_AUTH=user:password (or FLOWER_AUTH and FLOWER_AUTH_PROVIDER).\n"
    )
    sys.exit(2)

persistent = False
max_tasks = 10_000
# The workers decide whether they send task events (CELERIAC_TASK_EVENTS); Flower is not to switch them on behind that.
enable_events = os.environ.get("FLOWER_ENABLE_EVENTS", "").lower() == "true"
