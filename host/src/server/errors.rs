//! The errors that clients see: gRPC status codes with a `google.rpc.ErrorInfo` that says why, who leads, and whether a
//! write was certainly not applied. Owns the list of reasons; ARCHITECTURE.md repeats it for readers.

use std::collections::HashMap;

use telegraft_node::ports::{Code as OutcomeCode, Rejection};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of every `ErrorInfo` of ours.
const DOMAIN: &str = "telegraft";

/// Whether a failed write may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It did.
    Yes,
    /// It did not and will not.
    No,
    /// It may have, or may still.
    Unknown,
}

/// Why a call failed, apart from what the guest itself says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No leader was known until the deadline.
    NoLeader,
    /// The leader changed or could not be reached while the write was under way.
    LeaderChanged,
    /// The deadline passed.
    Deadline,
    /// Too much is under way on this host or on the leader.
    Overloaded,
    /// The host is stopping.
    Stopping,
    /// The call itself is wrong (unknown machine, too large, malformed field).
    BadCall,
    /// The module was refused.
    BadModule,
    /// Leadership was to move, and did not.
    NotTransferred,
    /// No such module, or none that this prefix names alone.
    NoModule,
    /// Not served by this version.
    NotServed,
    /// The machine or the guest refused the call.
    Rejected,
    /// A trial of a module could not be carried out.
    TrialFailed,
    /// A stranger, or a host of another cluster.
    WrongCluster,
    /// This host's machine has halted: it would have to guess, or differs from the others'.
    Halted,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::NoLeader => "NO_LEADER",
            Self::LeaderChanged => "LEADER_CHANGED",
            Self::Deadline => "DEADLINE",
            Self::Overloaded => "OVERLOADED",
            Self::Stopping => "STOPPING",
            Self::BadCall => "BAD_CALL",
            Self::BadModule => "BAD_MODULE",
            Self::NotTransferred => "NOT_TRANSFERRED",
            Self::NoModule => "NO_MODULE",
            Self::NotServed => "NOT_SERVED",
            Self::Rejected => "REJECTED",
            Self::TrialFailed => "TRIAL_FAILED",
            Self::WrongCluster => "WRONG_CLUSTER",
            Self::Halted => "HALTED",
        }
    }
}

/// A status with our `ErrorInfo`. `leader` is the leader's client address, empty where unknown.
pub fn status(code: Code, reason: Reason, applied: Applied, leader: &str, message: impl Into<String>) -> Status {
    let applied = match applied {
        Applied::Yes => "yes",
        Applied::No => "no",
        Applied::Unknown => "unknown",
    };
    let metadata =
        HashMap::from([("applied".to_owned(), applied.to_owned()), ("leader".to_owned(), leader.to_owned())]);
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason.name(), DOMAIN, metadata))
}

/// The same status for a write that an earlier attempt may have got applied: "certainly not" holds for the last attempt
/// alone. What the machine itself said stands, since it knows the session.
pub fn in_doubt(refused: Status) -> Status {
    match refused.get_details_error_info() {
        Some(info) if info.domain == DOMAIN && info.reason != Reason::Rejected.name() => {
            let metadata: HashMap<_, _> =
                info.metadata.into_iter().chain([("applied".to_owned(), "unknown".to_owned())]).collect();
            let details = ErrorDetails::with_error_info(info.reason, DOMAIN, metadata);
            Status::with_error_details(refused.code(), refused.message(), details)
        }
        _ => refused,
    }
}

/// The call itself is wrong; nothing happened.
pub fn bad_call(message: impl Into<String>) -> Status {
    status(Code::InvalidArgument, Reason::BadCall, Applied::No, "", message)
}

/// This host's machine has halted, and why.
pub fn halted(why: &str, applied: Applied, leader: &str) -> Status {
    let message = format!("this host has halted its machine; ask another host. {why}");
    status(Code::Unavailable, Reason::Halted, applied, leader, message)
}

/// Whether a host refused because its machine has halted; then, whether the write may have been applied all the same.
pub fn is_of_halted(refused: &Status) -> Option<Applied> {
    let info = refused.get_details_error_info()?;
    let halted = info.domain == DOMAIN && info.reason == Reason::Halted.name();
    halted
        .then(|| if info.metadata.get("applied").is_some_and(|is| is == "no") { Applied::No } else { Applied::Unknown })
}

/// What the machine or its guest refused. It was applied as a refusal: its effects are undone, for good.
pub fn rejection(rejection: Rejection) -> Status {
    let applied = if rejection.code == OutcomeCode::DataLoss { Applied::Yes } else { Applied::No };
    status(code(rejection.code), Reason::Rejected, applied, "", rejection.message)
}

fn code(code: OutcomeCode) -> Code {
    Code::from_i32(code as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(status: &Status) -> String {
        status.get_details_error_info().unwrap().metadata["applied"].clone()
    }

    #[test]
    fn a_refusal_after_an_attempt_in_doubt_is_in_doubt() {
        let refused = status(Code::ResourceExhausted, Reason::Overloaded, Applied::No, "a:1", "too much");
        let doubtful = in_doubt(refused);
        assert_eq!((doubtful.code(), applied(&doubtful).as_str()), (Code::ResourceExhausted, "unknown"));
        assert_eq!(doubtful.get_details_error_info().unwrap().metadata["leader"], "a:1");
    }

    #[test]
    fn a_halted_host_is_told_from_all_others() {
        for said in [Applied::No, Applied::Unknown] {
            assert_eq!(is_of_halted(&halted("another engine", said, "")), Some(said));
        }
        assert_eq!(is_of_halted(&in_doubt(halted("another engine", Applied::No, ""))), Some(Applied::Unknown));
        assert_eq!(is_of_halted(&bad_call("x")), None);
        assert_eq!(is_of_halted(&Status::unavailable("x")), None);
    }

    #[test]
    fn what_the_machine_said_stands() {
        let said = rejection(Rejection { code: OutcomeCode::NotFound, message: "no such user".into() });
        assert_eq!(applied(&in_doubt(said)), "no");
    }
}
