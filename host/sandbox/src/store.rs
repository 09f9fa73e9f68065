//! The WIT imports `store` and `log`, for one guest instance: a thin layer over [`Database`](crate::database::Database)
//! and tracing.

use std::borrow::Cow;

use telegraft_node::ports::{Code, MachineFault};

use crate::{
    engine::HOSTCALL_BYTES_MAX,
    errors::SqlEnd,
    guest::{
        GuestState, LOG_LINES_PER_CALL_MAX,
        bindings::telegraft::machine::{log, store, types},
        cut, rejection,
    },
};

/// What a value or a line counts besides its bytes.
const VALUE_BYTES: usize = 16;

/// Bytes of a log line that are kept.
const LOG_LINE_BYTES_MAX: usize = 1 << 10;

impl types::Host for GuestState {}

impl store::Host for GuestState {
    fn execute(&mut self, sql: String, params: Vec<store::Value>) -> wasmtime::Result<Result<u64, store::Error>> {
        self.take_over(sql.len() + params.iter().map(bytes).sum::<usize>())?;
        let answer = match self.database.as_mut() {
            Some(database) => database.execute(&sql, &params),
            None => Err(no_store()),
        };
        self.settle(answer)
    }

    fn query(&mut self, sql: String, params: Vec<store::Value>) -> wasmtime::Result<Result<store::Rows, store::Error>> {
        self.take_over(sql.len() + params.iter().map(bytes).sum::<usize>())?;
        let answer = match self.database.as_mut() {
            Some(database) => database.query(&sql, &params),
            None => Err(no_store()),
        };
        self.settle(answer)
    }
}

/// A module that is described or instantiated has no store.
fn no_store() -> SqlEnd {
    SqlEnd::Guest(store::Error::Denied("the store is available in apply, query and init only".to_owned()))
}

/// Bytes of a parameter as it comes from the guest's memory.
fn bytes(value: &store::Value) -> usize {
    match value {
        store::Value::Text(text) => text.len() + VALUE_BYTES,
        store::Value::Blob(blob) => blob.len() + VALUE_BYTES,
        _ => VALUE_BYTES,
    }
}

impl GuestState {
    /// Counts bytes that the guest hands over, whatever becomes of them: each is copied and looked at, at no cost in fuel. A
    /// query that was cancelled goes no further than here.
    fn take_over(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if self.database.as_ref().is_some_and(|database| database.is_cancelled()) {
            return Err(self.end(rejection(Code::Aborted, "the query was cancelled").into()));
        }
        self.bytes_taken = self.bytes_taken.saturating_add(bytes);
        if self.bytes_taken <= HOSTCALL_BYTES_MAX {
            return Ok(());
        }
        let message = format!("the call handed over more than {HOSTCALL_BYTES_MAX} bytes to the store and the log");
        Err(self.end(rejection(Code::ResourceExhausted, message).into()))
    }

    fn settle<T>(&mut self, answer: Result<T, SqlEnd>) -> wasmtime::Result<Result<T, store::Error>> {
        match answer {
            Ok(value) => Ok(Ok(value)),
            Err(SqlEnd::Guest(error)) => Ok(Err(error)),
            Err(SqlEnd::Ended(ended)) => Err(self.end(ended)),
        }
    }
}

impl log::Host for GuestState {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.take_over(VALUE_BYTES + message.len())?;
        self.log_lines = self.log_lines.saturating_add(1);
        if self.log_lines > LOG_LINES_PER_CALL_MAX {
            return Ok(());
        }
        let (module, line) = (&*self.module, one_line(cut(&message, LOG_LINE_BYTES_MAX)));
        match level {
            log::Level::Debug => tracing::debug!(target: "telegraft::guest", module, "{line}"),
            log::Level::Info => tracing::info!(target: "telegraft::guest", module, "{line}"),
            log::Level::Warn => tracing::warn!(target: "telegraft::guest", module, "{line}"),
            log::Level::Error => tracing::error!(target: "telegraft::guest", module, "{line}"),
        }
        Ok(())
    }
}

/// `text` without line ends and terminal codes: what a guest says must not look like a line of the host's own.
fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    Cow::Owned(line)
}

/// The database was lent and did not come back: a defect of this crate.
pub(crate) fn database_lost() -> MachineFault {
    MachineFault("the connection to the database was lost in a guest call".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_s_line_is_one_line() {
        assert_eq!(one_line("plain \u{e9}"), "plain \u{e9}");
        assert_eq!(one_line("a\nb\r\u{1b}[2J\0"), "a\\nb\\r\\u{1b}[2J\\u{0}");
    }
}
