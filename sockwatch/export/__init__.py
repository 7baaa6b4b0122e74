"""A Snapshot rendered for others: Prometheus families, JSON, text for people."""
