//! The poll module: `poll.v1.Polls` as a replicated state machine. The same module is written in Python and JavaScript, and
//! gives the same replies there.
//!
//! ```
//! use guest_poll::{PollModule, proto::*};
//! use telegraft_guest::{Failure, FailureCode, TestMachine};
//!
//! let mut machine = TestMachine::<PollModule>::new();
//! let request = CreatePollRequest { question: "Tea?".into(), options: vec!["yes".into(), "no".into()] };
//! let CreatePollReply { poll_id } = machine.apply("poll.v1.Polls/CreatePoll", &request)?;
//!
//! // Or by the function, without names and encoding:
//! let vote = VoteRequest { poll_id: poll_id.clone(), voter: "ada".into(), option: 1 };
//! machine.command(|cx| PollModule::vote(cx, vote))?;
//!
//! let poll: Poll = machine.query("poll.v1.Polls/GetPoll", &GetPollRequest { poll_id })?;
//! assert_eq!(poll.options[1].votes, 1);
//! # Ok::<(), Failure>(())
//! ```

#![deny(unsafe_code)]

#[cfg(test)]
mod tests;

/// Messages and methods of the service, generated from its .proto file.
pub mod proto {
    telegraft_guest::include_proto!("poll.v1");
}

use std::collections::BTreeSet;

use proto::{
    ClosePollReply, ClosePollRequest, CreatePollReply, CreatePollRequest, GetPollRequest, ListPollsReply,
    ListPollsRequest, Poll, VoteReply, VoteRequest,
};
use telegraft_guest::{Command, Failure, Migration, Query, params};

/// The poll module.
pub struct PollModule;

telegraft_guest::module!(PollModule {
    name: "poll",
    version: "0.1.0",
    migrations: MIGRATIONS,
    services: [proto::PollsService],
});

/// One element for each version of the tables, oldest first.
const MIGRATIONS: &[Migration] = &[Migration::new(&[
    "CREATE TABLE polls (id TEXT PRIMARY KEY, question TEXT NOT NULL, closed INTEGER NOT NULL, created_us INTEGER NOT NULL) \
     STRICT, WITHOUT ROWID",
    "CREATE TABLE options (poll TEXT, number INTEGER, text TEXT, PRIMARY KEY (poll, number)) STRICT, WITHOUT ROWID",
    "CREATE TABLE votes (poll TEXT, voter TEXT, option INTEGER, PRIMARY KEY (poll, voter)) STRICT, WITHOUT ROWID",
])];

telegraft_guest::row! {
    struct PollRow {
        id: String,
        question: String,
        closed: bool,
        created_us: i64,
    }
}

impl proto::Polls for PollModule {
    fn create_poll(cx: &Command<'_>, request: CreatePollRequest) -> Result<CreatePollReply, Failure> {
        check_bytes("question", &request.question, 200)?;
        if !(2..=10).contains(&request.options.len()) {
            return Err(Failure::invalid_argument("a poll has 2 to 10 options"));
        }
        for (number, text) in request.options.iter().enumerate() {
            check_bytes(&format!("option {number}"), text, 100)?;
        }
        let different: BTreeSet<&String> = request.options.iter().collect();
        if different.len() < request.options.len() {
            return Err(Failure::invalid_argument("options must differ"));
        }

        let poll_id = cx.new_id().to_string();
        cx.execute(
            "INSERT INTO polls (id, question, closed, created_us) VALUES (?1, ?2, 0, ?3)",
            params![poll_id, request.question, cx.now_us()],
        )?;
        for (number, text) in request.options.iter().enumerate() {
            cx.execute("INSERT INTO options (poll, number, text) VALUES (?1, ?2, ?3)", params![poll_id, number, text])?;
        }
        Ok(CreatePollReply { poll_id })
    }

    fn vote(cx: &Command<'_>, request: VoteRequest) -> Result<VoteReply, Failure> {
        let VoteRequest { poll_id, voter, option } = request;
        check_bytes("voter", &voter, 64)?;
        if is_closed(cx, &poll_id)? {
            return Err(Failure::failed_precondition("the poll is closed"));
        }
        let offered = "SELECT 1 FROM options WHERE poll = ?1 AND number = ?2";
        if cx.query_value::<i64>(offered, params![poll_id, option])?.is_none() {
            return Err(Failure::invalid_argument(format!("the poll has no option {option}")));
        }

        let before: Option<u32> =
            cx.query_value("SELECT option FROM votes WHERE poll = ?1 AND voter = ?2", params![poll_id, voter])?;
        cx.execute(
            "INSERT INTO votes (poll, voter, option) VALUES (?1, ?2, ?3) \
             ON CONFLICT (poll, voter) DO UPDATE SET option = excluded.option",
            params![poll_id, voter, option],
        )?;
        Ok(VoteReply { changed: before.is_some_and(|before| before != option) })
    }

    fn close_poll(cx: &Command<'_>, request: ClosePollRequest) -> Result<ClosePollReply, Failure> {
        if !is_closed(cx, &request.poll_id)? {
            cx.execute("UPDATE polls SET closed = 1 WHERE id = ?1", params![request.poll_id])?;
        }
        Ok(ClosePollReply {})
    }

    fn get_poll(cx: &Query<'_>, request: GetPollRequest) -> Result<Poll, Failure> {
        let row: Option<PollRow> = cx.query_optional(
            "SELECT id, question, closed, created_us FROM polls WHERE id = ?1",
            params![request.poll_id],
        )?;
        with_options(cx, row.ok_or_else(no_such_poll)?)
    }

    fn list_polls(cx: &Query<'_>, _: ListPollsRequest) -> Result<ListPollsReply, Failure> {
        // An id begins with its time, so the newest id is the newest poll's.
        let rows: Vec<PollRow> =
            cx.query_as("SELECT id, question, closed, created_us FROM polls ORDER BY id DESC LIMIT 100", params![])?;
        let polls = rows.into_iter().map(|row| with_options(cx, row)).collect::<Result<_, _>>()?;
        Ok(ListPollsReply { polls })
    }
}

/// INVALID_ARGUMENT unless the text has 1 to `max` bytes.
fn check_bytes(what: &str, text: &str, max: usize) -> Result<(), Failure> {
    if (1..=max).contains(&text.len()) {
        return Ok(());
    }
    Err(Failure::invalid_argument(format!("{what} must have 1 to {max} bytes")))
}

/// NOT_FOUND unless there is such a poll.
fn is_closed(cx: &Query<'_>, poll_id: &str) -> Result<bool, Failure> {
    cx.query_value("SELECT closed FROM polls WHERE id = ?1", params![poll_id])?.ok_or_else(no_such_poll)
}

fn no_such_poll() -> Failure {
    Failure::not_found("no such poll")
}

/// The poll as clients see it, with its options and how often each was voted for.
fn with_options(cx: &Query<'_>, row: PollRow) -> Result<Poll, Failure> {
    let options: Vec<(String, u64)> = cx.query_as(
        "SELECT text, (SELECT count(*) FROM votes WHERE votes.poll = options.poll AND votes.option = options.number) \
         FROM options WHERE poll = ?1 ORDER BY number",
        params![row.id],
    )?;
    let options = options.into_iter().map(|(text, votes)| proto::Option { text, votes }).collect();
    Ok(Poll { poll_id: row.id, question: row.question, closed: row.closed, created_us: row.created_us, options })
}
