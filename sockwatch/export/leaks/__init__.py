"""Stuck connections for people and for programs."""
