"""The HTTP side: what is served, to whom, and the bounds that keep slow clients harmless."""
