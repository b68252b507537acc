"""Pellucid: an engine for large language models whose inside can be seen."""
