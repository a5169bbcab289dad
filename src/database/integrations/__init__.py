"""Adapters to web and bot frameworks, to agent SDKs, and to the data of other systems that repositories import."""
