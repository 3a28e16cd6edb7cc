"""Backends: what computes engines. ``base.py`` holds the protocols."""
