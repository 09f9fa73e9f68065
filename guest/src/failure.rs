//! Failures: how a module refuses, and what becomes of the store's errors.

use crate::{Failure, FailureCode, StoreError};

impl Failure {
    /// A refusal with a gRPC code and a message for the client.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// INVALID_ARGUMENT: the caller's mistake, whatever the state.
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(FailureCode::InvalidArgument, message)
    }

    /// NOT_FOUND: no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(FailureCode::NotFound, message)
    }

    /// ALREADY_EXISTS: there is one already.
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(FailureCode::AlreadyExists, message)
    }

    /// PERMISSION_DENIED: not allowed to this caller.
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(FailureCode::PermissionDenied, message)
    }

    /// FAILED_PRECONDITION: the state does not allow it.
    pub fn failed_precondition(message: impl Into<String>) -> Self {
        Self::new(FailureCode::FailedPrecondition, message)
    }

    /// OUT_OF_RANGE: beyond the end of something, which may be further away later.
    pub fn out_of_range(message: impl Into<String>) -> Self {
        Self::new(FailureCode::OutOfRange, message)
    }

    /// RESOURCE_EXHAUSTED: too much, or too large.
    pub fn resource_exhausted(message: impl Into<String>) -> Self {
        Self::new(FailureCode::ResourceExhausted, message)
    }

    /// UNAUTHENTICATED: the caller did not say who it is, or did not prove it.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(FailureCode::Unauthenticated, message)
    }

    /// ABORTED: another change came first; the caller may begin anew.
    pub fn aborted(message: impl Into<String>) -> Self {
        Self::new(FailureCode::Aborted, message)
    }

    /// UNIMPLEMENTED: no such method.
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(FailureCode::Unimplemented, message)
    }

    /// INTERNAL: the module's own defect.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FailureCode::Internal, message)
    }
}

/// The store's errors as a module's `?` turns them into an answer. Entries are applied one after the other, so a broken
/// constraint, a malformed statement or a forbidden one is the module's own defect, never a race; only a size is the
/// caller's doing.
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Constraint(what) => Self::internal(format!("the store refused a row: {what}")),
            StoreError::Invalid(what) => Self::internal(format!("the store did not accept a statement: {what}")),
            StoreError::Denied(what) => Self::internal(format!("the store does not allow a statement: {what}")),
            StoreError::TooLarge(what) => Self::resource_exhausted(format!("too large for the store: {what}")),
        }
    }
}
