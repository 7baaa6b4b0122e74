"""From readings to a Snapshot: pure functions of what was read, without clock and without I/O."""
