"""Adapters to other systems: each reads or writes their data through the repositories."""
