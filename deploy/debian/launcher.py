#!/usr/bin/python3 -IS
"""Runs sockwatch with the libraries of its package, and with no others of the host."""

import sys

sys.path.insert(0, "/usr/lib/sockwatch")
from sockwatch.__main__ import main

sys.exit(main())
