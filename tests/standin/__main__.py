"""``python -m tests.standin --port 0``: serve until SIGTERM; the first line says where."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import threading

from aiohttp import web

from tests.standin.config import Config
from tests.standin.server import StandIn

BACKLOG = 2048


def main() -> None:
    """Parse the command line and serve."""
    options = _parser().parse_args()
    given = json.loads(options.config)
    for pair in options.set:
        name, _, value = pair.partition("=")
        given[name] = value
    asyncio.run(_serve(StandIn(Config.model_validate(given), options.seed), options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.standin", description="An OpenAI-compatible stand-in.")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--seed", type=int, default=0, help="of faults by probability")
    parser.add_argument("--config", default="{}", help="a configuration as JSON")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help=f"one of {', '.join(Config.model_fields)}"
    )
    parser.add_argument("--until-stdin-ends", action="store_true", help="stop when the starter is gone")
    return parser


async def _serve(standin: StandIn, options: argparse.Namespace) -> None:
    # handler_cancellation: a stream whose client went away is seen at once, not at the next write.
    runner = web.AppRunner(standin.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", options.port), backlog=BACKLOG)
    await web.SockSite(runner, listening, backlog=BACKLOG).start()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if options.until_stdin_ends:
        threading.Thread(target=_watch_stdin, args=(loop, stopped), daemon=True).start()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
    await stopped.wait()
    await runner.cleanup()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    loop.call_soon_threadsafe(stopped.set)


if __name__ == "__main__":
    main()
