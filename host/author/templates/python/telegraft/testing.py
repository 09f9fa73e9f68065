"""A module in memory: its real dispatch and its real statements on the `sqlite3` of your own Python, without a host.

What it does not have is the host's rules and budgets: SQL that the host refuses may work here.
"""

import sqlite3

from . import Context, Store, StoreError, codec


class MemoryStore(Store):
    """SQLite in memory."""

    def __init__(self):
        self.connection = sqlite3.connect(":memory:", isolation_level=None)

    def _run(self, sql, params):
        try:
            cursor = self.connection.execute(sql, params)
            return cursor, cursor.fetchall()
        except sqlite3.IntegrityError as error:
            raise StoreError("constraint", str(error)) from None
        except sqlite3.Error as error:
            kind = "too-large" if "too big" in str(error) else "invalid"
            raise StoreError(kind, str(error)) from None

    def execute(self, sql, *params):
        cursor, _ = self._run(sql, params)
        return max(cursor.rowcount, 0)

    def rows(self, sql, *params):
        cursor, rows = self._run(sql, params)
        return [column[0] for column in cursor.description or ()], rows


class Machine:
    """Entries for a module, one after the other. Time and entropy follow from the entry's index alone."""

    def __init__(self, module, store=None):
        """A machine at the module's schema; `store` is one that another module made, where that is what is tested."""
        self.module = module
        self.index = 1
        self.time_us = 1_700_000_000_000_000
        self.store = store or MemoryStore()
        if store is None:
            self.upgrade(None)

    def upgrade(self, from_schema):
        """Activates the module on a store of this schema (None: an empty one)."""
        self._undoing(lambda: self.module.init(self.store, self._context(), from_schema))

    def apply(self, method, **fields):
        """Applies one command, named as in the .proto ("CreatePoll"); the reply is a message. Raises `Failure`."""
        self.index += 1
        self.time_us += 1_000
        return self._undoing(lambda: self._call(self.module.apply, method, fields))

    def read(self, method, **fields):
        """Answers one query; otherwise as `apply`."""
        self.store.connection.execute("PRAGMA query_only = true")
        try:
            return self._call(self.module.read, method, fields)
        finally:
            self.store.connection.execute("PRAGMA query_only = false")

    def _context(self):
        return Context(self.index, self.time_us, (self.index * 0x9E3779B97F4A7C15 & (1 << 64) - 1, self.index))

    def _call(self, answer, name, fields):
        method = self.module.method(name)
        request = codec.encode(method.request, fields)
        return codec.decode(method.reply, answer(self.store, self._context(), method.path, request))

    def _undoing(self, run):
        """What an entry wrote is undone where it fails, as the host does it."""
        self.store.connection.execute("SAVEPOINT entry")
        try:
            return run()
        except BaseException:
            self.store.connection.execute("ROLLBACK TO entry")
            raise
        finally:
            self.store.connection.execute("RELEASE entry")
