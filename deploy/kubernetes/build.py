"""Writes the PrometheusRule: `python deploy/kubernetes/build.py`, or with `--check` only compares.

It is the rule file for Prometheus as it stands, comments included, in the frame that the Prometheus
Operator reads. The YAML is committed, because it is what users apply.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from textwrap import indent
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
RULES: Final = FOLDER.parent / "prometheus" / "sockwatch.rules.yml"
OUTPUT: Final = FOLDER / "prometheusrule.yaml"
FRAME: Final = """\
# Made by `make rules` from ../prometheus/sockwatch.rules.yml; do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: sockwatch
  labels:
    app.kubernetes.io/name: sockwatch
spec:
"""
_BARE_NUMBER: Final = re.compile(r"^( +expr: )([\d.]+)$", re.MULTILINE)
"""An expression that YAML takes for a number; the resource allows whole numbers and text only."""


def prometheus_rule(rules: str) -> str:
    """Return the resource for the text of a rule file."""
    _, begin, groups = rules.partition("\ngroups:\n")
    return FRAME + indent(begin.lstrip() + _BARE_NUMBER.sub(r'\1"\2"', groups), "  ")


def main() -> int:
    """Write or compare; 1 if what is there differs."""
    parser = argparse.ArgumentParser(description="Writes the PrometheusRule from the rule file.")
    parser.add_argument("--check", action="store_true", help="only compare, 1 if it differs")
    text = prometheus_rule(RULES.read_text())
    if not parser.parse_args().check:
        OUTPUT.write_text(text)
    elif not OUTPUT.exists() or OUTPUT.read_text() != text:
        print(f"{OUTPUT.name} is not what {RULES.name} makes: run make rules", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
