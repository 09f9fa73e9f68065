//! How a guest's statement runs: its price in steps, the reach of its values, and what its errors mean.
//!
//! The step budget is counted exactly: a statement's VM step counter is reset before it runs and read after it, and each step
//! counts what the statement's reach makes it ([`crate::reach`]). A statement that meets a longer value than its reach is
//! begun again with the next one, which it can be as long as it has changed nothing. Where it has, the whole call is, once,
//! and carefully: each statement that writes is then within a savepoint of its own.
//!
//! The reach bounds a statement's run alone, not its compilation: SQLite takes a default value or a message that it cannot
//! write down for a lack of memory.

use std::sync::Arc;

use rusqlite::{Connection, Error as SqlError, ErrorCode, StatementStatus};
use telegraft_node::ports::{Code, MachineFault};

use crate::{
    database::{Database, SQL_BYTES_CACHED_MAX, SQL_BYTES_MAX, Schema, VALUE_BYTES_HOST, quote},
    effects::table_size,
    errors::{SqlEnd, fault, is_guests, over},
    functions,
    guest::{bindings::telegraft::machine::store, rejection},
    keys::Keys,
    policy::{self, Mode, Policy, SAME_NAMES},
    reach::{self, REACH_MIN},
    rows::{Collected, Sink, SteppedOver},
};

/// One step of the budget for so many bytes of statement text, whether it is compiled or comes from the cache.
const TEXT_BYTES_PER_STEP: usize = 8;

/// What SQLite writes around a name or a definition that it looks for or replaces, bytes; more than enough.
const QUOTED_BYTES: usize = 512;

/// Bytes that the renaming of a column may hold in memory: SQLite makes room for as many new names as the longest definition
/// could hold.
const RENAMING_BYTES_MAX: usize = 64 << 20;

/// What follows a statement's run.
enum Then {
    Done,
    /// It ran out of steps before it had the reach that it needs.
    UsedUp,
    /// It is to be undone, and to begin again with this reach.
    TakeBack(i32),
    /// So is its call, with care, and at least this reach for DDL.
    CallAgain(i32),
}

impl Database {
    /// The WIT store's `execute`: the number of rows the statement changed, 0 where it changes none or is DDL. Rows that
    /// it returns are stepped over.
    pub(crate) fn execute(&mut self, sql: &str, params: &[store::Value]) -> Result<u64, SqlEnd> {
        self.run(sql, params, &mut SteppedOver)
    }

    /// The WIT store's `query`.
    pub(crate) fn query(&mut self, sql: &str, params: &[store::Value]) -> Result<store::Rows, SqlEnd> {
        let mut collected = Collected::new(self.limits);
        self.run(sql, params, &mut collected)?;
        Ok(collected.rows)
    }

    /// Runs one statement to its end; the number of rows it changed.
    fn run(&mut self, sql: &str, params: &[store::Value], sink: &mut impl Sink) -> Result<u64, SqlEnd> {
        let mut reach = REACH_MIN;
        let ended = loop {
            let ended = self.run_statement(sql, params, sink, reach);
            match self.again.take() {
                Some(longer) => reach = longer,
                None => break ended,
            }
        };
        self.bound_values(VALUE_BYTES_HOST);
        self.policy.effects().end_ddl();
        if self.policy.compiling_cost() > 0 || sql.len() > SQL_BYTES_CACHED_MAX {
            self.conn.flush_prepared_statement_cache();
        }
        ended
    }

    /// `least`: the reach that it has at the least. Where [`Database::again`] is set, nothing of it has happened.
    fn run_statement(
        &mut self,
        sql: &str,
        params: &[store::Value],
        sink: &mut impl Sink,
        least: i32,
    ) -> Result<u64, SqlEnd> {
        let definition_bytes = match self.definition_bytes() {
            Ok(bytes) => bytes,
            Err(e) => return Err(SqlEnd::Ended(fault("cannot measure the schema", &e).into())),
        };
        if let Some(why) = policy::refuse_text(sql) {
            return Err(SqlEnd::Guest(store::Error::Denied(why.to_owned())));
        }
        self.steps_left = self.steps_left.saturating_sub(1 + (sql.len() / TEXT_BYTES_PER_STEP) as i64);
        if self.steps_left < 0 {
            return Err(self.over_steps());
        }
        self.policy.begin_prepare();
        let mut statement = match self.conn.prepare_cached(sql) {
            Ok(statement) => statement,
            Err(e) => {
                // SQLite's error may hide that its parts were too many already, but not what they cost.
                self.steps_left = self.steps_left.saturating_sub_unsigned(self.policy.compiling_cost());
                return Err(match e.sqlite_error_code() {
                    _ if self.steps_left < 0 => self.over_steps(),
                    Some(ErrorCode::TooBig) => {
                        let why = format!("the statement's text has {} bytes: at most {SQL_BYTES_MAX}", sql.len());
                        SqlEnd::Guest(store::Error::TooLarge(why))
                    }
                    _ => self.classify(e),
                });
            }
        };
        self.steps_left = self.steps_left.saturating_sub_unsigned(self.policy.compiling_cost());
        if self.steps_left < 0 {
            return Err(self.over_steps());
        }
        let ddl = self.policy.saw_ddl();
        if statement.is_explain() != 0 {
            statement.discard();
            return Err(SqlEnd::Guest(store::Error::Denied("EXPLAIN is not available to a module".to_owned())));
        }
        let read_only = statement.readonly();
        if read_only && statement.column_count() == 0 {
            statement.discard();
            return Err(SqlEnd::Guest(store::Error::Invalid("the statement is empty".to_owned())));
        }
        if statement.parameter_count() != params.len() {
            let message =
                format!("the statement has {} parameters, {} were given", statement.parameter_count(), params.len());
            if ddl {
                // From the cache it would come back without the authorizer having seen it.
                statement.discard();
            }
            return Err(SqlEnd::Guest(store::Error::Invalid(message)));
        }
        self.bound_values(self.value_bytes);
        for (i, param) in params.iter().enumerate() {
            let bound = match param {
                store::Value::Null => statement.raw_bind_parameter(i + 1, rusqlite::types::Null),
                store::Value::Integer(v) => statement.raw_bind_parameter(i + 1, v),
                store::Value::Real(v) => statement.raw_bind_parameter(i + 1, v),
                store::Value::Text(v) => statement.raw_bind_parameter(i + 1, v.as_str()),
                store::Value::Blob(v) => statement.raw_bind_parameter(i + 1, v.as_slice()),
            };
            if let Err(e) = bound {
                if ddl {
                    statement.discard();
                } else {
                    drop(statement);
                }
                return Err(self.classify(e));
            }
        }
        self.bound_values(VALUE_BYTES_HOST);
        let resized = if ddl {
            self.schema_changed = true;
            let tables = self.policy.resized();
            match sizes(&self.conn, &self.policy, &mut self.steps_left, &tables) {
                Ok(Some(sizes)) => {
                    self.policy.effects().begin_ddl(tables.iter().map(|(table, _)| table.clone()));
                    Some((tables, sizes))
                }
                Ok(None) => {
                    statement.discard();
                    return Err(self.over_steps());
                }
                Err(fault) => return Err(SqlEnd::Ended(fault.into())),
            }
        } else {
            None
        };
        let grown = self.policy.effects().grown();

        // Six columns of one name are the fewest.
        if statement.column_count() > 5 && policy::has_random_names(statement.column_names()) {
            return Err(SqlEnd::Guest(store::Error::Invalid(SAME_NAMES.to_owned())));
        }
        let makes_index = ddl && self.policy.makes_index();
        let handed_over = sql.len().max(params.iter().map(bytes).sum());
        let mut reach = if makes_index {
            if let Some(why) = refuse_index(definition_bytes, sql) {
                statement.discard();
                return Err(SqlEnd::Guest(store::Error::TooLarge(why)));
            }
            REACH_MIN
        } else if ddl {
            // Definitions are written anew, quoted, and may grow.
            let written = (definition_bytes + handed_over).saturating_mul(2).saturating_add(QUOTED_BYTES);
            reach::reach(written, self.value_bytes).max(self.care.unwrap_or(REACH_MIN))
        } else {
            reach::reach(definition_bytes.max(handed_over), self.value_bytes).max(least)
        };
        if ddl && self.policy.alters() {
            let weighed = refuse_alteration(&self.conn, &self.policy, &mut self.steps_left, definition_bytes, sql);
            match weighed.map_err(|e| SqlEnd::Ended(fault("cannot read the schema", &e).into())) {
                Ok(None) if self.steps_left >= 0 => (),
                Ok(Some(why)) => {
                    statement.discard();
                    return Err(SqlEnd::Guest(store::Error::TooLarge(why)));
                }
                other => {
                    statement.discard();
                    return Err(other.err().unwrap_or_else(|| self.over_steps()));
                }
            }
        }
        let guarded = self.care.is_some() && !read_only && !ddl;
        if guarded {
            savepoint(&self.conn, &self.policy, "SAVEPOINT")?;
        }
        let changed_before = self.conn.total_changes();
        let before = self.policy.effects().so_far();
        let mut outcome;
        let mut failed;
        let then = loop {
            if !read_only {
                let keys = known_keys(&self.conn, &self.policy, &mut self.schema.keys);
                let keys = keys.map_err(|e| SqlEnd::Ended(fault("cannot read the schema", &e).into()))?;
                self.policy.effects().keep_to(Some((keys, reach > REACH_MIN)));
            }
            sink.begin(&statement);
            (outcome, failed) = (Ok(()), None);
            // From here to `end_steps` the count runs. It begins at zero: it was reset when it was read the last time.
            self.bound_values(reach);
            self.policy.begin_steps(self.steps_left, reach);
            {
                let mut rows = statement.raw_query();
                loop {
                    match rows.next() {
                        Ok(Some(row)) => {
                            outcome = sink.row(row);
                            if outcome.is_err() {
                                break;
                            }
                        }
                        Ok(None) => break,
                        Err(e) => {
                            failed = Some(e);
                            break;
                        }
                    }
                }
            }
            let charged = self.policy.end_steps();
            self.bound_values(VALUE_BYTES_HOST);
            self.policy.effects().keep_to(None);
            let mut steps = i64::from(statement.reset_status(StatementStatus::VmStep)) * reach::weight(reach);
            if ddl {
                // Statements of SQLite's own within it (a check of all rows, say) count in ticks alone.
                steps = steps.max(self.policy.meter.ticked());
            }
            self.steps_left = self.steps_left.saturating_sub(steps.saturating_add(charged));
            let too_long = failed.as_ref().is_some_and(|e| e.sqlite_error_code() == Some(ErrorCode::TooBig));
            if !too_long || reach >= self.value_bytes || makes_index {
                break Then::Done;
            }
            if self.steps_left < 0 {
                break Then::UsedUp;
            }
            let longer = reach::next(reach, self.value_bytes);
            if ddl {
                break Then::CallAgain(longer);
            } else if guarded {
                break Then::TakeBack(longer);
            } else if self.policy.effects().so_far().rows_seen != before.rows_seen {
                break Then::CallAgain(REACH_MIN);
            }
            reach = longer;
        };
        if ddl {
            statement.discard();
            self.conn.flush_prepared_statement_cache();
            self.schema = Schema::default();
        } else {
            drop(statement);
        }
        if guarded && !self.conn.is_autocommit() {
            if let Then::TakeBack(longer) = then {
                savepoint(&self.conn, &self.policy, "ROLLBACK TO")?;
                self.policy.effects().back_to(&before);
                self.again = Some(longer);
            }
            savepoint(&self.conn, &self.policy, "RELEASE")?;
        }
        match then {
            Then::Done => (),
            Then::UsedUp => return Err(self.over_steps()),
            Then::TakeBack(_) => {
                // Where the transaction has changed the schema, SQLite forgets it with what was taken back.
                let mode = self.policy.mode();
                self.policy.set_mode(Mode::Host);
                let loaded = self.load_schema();
                self.policy.set_mode(mode);
                loaded.map_err(|fault| SqlEnd::Ended(fault.into()))?;
                return Err(SqlEnd::Ended(rejection(Code::Aborted, "the statement begins again").into()));
            }
            Then::CallAgain(care) => {
                self.wants_care = Some(care.max(self.care.unwrap_or(REACH_MIN)));
                return Err(SqlEnd::Ended(rejection(Code::Aborted, "the call begins again, carefully").into()));
            }
        }
        if self.policy.took_rowid_max() {
            let message = "the row id 9223372036854775807 is not available to a module";
            return Err(SqlEnd::Ended(rejection(Code::Aborted, message).into()));
        }
        if let Some(why) = self.policy.effects().take_long_key() {
            return Err(SqlEnd::Ended(rejection(Code::Aborted, why).into()));
        }
        if self.policy.meter.exhausted() {
            return Err(self.over_steps());
        }
        if let Some(e) = failed {
            let end = match self.classify(e) {
                SqlEnd::Guest(store::Error::TooLarge(_)) if makes_index => SqlEnd::Guest(store::Error::TooLarge(
                    format!("a key of the index, or a value that it is made from, has more than {REACH_MIN} bytes"),
                )),
                end => end,
            };
            // Where SQLite took back what the statement had done, the hook is not told. It is so where nothing was counted. Where
            // only triggers changed something it may be so or not: then the data are not taken for smaller.
            let effects = self.policy.effects();
            if self.conn.total_changes() == changed_before {
                effects.set_grown(grown);
            } else if self.conn.changes() == 0 {
                effects.set_grown(grown.max(effects.grown()));
            }
            return Err(end);
        }
        if let Some((tables, before)) = resized {
            let after = sizes(&self.conn, &self.policy, &mut self.steps_left, &tables);
            let Some(after) = after.map_err(|fault| SqlEnd::Ended(fault.into()))? else {
                return Err(self.over_steps());
            };
            let altered = tables.iter().zip(before.iter().zip(&after)).map(|((_, dropped), sizes)| match sizes {
                // Renamed: neither more nor less.
                (Some(_), None) if !dropped => 0,
                (before, after) => after.unwrap_or(0).saturating_sub(before.unwrap_or(0)),
            });
            self.policy.effects().saw_ddl(altered.fold(0, i64::saturating_add));
            let random = policy::tables_with_random_names(&self.policy, &self.conn, &tables);
            if random.map_err(|e| SqlEnd::Ended(fault("cannot read the columns of a table", &e).into()))? {
                return Err(SqlEnd::Ended(rejection(Code::Aborted, SAME_NAMES).into()));
            }
        }
        if self.policy.effects().outgrown() {
            return Err(self.over_data());
        }
        if self.steps_left < 0 {
            return Err(self.over_steps());
        }
        outcome?;
        // Statements that count nothing (DDL, REINDEX) leave the count of the one before.
        let counted = !ddl && self.conn.total_changes() != changed_before;
        Ok(if counted { self.conn.changes() } else { 0 })
    }

    /// Bytes of the longest definition in the schema.
    fn definition_bytes(&mut self) -> rusqlite::Result<usize> {
        if let Some(bytes) = self.schema.definition_bytes {
            return Ok(bytes);
        }
        let conn = &self.conn;
        let bytes = as_host(&self.policy, || {
            let sql = "SELECT coalesce(max(octet_length(sql)), 0) FROM sqlite_schema \
                       WHERE substr(name, 1, 11) <> '_telegraft_' AND substr(tbl_name, 1, 11) <> '_telegraft_'";
            conn.query_row(sql, [], |row| row.get::<_, i64>(0))
        })?;
        let bytes = usize::try_from(bytes).unwrap_or_default();
        self.schema.definition_bytes = Some(bytes);
        Ok(bytes)
    }

    fn over_data(&self) -> SqlEnd {
        over(format!(
            "the machine's data would outgrow its budget of {} bytes (database_bytes)",
            self.limits.database_bytes
        ))
    }

    fn over_steps(&self) -> SqlEnd {
        over(format!("the call used up its SQL budget of {} steps (sql_steps)", self.limits.sql_steps))
    }

    /// What an error of SQLite means for the guest's statement.
    fn classify(&self, error: SqlError) -> SqlEnd {
        if let Some(why) = self.policy.take_denied() {
            return SqlEnd::Guest(store::Error::Denied(why));
        }
        let (code, message) = match &error {
            SqlError::SqliteFailure(e, message) => (e.code, message.clone()),
            SqlError::SqlInputError { error: e, msg, .. } => (e.code, Some(msg.clone())),
            SqlError::MultipleStatement => {
                return SqlEnd::Guest(store::Error::Invalid("one statement at a time".to_owned()));
            }
            SqlError::NulError(_) => {
                return SqlEnd::Guest(store::Error::Invalid("the statement contains a NUL".to_owned()));
            }
            _ => return SqlEnd::Ended(fault("a module's statement failed", &error).into()),
        };
        let message = message.unwrap_or_else(|| format!("{code:?}"));
        if code == ErrorCode::OperationInterrupted {
            if self.policy.effects().outgrown() {
                return self.over_data();
            }
            return self.over_steps();
        }
        if self.writable && self.conn.is_autocommit() && is_guests(code) {
            let why = format!("the statement rolled the whole transaction back, which is the host's ({message})");
            return SqlEnd::Ended(rejection(Code::Aborted, why).into());
        }
        SqlEnd::Guest(match code {
            ErrorCode::ConstraintViolation => store::Error::Constraint(message),
            ErrorCode::TooBig => store::Error::TooLarge(format!(
                "a value or a row has more than {} bytes (value_bytes)",
                self.limits.value_bytes
            )),
            ErrorCode::AuthorizationForStatementDenied => store::Error::Denied(message),
            // On the writing connection it is the file system's word.
            ErrorCode::ReadOnly if !self.writable => store::Error::Denied(message),
            code if is_guests(code) => match functions::refusal_of_missing(&message) {
                Some(why) => store::Error::Denied(why),
                None => store::Error::Invalid(message),
            },
            _ => return SqlEnd::Ended(fault("a module's statement failed", &error).into()),
        })
    }
}

/// The logical bytes of each of these tables that is there. Every row is looked at, and charged for; `None` where the steps
/// run out over it.
fn sizes(
    conn: &Connection,
    policy: &Policy,
    steps_left: &mut i64,
    tables: &[(String, bool)],
) -> Result<Option<Vec<Option<i64>>>, MachineFault> {
    let measure = || -> rusqlite::Result<Option<Vec<Option<i64>>>> {
        let mut sizes = Vec::with_capacity(tables.len());
        for (table, _) in tables {
            let size = table_size(conn, table, *steps_left)?;
            *steps_left = steps_left.saturating_sub(size.steps);
            if *steps_left < 0 {
                return Ok(None);
            }
            sizes.push(size.bytes);
        }
        Ok(Some(sizes))
    };
    as_host(policy, measure).map_err(|e| fault("cannot measure a table", &e))
}

fn known_keys(conn: &Connection, policy: &Policy, known: &mut Option<Arc<Keys>>) -> rusqlite::Result<Arc<Keys>> {
    if let Some(keys) = known {
        return Ok(Arc::clone(keys));
    }
    let keys = as_host(policy, || Keys::read(conn))?;
    Ok(Arc::clone(known.insert(Arc::new(keys))))
}

/// Why this CREATE INDEX cannot run within the smallest reach, which bounds its keys.
fn refuse_index(definition_bytes: usize, sql: &str) -> Option<String> {
    let fits = |bytes: usize| usize::try_from(REACH_MIN).is_ok_and(|max| bytes <= max);
    if !fits(definition_bytes) {
        return Some(format!(
            "no index can be made while the schema has a definition of {definition_bytes} bytes: at most {REACH_MIN}"
        ));
    }
    // SQLite looks for the new index by its name, whose quotes may all be doubled.
    (!fits(2 * sql.len() + QUOTED_BYTES)).then(|| {
        let max = (usize::try_from(REACH_MIN).unwrap_or_default() - QUOTED_BYTES) / 2;
        format!("the text of CREATE INDEX has {} bytes: at most {max}", sql.len())
    })
}

/// Why this ALTER TABLE cannot run, if it cannot. SQLite compiles all views for it, at no cost in steps: it is charged here.
fn refuse_alteration(
    conn: &Connection,
    policy: &Policy,
    steps_left: &mut i64,
    definition_bytes: usize,
    sql: &str,
) -> rusqlite::Result<Option<String>> {
    if definition_bytes.saturating_mul(sql.len()) > RENAMING_BYTES_MAX {
        return Ok(Some(format!(
            "the statement has {} bytes and the schema a definition of {definition_bytes}: too much memory for ALTER TABLE",
            sql.len()
        )));
    }
    let views = as_host(policy, || {
        let mut statement = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'view' -- _telegraft_")?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        names.collect::<rusqlite::Result<Vec<String>>>()
    })?;
    for view in views {
        let Some(cost) = policy.weigh(|| conn.prepare(&format!("SELECT * FROM {} -- _telegraft_", quote(&view))))
        else {
            return Ok(Some(format!("the view {view} is too complex for ALTER TABLE, which compiles all of them")));
        };
        *steps_left = steps_left.saturating_sub_unsigned(cost);
        if *steps_left < 0 {
            break;
        }
    }
    Ok(None)
}

/// Begins, goes back to, or ends the savepoint of a statement.
fn savepoint(conn: &Connection, policy: &Policy, what: &str) -> Result<(), SqlEnd> {
    let run = || conn.prepare_cached(&format!("{what} _telegraft_statement"))?.raw_execute();
    as_host(policy, run).map(drop).map_err(|e| SqlEnd::Ended(fault("a statement's savepoint failed", &e).into()))
}

/// Runs statements of the host's own in the middle of a guest's call.
fn as_host<T>(policy: &Policy, run: impl FnOnce() -> T) -> T {
    let mode = policy.mode();
    policy.set_mode(Mode::Host);
    let done = run();
    policy.set_mode(mode);
    done
}

/// Bytes of a parameter.
fn bytes(param: &store::Value) -> usize {
    match param {
        store::Value::Text(text) => text.len(),
        store::Value::Blob(blob) => blob.len(),
        _ => 8,
    }
}
