//! How a command fails: a message for a person, an object for a machine, and the exit code that tells the kind.

use std::{fmt, process::ExitCode};

use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::settings::Mistakes;

/// What went wrong, in the kinds that the exit code tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The cluster refused, or what was checked is not as it must be.
    Refused,
    /// The command line, the input or the configuration is wrong.
    Usage,
    /// No host could be reached.
    Unreachable,
}

impl Kind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
        }
    }
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// For the exit code.
    pub kind: Kind,
    /// What happened and what to do, for a person. Empty where the output has said it all.
    pub message: String,
    /// The same for a machine.
    pub details: Value,
}

impl Failure {
    /// A failure of a kind, with words.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        let details = json!({ "message": message });
        Self { kind, message, details }
    }

    /// The input is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A check failed or something was refused.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// The output has said what is wrong; only the exit code remains.
    pub fn silent(kind: Kind) -> Self {
        Self { kind, message: String::new(), details: Value::Null }
    }

    /// A host's refusal, with its reason, and what can be done.
    pub fn of_status(doing: &str, status: &Status) -> Self {
        let (code, text) = code_and_text(status);
        let code_name = code_name(code);
        let info = status.get_details_error_info();
        let reason = info.as_ref().map(|info| info.reason.clone()).unwrap_or_default();
        let of_metadata =
            |key: &str| info.as_ref().and_then(|info| info.metadata.get(key)).cloned().unwrap_or_default();
        let (applied, leader) = (of_metadata("applied"), of_metadata("leader"));

        let mut message = format!("{doing}: {code_name}: {text}");
        if !reason.is_empty() {
            message.push_str(&format!("\n  reason: {reason}"));
        }
        if !leader.is_empty() {
            message.push_str(&format!("\n  leader: {leader}"));
        }
        match applied.as_str() {
            "no" => message.push_str("\n  applied: no, nothing was written"),
            "unknown" => message.push_str("\n  applied: unknown, the write may or may not have happened"),
            _ => {}
        }
        if let Some(advice) = advice(code, &reason, &applied, text) {
            message.push_str(&format!("\n  what to do: {advice}"));
        }
        let details = json!({
            "message": text, "code": code_name, "reason": reason, "leader": leader, "applied": applied,
        });
        // Without details of the host's own, UNAVAILABLE is the connection's: nobody answered.
        let kind = if code == Code::Unavailable && info.is_none() { Kind::Unreachable } else { Kind::Refused };
        Self { kind, message, details }
    }

    /// Says it on stderr, as JSON where asked, and gives the exit code.
    pub fn report(&self, as_json: bool) -> ExitCode {
        if as_json && !self.details.is_null() {
            eprintln!("{}", json!({ "error": self.details }));
        } else if !self.message.is_empty() {
            eprintln!("error: {}", self.message);
        }
        ExitCode::from(self.kind.exit_code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        let list: Vec<Value> =
            mistakes.0.iter().map(|mistake| json!({ "key": mistake.key, "message": mistake.message })).collect();
        Self {
            kind: Kind::Usage,
            message: mistakes.to_string(),
            details: json!({ "message": "bad configuration", "mistakes": list }),
        }
    }
}

/// A local I/O fault or the like: reported with its causes, as a failed check.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::refused(format!("{error:#}"))
    }
}

/// Code and message for people. Where the time runs out on our side, the transport calls it a cancellation; where a
/// connection breaks under a call, an unknown error (a status that a host sent has no source).
fn code_and_text(status: &Status) -> (Code, &str) {
    match (status.code(), status.message()) {
        (Code::Cancelled, "Timeout expired") => (Code::DeadlineExceeded, "no answer within the time given"),
        (Code::Unknown, _) if std::error::Error::source(status).is_some() => {
            (Code::Unavailable, "the connection broke before an answer came; a write may or may not have been applied")
        }
        as_it_is => as_it_is,
    }
}

/// A status' code by name, where our own deadline is called one.
pub fn status_name(status: &Status) -> &'static str {
    code_name(code_and_text(status).0)
}

/// Whether the machine itself refused, as against a host on the way to it.
pub fn was_rejected(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.domain == "telegraft" && info.reason == "REJECTED")
}

/// Whether what was asked for may have been done, though no answer says so.
pub fn may_have_been_done(status: &Status) -> bool {
    match status.get_details_error_info() {
        Some(info) => info.metadata.get("applied").is_some_and(|applied| applied == "unknown"),
        None => matches!(code_and_text(status).0, Code::DeadlineExceeded | Code::Unavailable | Code::Cancelled),
    }
}

/// A code as gRPC's own documents spell it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What a person can do about it, where that is not plain from the message.
fn advice(code: Code, reason: &str, applied: &str, text: &str) -> Option<&'static str> {
    match (reason, code) {
        ("NO_MODULE", _) if !text.contains("go back to") => {
            Some("upload and activate a module: telegraft module activate FILE")
        }
        ("NO_LEADER" | "LEADER_CHANGED" | "NOT_TRANSFERRED", _) if applied == "no" => {
            Some("try again; `telegraft status` shows whether a majority of the hosts is up")
        }
        ("OVERLOADED", _) => Some("try again in a moment, or with fewer clients at once"),
        ("HALTED", _) => Some("ask another host with --host ADDR; `telegraft status` shows which ones are well"),
        ("REJECTED", Code::ResourceExhausted | Code::Aborted) if names_a_budget(text) => {
            Some("`telegraft machine limits` shows the machine's budgets, and sets them")
        }
        (_, Code::DeadlineExceeded) if applied != "no" => Some(
            "give it more time with --timeout 30s; a write is retried safely with the same --client-id and --request-id",
        ),
        (_, _) if applied == "unknown" => Some("a write is retried safely with the same --client-id and --request-id"),
        (_, Code::Unavailable) => Some("`telegraft status` shows the hosts; name others with --host ADDR"),
        _ => None,
    }
}

/// Whether it is a machine's word that a budget ran out which can be set; other bounds are fixed, and a module may refuse with the
/// same code for reasons of its own.
fn names_a_budget(text: &str) -> bool {
    const WORDS: [&str; 9] = [
        "ran out of fuel (budget",
        "(memory_bytes)",
        "(sql_steps)",
        "(rows)",
        "(result_bytes)",
        "(value_bytes)",
        "(reply_bytes)",
        "(database_bytes)",
        "(module_bytes)",
    ];
    WORDS.iter().any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use tonic_types::ErrorDetails;

    use super::*;

    fn refusal(code: Code, reason: &str, applied: &str) -> Status {
        let metadata =
            HashMap::from([("applied".to_owned(), applied.to_owned()), ("leader".to_owned(), "b:7410".to_owned())]);
        Status::with_error_details(code, "it failed", ErrorDetails::with_error_info(reason, "telegraft", metadata))
    }

    #[test]
    fn each_kind_has_its_exit_code() {
        assert_eq!([Kind::Refused, Kind::Usage, Kind::Unreachable].map(Kind::exit_code), [1, 2, 3]);
    }

    #[test]
    fn a_refusal_says_reason_leader_and_whether_it_was_applied() {
        let failure = Failure::of_status("sending", &refusal(Code::Unavailable, "LEADER_CHANGED", "unknown"));
        assert_eq!(failure.kind, Kind::Refused);
        for part in [
            "sending: UNAVAILABLE: it failed",
            "reason: LEADER_CHANGED",
            "leader: b:7410",
            "may or may not",
            "--request-id",
        ] {
            assert!(failure.message.contains(part), "{part} is not in {}", failure.message);
        }
        assert_eq!(failure.details["reason"], "LEADER_CHANGED");
        assert_eq!(failure.details["code"], "UNAVAILABLE");
    }

    #[test]
    fn a_missing_module_comes_with_the_command_to_type() {
        let failure = Failure::of_status("asking", &refusal(Code::FailedPrecondition, "NO_MODULE", "no"));
        assert!(failure.message.contains("telegraft module activate FILE"), "{}", failure.message);
    }

    #[test]
    fn the_way_to_set_budgets_is_said_only_of_those_that_can_be_set() {
        let said = |code, text: &str| {
            let refused = refusal(code, "REJECTED", "no");
            let status = Status::with_details(code, text, Bytes::copy_from_slice(refused.details()));
            Failure::of_status("sending", &status).message.contains("telegraft machine limits")
        };
        let exhausted = Code::ResourceExhausted;
        assert!(said(exhausted, "the call used up its SQL budget of 5000000 steps (sql_steps)"));
        assert!(said(exhausted, "the init of module a 1 failed: a query's result has more than 7 rows (rows)"));
        assert!(said(exhausted, "the module's reply of 9 bytes is over the budget of 5 (reply_bytes)"));
        assert!(said(Code::Aborted, "the module ran out of fuel (budget 100)"));
        assert!(!said(Code::Aborted, "the module trapped: unreachable"));
        assert!(!said(exhausted, "the call handed over more than 268435456 bytes to the store and the log"));
        assert!(!said(exhausted, "no seats are left"), "a module's own word");
    }

    #[test]
    fn unavailable_without_details_is_nobody_there() {
        assert_eq!(Failure::of_status("asking", &Status::unavailable("connection reset")).kind, Kind::Unreachable);
        assert_eq!(Failure::of_status("asking", &Status::not_found("no user")).kind, Kind::Refused);
    }

    #[test]
    fn our_own_deadline_is_called_one() {
        let failure = Failure::of_status("asking", &Status::cancelled("Timeout expired"));
        assert_eq!((failure.kind, &failure.details["code"]), (Kind::Refused, &json!("DEADLINE_EXCEEDED")));
        assert!(failure.message.contains("--timeout"), "{}", failure.message);
    }

    #[test]
    fn a_broken_connection_is_no_riddle() {
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        let failure = Failure::of_status("asking", &broken);
        assert_eq!((failure.kind, &failure.details["code"]), (Kind::Unreachable, &json!("UNAVAILABLE")), "{broken:?}");
        let sent = Failure::of_status("asking", &Status::unknown("as a host says it"));
        assert_eq!((sent.kind, &sent.details["code"]), (Kind::Refused, &json!("UNKNOWN")));
    }

    #[test]
    fn mistakes_are_bad_usage_each_with_its_key() {
        let mistakes = Mistakes(vec![crate::settings::Mistake { key: "raft.tick".into(), message: "is odd".into() }]);
        let failure = Failure::from(mistakes);
        assert_eq!(failure.kind, Kind::Usage);
        assert_eq!(failure.details["mistakes"][0]["key"], "raft.tick");
    }
}
