"""What a module stands on: the log entry's context, the store, refusals, and the way from a method to a function.

A module is one `Module` object, with a function for each method of its service. The functions see the store only
through `Store`, so they run natively too: `telegraft.testing` stands in for the host.
"""

import datetime

from . import codec

__all__ = ["Context", "Failure", "Module", "Store", "StoreError"]


class Failure(Exception):
    """A refusal: everything the entry did is undone, and the client gets the code and the message."""

    CODES = (
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "FAILED_PRECONDITION",
        "OUT_OF_RANGE",
        "RESOURCE_EXHAUSTED",
        "UNIMPLEMENTED",
        "UNAUTHENTICATED",
        "ABORTED",
        "INTERNAL",
    )

    def __init__(self, code, message):
        if code not in self.CODES:
            raise ValueError(f"{code!r} is no code a module may refuse with: one of {', '.join(self.CODES)}")
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class StoreError(Exception):
    """The store did not do what it was told. `kind` is "constraint", "invalid", "denied" or "too-large"."""

    def __init__(self, kind, message):
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


# The low 62 bits of an id, and all 64 bits of an integer.
_TAIL = (1 << 62) - 1
_WORD = (1 << 64) - 1


class Context:
    """What the log entry says, equal on every replica."""

    def __init__(self, index, time_us, entropy):
        #: Index of the entry in the machine's log.
        self.index = index
        #: Microseconds since the Unix epoch; never smaller than an earlier entry's.
        self.time_us = time_us
        #: Two 64-bit integers drawn by the leader: the only source of randomness. Both 0 in some reads.
        self.entropy = entropy

    def now(self):
        """The entry's time as an aware `datetime` in UTC."""
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        return epoch + datetime.timedelta(microseconds=self.time_us)

    def ids(self):
        """Draws ids for this entry without end: UUIDs of version 7, as text. Equal contexts give equal ids, so take one
        sequence a call and draw from it: `ids = context.ids(); first = next(ids)`.

        The head is the time (48 bits of milliseconds, 12 of 4,096ths of one), the last 62 bits the entropy, mixed,
        plus the number of the id within the entry.
        """
        milliseconds = (self.time_us // 1_000) & ((1 << 48) - 1)
        fraction = self.time_us % 1_000 * 4_096 // 1_000
        head = milliseconds << 16 | 7 << 12 | fraction
        high, low = self.entropy
        tail = _mix(high ^ _mix(low)) & _TAIL
        while True:
            digits = f"{head:016x}{1 << 63 | tail:016x}"
            yield "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
            tail = (tail + 1) & _TAIL


def _mix(bits):
    """Lets every bit of the input sway every bit of the output (splitmix64's finalizer)."""
    bits ^= bits >> 30
    bits = bits * 0xBF58476D1CE4E5B9 & _WORD
    bits ^= bits >> 27
    bits = bits * 0x94D049BB133111EB & _WORD
    return bits ^ bits >> 31


class Store:
    """SQLite. Parameters are None, int, float, str or bytes (and bool, as 0 or 1), in the order of the `?`."""

    def execute(self, sql, *params):
        """Runs one statement; the number of rows it changed. Raises `StoreError`."""
        raise NotImplementedError

    def rows(self, sql, *params):
        """Runs one statement that answers with rows: the names of its columns, and a list of tuples."""
        raise NotImplementedError

    def query(self, sql, *params):
        """All rows, each a tuple."""
        return self.rows(sql, *params)[1]

    def dicts(self, sql, *params):
        """All rows, each a dict by the names of its columns."""
        columns, rows = self.rows(sql, *params)
        return [dict(zip(columns, row)) for row in rows]

    def first(self, sql, *params):
        """The first row as a tuple, None where there is none."""
        rows = self.query(sql, *params)
        return rows[0] if rows else None


class Module:
    """A state machine: a function for each method of its service, and the steps that made its tables what they are.

    `migrations` are functions that take a `Store`: the first makes the tables of schema 1 in an empty store, the second turns
    schema 1 into 2, and so on. The schema of the module is their number.
    """

    def __init__(self, migrations):
        # Written by `telegraft module build` from telegraft.toml and the .proto file.
        import telegraft_description as description

        self.name = description.NAME
        self.version = description.VERSION
        self.service = description.SERVICE
        self.schema = len(migrations)
        self._migrations = list(migrations)
        self._methods = {method.name: method for method in codec.methods_of(description.SERVICE)}
        self._handlers = {}
        #: Writes a line to the host's log: takes a level ("debug", "info", "warn", "error") and a text.
        self.log = lambda level, message: None

    def command(self, handler):
        """Decorator: this function applies the method of its name (`create_poll` is CreatePoll). It takes the store, the
        context and the request, and returns the reply's fields as a dict (None: all unset) or raises `Failure`."""
        return self._register(handler, is_query=False)

    def query(self, handler):
        """Decorator: this function answers the method of its name, which the .proto must mark with
        `option idempotency_level = NO_SIDE_EFFECTS`. Otherwise as `command`; the store refuses writes."""
        return self._register(handler, is_query=True)

    def _register(self, handler, is_query):
        name = "".join(part[:1].upper() + part[1:] for part in handler.__name__.split("_"))
        method = self.method(name)
        if method.is_query != is_query:
            marked = "marks it" if method.is_query else "does not mark it"
            kind = "query" if is_query else "command"
            raise LookupError(f"{handler.__name__} is a {kind}, but the .proto {marked} NO_SIDE_EFFECTS")
        self._handlers[method.path] = method, handler
        return handler

    def method(self, name):
        """The method of this name ("CreatePoll"). Raises LookupError where the service has none."""
        if name not in self._methods:
            raise LookupError(f"the service has no method {name}: it has {', '.join(self._methods)}")
        return self._methods[name]

    def check(self):
        """Raises LookupError where the service promises a method and there is no function. Asked when it is built."""
        missing = [method.name for method in self._methods.values() if method.path not in self._handlers]
        if missing:
            raise LookupError(f"no function for {', '.join(missing)}: write it under @module.command or @module.query")

    def init(self, store, context, from_schema):
        """Brings the tables from `from_schema` (None: the store is empty) to this module's schema."""
        return self._guarded(lambda: self._migrate(store, from_schema))

    def apply(self, store, context, path, request):
        """Answers one command, bytes to bytes; raises nothing but `Failure`."""
        return self._guarded(lambda: self._answer(False, store, context, path, request))

    def read(self, store, context, path, request):
        """Answers one query, bytes to bytes; raises nothing but `Failure`."""
        return self._guarded(lambda: self._answer(True, store, context, path, request))

    def _migrate(self, store, from_schema):
        for migration in self._migrations[from_schema or 0 :]:
            migration(store)

    def _answer(self, is_query, store, context, path, request):
        method, handler = self._handlers.get(path, (None, None))
        if method is None or method.is_query != is_query:
            kind = "queries" if is_query else "commands"
            raise Failure("UNIMPLEMENTED", f'module {self.name} has no method "{path[:128]}" among its {kind}')
        try:
            request = codec.decode(method.request, request)
        except codec.Malformed as error:
            raise Failure("INVALID_ARGUMENT", f"the request is malformed: {error}") from None
        return codec.encode(method.reply, handler(store, context, request) or {})

    def _guarded(self, run):
        try:
            return run()
        except Failure:
            raise
        except StoreError as error:
            self.log("error", _told(error))
            if error.kind == "too-large":
                raise Failure("RESOURCE_EXHAUSTED", f"too large for the store: {error.message}") from None
            # Entries are applied one after the other, so a broken constraint or a bad statement is the module's own
            # defect, never a race.
            raise Failure("INTERNAL", f"the store refused: {error}") from None
        except BaseException as error:  # SystemExit too: to leave the interpreter would be a trap without a word.
            self.log("error", _told(error))
            # The type alone: the text of an exception may name an object's address, which is no result.
            kind = type(error).__name__
            raise Failure("INTERNAL", f"the module failed with {kind}; the hosts' logs say where") from None


def _told(error):
    """An exception with where it came from. By hand, because `traceback` opens source files, and there are none."""
    told = [f"{type(error).__name__}: {error}"]
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        told.append(f"  {code.co_filename}:{frame.tb_lineno} in {code.co_name}")
        frame = frame.tb_next
    return "\n".join(told)
