//! SQLite's errors: which are the statement's and which the host's, and what a guest or the operator is told of them.

use rusqlite::{Error as SqlError, ErrorCode};
use telegraft_node::ports::{Code, MachineFault};

use crate::guest::{Ended, bindings::telegraft::machine::store, rejection};

/// How a guest's statement ended without an answer.
pub(crate) enum SqlEnd {
    /// The guest is told.
    Guest(store::Error),
    /// The call ends.
    Ended(Ended),
}

/// Codes that a statement's text and the data decide, on every replica alike. All others are the host's: with
/// `sqlite_sequence` and the largest row id out of a guest's reach, even "full" only ever means the disk.
pub(crate) fn is_guests(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::ConstraintViolation
            | ErrorCode::TooBig
            | ErrorCode::AuthorizationForStatementDenied
            | ErrorCode::TypeMismatch
            | ErrorCode::ParameterOutOfRange
            | ErrorCode::Unknown
            | ErrorCode::OperationAborted
    )
}

pub(crate) fn over(message: String) -> SqlEnd {
    SqlEnd::Ended(rejection(Code::ResourceExhausted, message).into())
}

/// SQLite's error as a fault, with what to do about it.
pub(crate) fn fault(doing: &str, error: &SqlError) -> MachineFault {
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            ". The database is damaged: stop this host, move machine.db, machine.db-wal and machine.db-shm away and start \
             it again; the state is rebuilt from the log"
        }
        Some(ErrorCode::DiskFull) => ". The disk is full: free some space and start this host again",
        Some(ErrorCode::SystemIoFailure) => ". The disk failed: check it before starting this host again",
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            ". Check that the folder exists and that this user may write to it"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ". Another process uses the file: one host at a time can own it"
        }
        _ => "",
    };
    MachineFault(format!("{doing}: {error}{remedy}"))
}
