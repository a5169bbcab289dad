"""The checks of `thea-db doctor` and `thea-db check --service`, and the connection of a command.

Only the commands import this package. Each imports the module that it needs: `thea-db wait` runs at every start of a
container, and must not import Alembic.
"""
