"""One look at a host as text for people."""
