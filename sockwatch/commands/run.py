"""`sockwatch run`: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from sockwatch.commands.protection import protection_of
from sockwatch.config import ConfigError, add_flags, load

if TYPE_CHECKING:
    from sockwatch.config import Config
    from sockwatch.web.protection import Protection


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the program."""
    parser = subparsers.add_parser(
        "run",
        help="run the daemon in the foreground",
        description="Watch this host's TCP sockets and serve what is seen as Prometheus metrics. "
        "Works with no configuration and no privilege.",
        allow_abbrev=False,
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT: 0; 1 if it cannot, or no longer; 2 if configured wrongly."""
    # What is to be loaded anew may have been read already: the daemon takes it when it can.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])

    def configuration() -> Config:
        return load(args, os.environ).config

    try:
        config = configuration()
        protection = protection_of(config)
    except ConfigError as error:
        from sockwatch.web.certificates import CertificateError

        for problem in error.problems:
            print(f"sockwatch run: {problem}", file=sys.stderr)
        return 1 if isinstance(error, CertificateError) else 2
    return _serve(config, configuration, protection)


def _serve(
    config: Config, configuration: Callable[[], Config], protection: Protection | None
) -> int:
    import asyncio
    import faulthandler

    from sockwatch.daemon import Daemon
    from sockwatch.poll import NoSource
    from sockwatch.service import ActivationError, inherited_sockets, setup_logging
    from sockwatch.web.listen import ListenError, open_sockets

    faulthandler.enable()  # the watchdog's SIGABRT leaves a traceback of every thread
    setup_logging(config.log.level, config.log.format)
    try:
        if config.web.systemd_socket:
            listeners = inherited_sockets()
        else:
            listeners = open_sockets(config.web.listen_address)
        daemon = Daemon(config, listeners, configuration, protection)
    except (ActivationError, ListenError, NoSource) as error:
        print(f"sockwatch run: {error}", file=sys.stderr)
        return 1
    return asyncio.run(daemon.run())
