"""A service with a table of its own, an API for several tenants, streamed answers and reminders."""
