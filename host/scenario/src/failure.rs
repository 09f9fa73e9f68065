//! What a test finds, and why one cannot go on: in words that say what to do.

use std::time::Duration;

use telegraft_node::ports::{Code, MachineFault, Rejection};
use telegraft_sim::judge::Violation;

/// Why a call, an event or a check did not end well.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The module refused the call, or the machine did (a trap, a budget): a result, the same on every host.
    #[error("{}: {}", code_name(.0.code), .0.message)]
    Rejected(Rejection),
    /// What was asked is nothing that the module offers: no such method, or JSON that does not fit.
    #[error("{0}")]
    BadCall(String),
    /// The module's reply is not what its own service promises.
    #[error("{0}")]
    BadReply(String),
    /// Nobody answered, for a long simulated time, however often it was tried.
    #[error(
        "no host answered {what} within {} simulated seconds\n  what to do: see that a majority of the hosts runs and is connected; \
         `heal` ends every partition and starts all hosts", .within.as_secs()
    )]
    NoAnswer {
        /// What was asked.
        what: String,
        /// How long it was tried.
        within: Duration,
    },
    /// A rule that must hold for every module in every world is broken.
    #[error("{}", told(.0))]
    Broken(Violation),
    /// The simulated cluster cannot run on this machine.
    #[error("{0}")]
    Unable(String),
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Failure::Broken(violation)
    }
}

impl From<MachineFault> for Failure {
    fn from(fault: MachineFault) -> Self {
        Failure::Unable(fault.to_string())
    }
}

fn told(violation: &Violation) -> String {
    let Violation { checker, what } = violation;
    match checker {
        'S' => format!(
            "the replicas are not equal: {what}\n  what to do: compute from the store, the command and the context alone; a module that is \
             activated with `reuse` must keep nothing in memory between two calls"
        ),
        'R' => format!(
            "the module keeps state in memory between calls, which `reuse` forbids: {what}\n  what to do: keep everything in the store, or \
             leave `reuse` out"
        ),
        'O' => format!("a write was not applied exactly once: {what}"),
        'V' => format!("the cluster does not come to rest: {what}"),
        'P' => format!("a host cannot go on: {what}"),
        _ => format!("the hosts broke rule {checker} of replication, which is no module's fault: {what}"),
    }
}

/// Every code that a module or a machine can refuse with, by the name gRPC's documents use.
const CODES: [(Code, &str); 12] = [
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

/// A code's name, as gRPC's documents spell it.
pub fn code_name(code: Code) -> &'static str {
    CODES.iter().find(|(known, _)| *known == code).map_or("UNKNOWN", |(_, name)| name)
}

/// The code of a name.
///
/// # Errors
/// Lists the names there are.
pub(crate) fn code_named(name: &str) -> Result<Code, String> {
    CODES.iter().find(|(_, known)| *known == name).map(|(code, _)| *code).ok_or_else(|| {
        let names: Vec<&str> = CODES.iter().map(|(_, name)| *name).collect();
        format!("{name:?} is no code; there are {}", names.join(", "))
    })
}
