"""Each operation of the domain, implemented once: repositories call it in a session, the store on its connections.

Writes are SQL functions (`sql/`), which take the tenant as their first argument and bind their own transaction to it.
Reads that are sent on a connection without a tenant are fenced (`read.py`).
"""
