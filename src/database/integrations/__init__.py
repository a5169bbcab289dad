"""Adapters to web and bot frameworks, and to the data of other systems, which are imported through repositories."""
