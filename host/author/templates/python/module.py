"""The poll: people put a question, vote, and change their vote until it is closed.

Each function below is one method of the service in `proto/poll.proto`. A function that raises leaves no trace: everything
that it wrote is undone, on every replica alike.
"""

from telegraft import Failure, Module


def schema_1(store):
    """The tables of schema 1. Later versions of the module add functions of their own and leave this one as it is."""
    store.execute(
        "CREATE TABLE polls (id TEXT PRIMARY KEY, question TEXT NOT NULL, closed INTEGER NOT NULL, "
        "created_us INTEGER NOT NULL) STRICT, WITHOUT ROWID"
    )
    store.execute(
        "CREATE TABLE options (poll TEXT, number INTEGER, text TEXT, PRIMARY KEY (poll, number)) STRICT, WITHOUT ROWID"
    )
    store.execute(
        "CREATE TABLE votes (poll TEXT, voter TEXT, option INTEGER, PRIMARY KEY (poll, voter)) STRICT, WITHOUT ROWID"
    )


module = Module(migrations=[schema_1])


@module.command
def create_poll(store, context, request):
    check_size("question", request.question, 200)
    if not 2 <= len(request.options) <= 10:
        raise Failure("INVALID_ARGUMENT", "a poll has 2 to 10 options")
    for number, text in enumerate(request.options):
        check_size(f"option {number}", text, 100)
    if len(set(request.options)) < len(request.options):
        raise Failure("INVALID_ARGUMENT", "options must differ")
    poll_id = next(context.ids())
    store.execute("INSERT INTO polls VALUES (?, ?, 0, ?)", poll_id, request.question, context.time_us)
    for number, text in enumerate(request.options):
        store.execute("INSERT INTO options VALUES (?, ?, ?)", poll_id, number, text)
    return {"poll_id": poll_id}


@module.command
def vote(store, context, request):
    check_size("voter", request.voter, 64)
    if is_closed(store, request.poll_id):
        raise Failure("FAILED_PRECONDITION", "the poll is closed")
    if not store.first("SELECT 1 FROM options WHERE poll = ? AND number = ?", request.poll_id, request.option):
        raise Failure("INVALID_ARGUMENT", f"the poll has no option {request.option}")
    before = store.first("SELECT option FROM votes WHERE poll = ? AND voter = ?", request.poll_id, request.voter)
    store.execute("INSERT OR REPLACE INTO votes VALUES (?, ?, ?)", request.poll_id, request.voter, request.option)
    return {"changed": before is not None and before != (request.option,)}


@module.command
def close_poll(store, context, request):
    if not is_closed(store, request.poll_id):
        store.execute("UPDATE polls SET closed = 1 WHERE id = ?", request.poll_id)


@module.query
def get_poll(store, context, request):
    row = store.first("SELECT id, question, closed, created_us FROM polls WHERE id = ?", request.poll_id)
    if row is None:
        raise Failure("NOT_FOUND", "no such poll")
    return poll(store, row)


@module.query
def list_polls(store, context, request):
    rows = store.query("SELECT id, question, closed, created_us FROM polls ORDER BY created_us DESC, id DESC LIMIT 100")
    return {"polls": [poll(store, row) for row in rows]}


def check_size(what, text, bytes_max):
    if not 1 <= len(text.encode()) <= bytes_max:
        raise Failure("INVALID_ARGUMENT", f"{what} must have 1 to {bytes_max} bytes")


def is_closed(store, poll_id):
    row = store.first("SELECT closed FROM polls WHERE id = ?", poll_id)
    if row is None:
        raise Failure("NOT_FOUND", "no such poll")
    return row == (1,)


def poll(store, row):
    """A row of `polls` as the service's message, with its options and their votes."""
    poll_id, question, closed, created_us = row
    options = store.query(
        "SELECT text, (SELECT count(*) FROM votes WHERE poll = o.poll AND option = o.number) "
        "FROM options o WHERE poll = ? ORDER BY number",
        poll_id,
    )
    return {
        "poll_id": poll_id,
        "question": question,
        "closed": bool(closed),
        "created_us": created_us,
        "options": [{"text": text, "votes": votes} for text, votes in options],
    }
