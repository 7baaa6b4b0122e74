"""The model: states, phases, bounds and the records that describe sockets. Pure tables."""
