//! What SQL a guest may use: an allow-list in three layers.
//!
//! 1. **Text.** A guest's statement that names anything beginning with `_telegraft_`, or with `sqlite_` (other than
//!    `sqlite_sequence`), is refused before SQLite sees it. SQL cannot compute an identifier, so this alone keeps a guest
//!    from naming the host's tables by any road (`ALTER … RENAME TO`, views, triggers). It also keeps guest statements
//!    and host statements apart in the statement cache: every statement of the host contains `_telegraft_`.
//! 2. **Authorizer.** What a statement does while it is compiled must be on the list below.
//! 3. **Functions.** Every function that SQLite has registered and that a module is not offered is replaced by one that
//!    refuses, so that nothing hangs on where in a schema SQLite asks the authorizer; those that would ask the host (for
//!    the time, for randomness) are replaced by ones that ask the log entry. [`crate::functions`] has the lists.
//!
//! Refused because replicas could differ: `changes`, `total_changes`, `last_insert_rowid` (a connection's history), the
//! mathematical functions of the C library, PRAGMA, EXPLAIN, ANALYZE (plans would depend on it), virtual tables. Refused
//! because the transaction is the host's: BEGIN, COMMIT, ROLLBACK, SAVEPOINT, ATTACH, temporary tables, VACUUM.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
};

use rusqlite::{
    Connection,
    hooks::{AuthAction, AuthContext, Authorization, PreUpdateCase},
};

use crate::{
    effects::Effects,
    functions::{self, EntrySource, Meter, STEPS_PER_TICK},
};

/// Prefix of the host's own tables and savepoints.
pub(crate) const RESERVED: &str = "_telegraft_";

/// SQLite's names for the table of a schema.
const SCHEMA_TABLES: &[&str] = &["sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"];

/// Table-valued functions a guest may read from.
const TABLE_FUNCTIONS: &[&str] = &["json_each", "json_tree", "jsonb_each", "jsonb_tree"];

/// Questions that SQLite asks the authorizer about one statement: some three for each SELECT and one for each column that is
/// named, also within views and triggers. What compiling costs grows with them, and views on views can make them grow
/// without end.
const QUESTIONS_MAX: u64 = 5_000;

/// Up to so many, compiling is part of a statement's price. A statement with more pays for it each time and is not kept
/// compiled, so that it pays the same on every replica.
const QUESTIONS_FREE: u64 = 500;

/// Steps for each question of a statement that pays for them.
const STEPS_PER_QUESTION: u64 = 100;

/// Who is compiling statements.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// The host itself: anything goes.
    Host = 0,
    /// A guest's command or init.
    Write = 1,
    /// A guest's read.
    Read = 2,
}

/// What the hooks of one connection share with its owner. Atomics only because hooks must be `Send`; one thread uses
/// them at a time.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    mode: AtomicU8,
    /// Why a statement was refused, for a message that says more than "not authorized".
    denied: Mutex<Option<String>>,
    is_denied: AtomicBool,
    /// Of the statement being compiled.
    questions: AtomicU64,
    /// The host counts the questions about what it compiles.
    weighing: AtomicBool,
    /// The statement being compiled changes the schema.
    ddl: AtomicBool,
    /// Tables that it makes, drops or alters; whether it drops them.
    resized: Mutex<Vec<(String, bool)>>,
    /// It is ALTER TABLE.
    alters: AtomicBool,
    /// It makes an index, maybe with a table.
    indexes: AtomicBool,
    /// A row took the largest row id.
    rowid_max: AtomicBool,
    /// Counts what the statement that runs costs.
    pub(crate) meter: Meter,
    /// What functions answer from.
    pub(crate) entry: EntrySource,
    /// What the entry has changed so far; a read changes nothing.
    effects: Arc<Effects>,
    /// Names of virtual table modules compiled in, other than [`TABLE_FUNCTIONS`].
    modules: Mutex<BTreeSet<String>>,
}

impl Policy {
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Relaxed);
    }

    pub(crate) fn mode(&self) -> Mode {
        match self.mode.load(Relaxed) {
            1 => Mode::Write,
            2 => Mode::Read,
            _ => Mode::Host,
        }
    }

    pub(crate) fn begin_prepare(&self) {
        self.questions.store(0, Relaxed);
        self.alters.store(false, Relaxed);
        self.indexes.store(false, Relaxed);
        if self.ddl.swap(false, Relaxed) {
            self.resized.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        if self.is_denied.swap(false, Relaxed) {
            *self.denied.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Why the last statement was refused, if it was.
    pub(crate) fn take_denied(&self) -> Option<String> {
        if !self.is_denied.swap(false, Relaxed) {
            return None;
        }
        self.denied.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What compiling the statement costs in steps. One that costs must not be kept compiled.
    pub(crate) fn compiling_cost(&self) -> u64 {
        match self.questions.load(Relaxed) {
            0..=QUESTIONS_FREE => 0,
            many => many * STEPS_PER_QUESTION,
        }
    }

    pub(crate) fn saw_ddl(&self) -> bool {
        self.ddl.load(Relaxed)
    }

    /// Whether the last statement to be compiled is ALTER TABLE.
    pub(crate) fn alters(&self) -> bool {
        self.alters.load(Relaxed)
    }

    /// What compiling costs that SQLite does by itself, in steps; none where it has too many parts. Nothing else of this policy
    /// is touched by it.
    pub(crate) fn weigh<T>(&self, compile: impl FnOnce() -> T) -> Option<u64> {
        let (mode, questions) = (self.mode(), self.questions.swap(0, Relaxed));
        self.set_mode(Mode::Host);
        self.weighing.store(true, Relaxed);
        drop(compile());
        self.weighing.store(false, Relaxed);
        self.set_mode(mode);
        let asked = self.questions.swap(questions, Relaxed);
        (asked <= QUESTIONS_MAX).then(|| asked * STEPS_PER_QUESTION)
    }

    /// Whether the last statement to be compiled is CREATE INDEX.
    pub(crate) fn makes_index(&self) -> bool {
        self.indexes.load(Relaxed) && self.resized.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The tables that the last statement to be compiled makes, drops (then with true) or alters.
    pub(crate) fn resized(&self) -> Vec<(String, bool)> {
        self.resized.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A statement begins to run, with this reach and so many steps at most.
    pub(crate) fn begin_steps(&self, steps: i64, reach: i32) {
        self.effects.record(true);
        self.rowid_max.store(false, Relaxed);
        self.meter.begin(steps, reach);
    }

    /// The statement has ended; the steps that were charged besides VM steps.
    pub(crate) fn end_steps(&self) -> i64 {
        self.effects.record(false);
        self.meter.end()
    }

    pub(crate) fn effects(&self) -> &Effects {
        &self.effects
    }

    pub(crate) fn took_rowid_max(&self) -> bool {
        self.rowid_max.load(Relaxed)
    }

    /// The progress handler: true interrupts.
    fn tick(&self) -> bool {
        // Steps outside a guest's statement (loading the schema, say) depend on the connection's history.
        self.meter.is_counting() && (self.meter.tick() || self.effects.outgrown())
    }

    /// Notes why a function refuses.
    pub(crate) fn refuse(&self, why: String) {
        let _ = self.deny(why);
    }

    fn deny(&self, why: impl Into<String>) -> Authorization {
        self.is_denied.store(true, Relaxed);
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        denied.get_or_insert_with(|| why.into());
        Authorization::Deny
    }

    /// Layer 2.
    fn authorize(&self, ctx: &AuthContext<'_>) -> Authorization {
        let mode = self.mode.load(Relaxed);
        if mode == Mode::Host as u8 {
            let too_many = self.weighing.load(Relaxed) && self.questions.fetch_add(1, Relaxed) >= QUESTIONS_MAX;
            return if too_many { Authorization::Deny } else { Authorization::Allow };
        }
        if self.questions.fetch_add(1, Relaxed) >= QUESTIONS_MAX {
            return self.deny("the statement is too complex: with the views and triggers in it, it has too many parts");
        }
        let read_only = mode == Mode::Read as u8;
        if let AuthAction::Select | AuthAction::Recursive = ctx.action {
            return Authorization::Allow;
        }
        if let AuthAction::Function { function_name } = ctx.action {
            return self.authorize_function(function_name);
        }
        let writes = !matches!(
            ctx.action,
            AuthAction::Read { .. }
                | AuthAction::Transaction { .. }
                | AuthAction::Savepoint { .. }
                | AuthAction::Pragma { .. }
                | AuthAction::Attach { .. }
                | AuthAction::Detach { .. }
        );
        if read_only && writes {
            return self.deny("a query cannot write");
        }
        let database = match ctx.action {
            // Here the usual place holds the column that is dropped.
            AuthAction::AlterTable { database_name, .. } => Some(database_name),
            _ => ctx.database_name,
        };
        if database.is_some_and(|name| !name.eq_ignore_ascii_case("main")) {
            // ALTER TABLE … RENAME looks for triggers and views in the (always empty) temporary schema, which a guest cannot
            // name itself.
            if let AuthAction::Read { table_name: name, .. } | AuthAction::Update { table_name: name, .. } = ctx.action
                && SCHEMA_TABLES.iter().any(|table| table.eq_ignore_ascii_case(name))
            {
                return Authorization::Allow;
            }
            return self.deny("temporary and attached databases are not available to a module");
        }
        match ctx.action {
            AuthAction::Read { table_name, column_name } => self.authorize_read(table_name, column_name),
            AuthAction::Insert { table_name } | AuthAction::Delete { table_name } if is_reserved(table_name) => {
                self.deny(reserved(table_name))
            }
            AuthAction::Insert { table_name } if table_name.eq_ignore_ascii_case("sqlite_sequence") => {
                self.deny("sqlite_sequence can only be deleted from")
            }
            AuthAction::Insert { .. } | AuthAction::Delete { .. } => Authorization::Allow,
            AuthAction::Update { table_name, column_name } => {
                if is_reserved(table_name) {
                    self.deny(reserved(table_name))
                } else if table_name.eq_ignore_ascii_case("sqlite_sequence")
                    && !column_name.eq_ignore_ascii_case("name")
                {
                    // At its largest value an insert would fail as if the disk were full.
                    self.deny("sqlite_sequence can only be deleted from")
                } else {
                    Authorization::Allow
                }
            }
            AuthAction::CreateTable { table_name: name }
            | AuthAction::DropTable { table_name: name }
            | AuthAction::AlterTable { table_name: name, .. } => {
                if matches!(ctx.action, AuthAction::AlterTable { .. }) {
                    self.alters.store(true, Relaxed);
                }
                let mut resized = self.resized.lock().unwrap_or_else(PoisonError::into_inner);
                if !resized.iter().any(|(table, _)| table == name) {
                    resized.push((name.to_owned(), matches!(ctx.action, AuthAction::DropTable { .. })));
                }
                drop(resized);
                self.authorize_ddl(&[name])
            }
            AuthAction::CreateView { view_name: name } | AuthAction::DropView { view_name: name } => {
                self.authorize_ddl(&[name])
            }
            AuthAction::CreateIndex { index_name, table_name } | AuthAction::DropIndex { index_name, table_name } => {
                if matches!(ctx.action, AuthAction::CreateIndex { .. }) {
                    self.indexes.store(true, Relaxed);
                }
                self.authorize_ddl(&[index_name, table_name])
            }
            AuthAction::CreateTrigger { trigger_name, table_name }
            | AuthAction::DropTrigger { trigger_name, table_name } => self.authorize_ddl(&[trigger_name, table_name]),
            // Part of CREATE INDEX; by itself harmless.
            AuthAction::Reindex { .. } => Authorization::Allow,
            AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => {
                self.deny("transactions are the host's: a command is one transaction as it is")
            }
            AuthAction::Pragma { pragma_name, .. } if self.checks_rows(pragma_name) => Authorization::Allow,
            AuthAction::Pragma { .. } => self.deny("PRAGMA is not available to a module"),
            AuthAction::Attach { .. } | AuthAction::Detach { .. } => {
                self.deny("temporary and attached databases are not available to a module")
            }
            AuthAction::CreateVtable { .. } | AuthAction::DropVtable { .. } => {
                self.deny("virtual tables are not available to a module")
            }
            AuthAction::Analyze { .. } => self.deny("ANALYZE is not available to a module"),
            _ => self.deny("this kind of statement is not available to a module"),
        }
    }

    fn authorize_function(&self, name: &str) -> Authorization {
        if functions::is_allowed(name) { Authorization::Allow } else { self.deny(functions::refusal(name)) }
    }

    /// ALTER TABLE … ADD COLUMN itself checks the rows that are there against CHECK and STRICT so; its text has no place for
    /// a guest to do it.
    fn checks_rows(&self, pragma: &str) -> bool {
        self.alters.load(Relaxed) && pragma.eq_ignore_ascii_case("quick_check")
    }

    fn authorize_read(&self, table: &str, column: &str) -> Authorization {
        if is_reserved(table) {
            return self.deny(reserved(table));
        }
        let lower = table.to_ascii_lowercase();
        if matches!(&*lower, "json_tree" | "jsonb_tree") && column.eq_ignore_ascii_case("path") {
            return self.deny(format!(
                "the column path of {lower} is not available to a module, nor is * there: SQLite takes a time for it that grows \
                 with the square of the text. Name the columns; fullkey says where a value is"
            ));
        }
        if lower.strip_prefix("pragma_").is_some_and(|pragma| self.checks_rows(pragma)) {
            return Authorization::Allow;
        }
        let modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if lower.starts_with("pragma_") || modules.contains(&lower) {
            return self.deny(format!("the virtual table {lower} is not available to a module"));
        }
        Authorization::Allow
    }

    fn authorize_ddl(&self, names: &[&str]) -> Authorization {
        self.ddl.store(true, Relaxed);
        match names.iter().find(|name| is_reserved(name)) {
            Some(name) => self.deny(reserved(name)),
            None => Authorization::Allow,
        }
    }
}

fn is_reserved(name: &str) -> bool {
    name.as_bytes().get(..RESERVED.len()).is_some_and(|head| head.eq_ignore_ascii_case(RESERVED.as_bytes()))
}

fn reserved(name: &str) -> String {
    format!("{name} is reserved: names that begin with {RESERVED} are the host's")
}

/// Why a statement with such columns ends.
pub(crate) const SAME_NAMES: &str =
    "more than five columns have the same name, for which SQLite makes up random ones; name them with AS";

/// Whether one of these tables (those that are dropped aside) has a column with a random name.
pub(crate) fn tables_with_random_names(
    policy: &Policy,
    conn: &Connection,
    tables: &[(String, bool)],
) -> rusqlite::Result<bool> {
    let mode = policy.mode();
    policy.set_mode(Mode::Host);
    let any = tables.iter().filter(|(_, dropped)| !dropped).try_fold(false, |any, (table, _)| {
        let mut statement = conn.prepare("SELECT name FROM pragma_table_info(?1) -- _telegraft_")?;
        let names = statement.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
        Ok(any || has_random_names(names.iter().map(String::as_str)))
    });
    policy.set_mode(mode);
    any
}

/// Whether names of columns were made up by SQLite's own random generator. To columns of one name SQLite adds `:1`, `:2` and
/// so on, and what it adds for the sixth and later ones is random (where a query, a view or CREATE TABLE AS has them in a
/// subquery).
pub(crate) fn has_random_names<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let names: Vec<&str> = names.collect();
    if !names.iter().any(|name| name.contains(':')) {
        return false;
    }
    // SQLite takes names for the same whatever their case.
    let names: BTreeSet<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    names.iter().any(|name| {
        let numbered = name.rsplit_once(':').and_then(|(base, n)| Some((base, n.parse::<u64>().ok()?)));
        numbered.is_some_and(|(base, n)| n > 4 && (1..=4).all(|i| names.contains(&format!("{base}:{i}"))))
    })
}

/// Layer 1: why the text is refused, if it is.
pub(crate) fn refuse_text(sql: &str) -> Option<&'static str> {
    let bytes = sql.as_bytes();
    const SEQUENCE: &[u8] = b"sequence";
    let mut from = 0;
    while let Some(at) = bytes.get(from..).and_then(|rest| rest.iter().position(|b| *b == b'_')) {
        let at = from + at;
        from = at + 1;
        let follows =
            |what: &[u8], at: usize| bytes.get(at..at + what.len()).is_some_and(|b| b.eq_ignore_ascii_case(what));
        if follows(RESERVED.as_bytes(), at) {
            return Some("names that begin with _telegraft_ are the host's");
        }
        if at >= 6 && follows(b"sqlite_", at - 6) && !follows(SEQUENCE, at + 1) {
            return Some("names that begin with sqlite_ are SQLite's own and are not available to a module");
        }
    }
    None
}

/// Installs all hooks on a new connection. [`Mode::Host`] holds until [`Policy::set_mode`] says otherwise.
pub(crate) fn install(conn: &mut Connection) -> rusqlite::Result<Arc<Policy>> {
    hook(conn, Policy::default())
}

/// [`install`] on a connection that cannot write, whose statements may be cancelled.
pub(crate) fn install_for_queries(conn: &mut Connection) -> rusqlite::Result<Arc<Policy>> {
    hook(conn, Policy { meter: Meter::of_queries(), ..Policy::default() })
}

fn hook(conn: &mut Connection, policy: Policy) -> rusqlite::Result<Arc<Policy>> {
    let policy = Arc::new(policy);
    {
        let mut modules = policy.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = conn.prepare("SELECT lower(name) FROM pragma_module_list")?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        for name in names {
            let name = name?;
            if !TABLE_FUNCTIONS.contains(&name.as_str()) {
                modules.insert(name);
            }
        }
    }
    functions::install(conn, &policy)?;
    let p = Arc::clone(&policy);
    conn.authorizer(Some(move |ctx: AuthContext<'_>| p.authorize(&ctx)))?;
    let p = Arc::clone(&policy);
    conn.progress_handler(STEPS_PER_TICK as i32, Some(move || p.tick()))?;
    // After the largest row id SQLite draws row ids from its own random generator, which no override reaches: the entry
    // that takes it is undone. Tables without row ids and virtual tables never come here.
    let p = Arc::clone(&policy);
    conn.preupdate_hook(Some(move |_action, _database: &str, table: &str, case: &PreUpdateCase| {
        p.meter.add(p.effects.see(table, case));
    }))?;
    let p = Arc::clone(&policy);
    conn.update_hook(Some(move |_action, _database: &str, _table: &str, rowid: i64| {
        if rowid == i64::MAX {
            p.rowid_max.store(true, Relaxed);
        }
    }))?;
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use rusqlite::{ErrorCode, StatementStatus};
    use telegraft_node::ports::Cancellation;

    use super::*;
    use crate::reach::REACH_MIN;

    #[test]
    fn the_text_layer_finds_reserved_names_anywhere_and_in_any_case() {
        for sql in [
            "SELECT * FROM _telegraft_meta",
            "ALTER TABLE t RENAME TO _Telegraft_x",
            "CREATE VIEW \"_TELEGRAFT_v\" AS SELECT 1",
            "SELECT rootpage FROM sqlite_schema",
            "SELECT 1 FROM SQLITE_MASTER",
            "SELECT sqlite_version()",
            "SELECT a_b_c, sqlite_stat1 FROM t",
        ] {
            assert!(refuse_text(sql).is_some(), "{sql}");
        }
        for sql in ["SELECT my_column FROM a_table", "DELETE FROM sqlite_sequence", "SELECT telegraft_", "_", "lite_x"]
        {
            assert!(refuse_text(sql).is_none(), "{sql}");
        }
    }

    /// How a statement without an end ends, and after how many steps.
    fn endless(policy: &Policy, conn: &Connection, steps: i64) -> (Option<ErrorCode>, i64) {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let mut statement = conn.prepare(sql).unwrap();
        policy.begin_steps(steps, REACH_MIN);
        let ended = statement.query_row([], |row| row.get::<_, i64>(0)).map_err(|e| e.sqlite_error_code());
        policy.end_steps();
        (ended.unwrap_err(), i64::from(statement.reset_status(StatementStatus::VmStep)))
    }

    #[test]
    fn a_cancellation_ends_what_a_query_runs_and_nothing_that_writes() {
        let cancelled = Cancellation::default();
        cancelled.cancel();
        let mut conn = Connection::open_in_memory().unwrap();
        let policy = install_for_queries(&mut conn).unwrap();
        let interrupted = Some(ErrorCode::OperationInterrupted);
        let near = |(ended, steps): (Option<ErrorCode>, i64), at: i64| {
            assert_eq!(ended, interrupted);
            assert!((at..at + 2 * STEPS_PER_TICK).contains(&steps), "{steps} steps, not {at}");
        };
        near(endless(&policy, &conn, 100_000), 100_000);
        policy.meter.end_when(&cancelled);
        near(endless(&policy, &conn, 100_000), 0);
        policy.meter.begin(100_000, REACH_MIN);
        assert!(policy.meter.charge(1).is_err(), "a function's work");
        policy.meter.end();
        // What the host itself runs goes on, and so does the next query.
        assert_eq!(conn.query_row("SELECT 7", [], |row| row.get(0)), Ok(7));
        policy.meter.end_when(&Cancellation::default());
        near(endless(&policy, &conn, 100_000), 100_000);

        let mut conn = Connection::open_in_memory().unwrap();
        let policy = install(&mut conn).unwrap();
        policy.meter.end_when(&cancelled);
        near(endless(&policy, &conn, 100_000), 100_000);
        policy.meter.begin(100_000, REACH_MIN);
        assert!(policy.meter.charge(1).is_ok() && !policy.meter.is_cancelled());
    }

    #[test]
    fn the_authorizer_and_the_functions_refuse_each_by_itself() {
        let mut conn = Connection::open_in_memory().unwrap();
        let policy = install(&mut conn).unwrap();
        let run = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
        // For the host the authorizer allows everything, so here the replaced function answers.
        for name in ["changes()", "total_changes()", "last_insert_rowid()", "sqlite_version()", "sqrt(4)"] {
            assert!(run(&format!("SELECT {name}")).is_err(), "{name}");
        }
        assert_eq!(run("SELECT abs(-1)"), Ok(Some(1)));
        policy.set_mode(Mode::Write);
        let asked = |function_name: &'static str| {
            let action = AuthAction::Function { function_name };
            policy.authorize(&AuthContext { action, database_name: None, accessor: None })
        };
        assert_eq!(asked("CHANGES"), Authorization::Deny);
        assert_eq!(asked("sqrt"), Authorization::Deny);
        assert_eq!(asked("Random"), Authorization::Allow);
        assert_eq!(asked("Abs"), Authorization::Allow);
        let table_name = "_telegraft_Meta";
        for action in [
            AuthAction::Read { table_name, column_name: "applied" },
            AuthAction::Insert { table_name },
            AuthAction::Delete { table_name },
            AuthAction::Update { table_name, column_name: "applied" },
            AuthAction::DropTable { table_name },
            AuthAction::AlterTable { database_name: "main", table_name },
        ] {
            let context = AuthContext { action, database_name: Some("main"), accessor: None };
            assert_eq!(policy.authorize(&context), Authorization::Deny, "{action:?}");
        }
    }
}
