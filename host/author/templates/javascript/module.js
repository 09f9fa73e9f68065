// The poll: people put a question, vote, and change their vote until it is closed.
//
// Each function below is one method of the service in `proto/poll.proto`. A function that throws leaves no trace: everything that
// it wrote is undone, on every replica alike.

import { Failure, Module, byteLength } from "./telegraft/index.js";

/** The tables of schema 1. Later versions of the module add functions of their own and leave this one as it is. */
function schema1(store) {
  store.execute(
    "CREATE TABLE polls (id TEXT PRIMARY KEY, question TEXT NOT NULL, closed INTEGER NOT NULL, " +
      "created_us INTEGER NOT NULL) STRICT, WITHOUT ROWID",
  );
  store.execute(
    "CREATE TABLE options (poll TEXT, number INTEGER, text TEXT, PRIMARY KEY (poll, number)) STRICT, WITHOUT ROWID",
  );
  store.execute(
    "CREATE TABLE votes (poll TEXT, voter TEXT, option INTEGER, PRIMARY KEY (poll, voter)) STRICT, WITHOUT ROWID",
  );
}

function createPoll(store, context, { question, options }) {
  checkSize("question", question, 200);
  if (options.length < 2 || options.length > 10) {
    throw new Failure("INVALID_ARGUMENT", "a poll has 2 to 10 options");
  }
  options.forEach((text, number) => checkSize(`option ${number}`, text, 100));
  if (new Set(options).size < options.length) {
    throw new Failure("INVALID_ARGUMENT", "options must differ");
  }
  const pollId = context.ids().next().value;
  store.execute("INSERT INTO polls VALUES (?, ?, 0, ?)", pollId, question, context.timeUs);
  options.forEach((text, number) => store.execute("INSERT INTO options VALUES (?, ?, ?)", pollId, number, text));
  return { pollId };
}

function vote(store, context, { pollId, voter, option }) {
  checkSize("voter", voter, 64);
  if (isClosed(store, pollId)) {
    throw new Failure("FAILED_PRECONDITION", "the poll is closed");
  }
  if (!store.first("SELECT 1 FROM options WHERE poll = ? AND number = ?", pollId, option)) {
    throw new Failure("INVALID_ARGUMENT", `the poll has no option ${option}`);
  }
  const before = store.first("SELECT option FROM votes WHERE poll = ? AND voter = ?", pollId, voter);
  store.execute("INSERT OR REPLACE INTO votes VALUES (?, ?, ?)", pollId, voter, option);
  return { changed: before !== undefined && before.option !== BigInt(option) };
}

function closePoll(store, context, { pollId }) {
  if (!isClosed(store, pollId)) {
    store.execute("UPDATE polls SET closed = 1 WHERE id = ?", pollId);
  }
}

function getPoll(store, context, { pollId }) {
  const row = store.first("SELECT id, question, closed, created_us FROM polls WHERE id = ?", pollId);
  if (!row) {
    throw new Failure("NOT_FOUND", "no such poll");
  }
  return poll(store, row);
}

function listPolls(store) {
  const newest = "SELECT id, question, closed, created_us FROM polls ORDER BY created_us DESC, id DESC LIMIT 100";
  return { polls: store.query(newest).map((row) => poll(store, row)) };
}

function checkSize(what, text, bytesMax) {
  const bytes = byteLength(text);
  if (bytes < 1 || bytes > bytesMax) {
    throw new Failure("INVALID_ARGUMENT", `${what} must have 1 to ${bytesMax} bytes`);
  }
}

function isClosed(store, pollId) {
  const row = store.first("SELECT closed FROM polls WHERE id = ?", pollId);
  if (!row) {
    throw new Failure("NOT_FOUND", "no such poll");
  }
  return row.closed === 1n;
}

/** A row of `polls` as the service's message, with its options and their votes. */
function poll(store, row) {
  const options = store.query(
    "SELECT text, (SELECT count(*) FROM votes WHERE poll = o.poll AND option = o.number) AS votes " +
      "FROM options o WHERE poll = ? ORDER BY number",
    row.id,
  );
  return { pollId: row.id, question: row.question, closed: row.closed === 1n, createdUs: row.created_us, options };
}

export default new Module({
  migrations: [schema1],
  commands: { createPoll, vote, closePoll },
  queries: { getPoll, listPolls },
});
