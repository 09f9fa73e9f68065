//! Requests that were answered, so that a request sent again is answered again and not applied again.
//!
//! An answer is remembered for the next [`REMEMBERED`] entries of the machine's log: an index decides, not a clock and
//! not the size of a batch, so all replicas remember the same. The rows lie in `_telegraft_sessions` by the index of
//! their entry, which makes writing an append; the way from (client, request) to the index is kept in memory and read
//! from the table when the machine is opened. Rows that are no longer remembered are ignored at once and deleted now and
//! then.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use rusqlite::{Connection, params};
use sha2::{Digest as _, Sha256};
use telegraft_node::ports::{Code, MachineFault, Outcome};
use telegraft_raft::{
    Index,
    defects::{self, Defect},
};

use crate::{errors::fault, guest::rejection};

/// Entries of the log after which an answer is forgotten.
pub const REMEMBERED: u64 = 65_536;

/// Bytes of a reply that is kept; of a longer one only that it was given.
pub const REPLY_BYTES_KEPT_MAX: usize = 64 << 10;

/// Bytes of a client's id.
pub const CLIENT_ID_BYTES_MAX: usize = 64;

/// Rows are deleted when so many entries' worth of them are forgotten.
const PRUNE_EVERY: u64 = 1024;

/// In the column `code`: a reply.
const REPLY: i32 = 0;
/// In the column `code`: a reply that was too long to keep.
const NOT_KEPT: i32 = -1;

/// A short hash of what a request asked for.
pub(crate) type CallHash = [u8; 16];

/// SHA-256 over length-prefixed parts, its first half.
pub(crate) fn call_hash(parts: &[&[u8]]) -> CallHash {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let full: [u8; 32] = hasher.finalize().into();
    let mut short = [0; 16];
    short.copy_from_slice(full.split_at(16).0);
    short
}

/// The way from a request to its entry.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_client: HashMap<Arc<str>, BTreeMap<u64, Index>>,
    /// Oldest first.
    order: VecDeque<(Index, Arc<str>, u64)>,
    pruned: Index,
}

impl Sessions {
    /// Reads the table.
    pub(crate) fn load(conn: &Connection, applied: Index) -> Result<Sessions, MachineFault> {
        let mut sessions = Sessions { pruned: applied.saturating_sub(REMEMBERED), ..Sessions::default() };
        if defects::active(Defect::SessionExpiryByClock) {
            // Remembered for as long as this process lives, by its own clock so to say.
            return Ok(sessions);
        }
        let mut read = || -> rusqlite::Result<()> {
            let mut statement =
                conn.prepare("SELECT at, client, request FROM _telegraft_sessions WHERE at > ?1 ORDER BY at")?;
            let mut rows = statement.query([applied.saturating_sub(REMEMBERED) as i64])?;
            while let Some(row) = rows.next()? {
                let client: String = row.get(1)?;
                sessions.remember(row.get::<_, i64>(0)? as u64, &client, row.get::<_, i64>(2)? as u64);
            }
            Ok(())
        };
        read().map_err(|e| fault("cannot read the sessions", &e))?;
        Ok(sessions)
    }

    /// The answer that the request got before, if it is remembered at the entry `at`.
    pub(crate) fn answer(
        &self,
        conn: &Connection,
        at: Index,
        client: &str,
        request: u64,
        call: &CallHash,
    ) -> Result<Option<Outcome>, MachineFault> {
        if defects::active(Defect::RetryAppliedTwice) {
            return Ok(None);
        }
        let Some(first) = self.by_client.get(client).and_then(|requests| requests.get(&request)).copied() else {
            return Ok(None);
        };
        if at.saturating_sub(first) > REMEMBERED {
            return Ok(None);
        }
        let read = || {
            conn.prepare_cached("SELECT call, code, body FROM _telegraft_sessions WHERE at = ?1")?
                .query_row([first as i64], |row| {
                    Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i32>(1)?, row.get::<_, Vec<u8>>(2)?))
                })
        };
        let (first_call, code, body) = read().map_err(|e| fault("cannot read a session", &e))?;
        if first_call != call {
            return Ok(Some(Err(rejection(
                Code::InvalidArgument,
                format!(
                    "request {request} of client {client:?} was another call, at index {first}; a new call needs a new request_id"
                ),
            ))));
        }
        Ok(Some(match code {
            REPLY => Ok(Bytes::from(body)),
            // A code that no guest can choose, so that the server knows: the request was applied.
            NOT_KEPT => Err(rejection(
                Code::DataLoss,
                format!(
                    "request {request} of client {client:?} was applied at index {first}; its answer was too long to be kept"
                ),
            )),
            code => match code_from(code) {
                Some(code) => Err(rejection(code, String::from_utf8_lossy(&body).into_owned())),
                None => return Err(MachineFault(format!("a session at index {first} holds an unknown code {code}"))),
            },
        }))
    }

    /// Remembers the answer to a request, in the open transaction.
    pub(crate) fn record(
        &mut self,
        conn: &Connection,
        at: Index,
        client: &str,
        request: u64,
        call: &CallHash,
        outcome: &Outcome,
    ) -> Result<(), MachineFault> {
        let (code, body): (i32, &[u8]) = match outcome {
            Ok(reply) if reply.len() > REPLY_BYTES_KEPT_MAX => (NOT_KEPT, &[]),
            Ok(reply) => (REPLY, reply),
            Err(rejection) => (rejection.code as i32, rejection.message.as_bytes()),
        };
        let write =
            || {
                conn.prepare_cached("INSERT INTO _telegraft_sessions VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                    .execute(params![at as i64, client, request as i64, call.as_slice(), code, body])
            };
        write().map_err(|e| fault("cannot write a session", &e))?;
        self.remember(at, client, request);
        Ok(())
    }

    /// Takes back what entries from `from` on remembered, whose transaction is gone.
    pub(crate) fn forget_from(&mut self, from: Index) {
        while self.order.back().is_some_and(|(at, _, _)| *at >= from) {
            if let Some((at, client, request)) = self.order.pop_back() {
                self.unlink(at, &client, request);
            }
        }
        // A row that one of those entries replaced was no longer remembered, so nothing has to come back.
    }

    /// Drops what is no longer remembered after `applied`; in the open transaction.
    pub(crate) fn prune(&mut self, conn: &Connection, applied: Index) -> Result<(), MachineFault> {
        let through = applied.saturating_sub(REMEMBERED);
        while self.order.front().is_some_and(|(at, _, _)| *at <= through) {
            if let Some((at, client, request)) = self.order.pop_front() {
                self.unlink(at, &client, request);
            }
        }
        if through < self.pruned.saturating_add(PRUNE_EVERY) {
            return Ok(());
        }
        self.pruned = through;
        let delete =
            || conn.prepare_cached("DELETE FROM _telegraft_sessions WHERE at <= ?1")?.execute([through as i64]);
        delete().map(drop).map_err(|e| fault("cannot delete old sessions", &e))
    }

    fn remember(&mut self, at: Index, client: &str, request: u64) {
        let client = match self.by_client.get_key_value(client) {
            Some((client, _)) => Arc::clone(client),
            None => Arc::from(client),
        };
        self.by_client.entry(Arc::clone(&client)).or_default().insert(request, at);
        self.order.push_back((at, client, request));
    }

    fn unlink(&mut self, at: Index, client: &Arc<str>, request: u64) {
        if let Some(requests) = self.by_client.get_mut(client) {
            // A forgotten request may have been made again since.
            if requests.get(&request) == Some(&at) {
                requests.remove(&request);
            }
            if requests.is_empty() {
                self.by_client.remove(client);
            }
        }
    }
}

fn code_from(number: i32) -> Option<Code> {
    const CODES: [Code; 12] = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::DataLoss,
        Code::Unauthenticated,
    ];
    CODES.into_iter().find(|code| *code as i32 == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE _telegraft_sessions(at INTEGER PRIMARY KEY, client TEXT, request INTEGER, call BLOB, code INTEGER, body BLOB)",
        )
        .unwrap();
        conn
    }

    #[test]
    fn an_answer_is_remembered_for_exactly_so_many_entries_whether_or_not_rows_were_deleted() {
        let conn = table();
        let mut sessions = Sessions::default();
        let call = call_hash(&[b"m", b"p"]);
        sessions.record(&conn, 10, "c", 1, &call, &Ok(Bytes::from_static(b"r"))).unwrap();
        let at_last = sessions.answer(&conn, 10 + REMEMBERED, "c", 1, &call).unwrap();
        assert_eq!(at_last, Some(Ok(Bytes::from_static(b"r"))));
        assert_eq!(sessions.answer(&conn, 11 + REMEMBERED, "c", 1, &call).unwrap(), None);
        sessions.prune(&conn, 10 + REMEMBERED).unwrap();
        assert_eq!(sessions.answer(&conn, 10 + REMEMBERED, "c", 1, &call).unwrap(), None);
    }

    #[test]
    fn a_forgotten_request_made_again_is_remembered_again() {
        let conn = table();
        let mut sessions = Sessions::default();
        let call = call_hash(&[b"x"]);
        sessions.record(&conn, 1, "c", 1, &call, &Ok(Bytes::from_static(b"old"))).unwrap();
        let later = 2 + REMEMBERED;
        sessions.record(&conn, later, "c", 1, &call, &Ok(Bytes::from_static(b"new"))).unwrap();
        sessions.prune(&conn, later).unwrap();
        let answer = sessions.answer(&conn, later + 1, "c", 1, &call).unwrap();
        assert_eq!(answer, Some(Ok(Bytes::from_static(b"new"))));
    }

    #[test]
    fn hashes_tell_where_parts_end() {
        assert_ne!(call_hash(&[b"ab", b"c"]), call_hash(&[b"a", b"bc"]));
    }
}
