//! The tables and how they change: a list with one [`Migration`] for each version of the data layout, oldest first. Its
//! length is the module's schema.

use crate::{Command, Failure, params};

/// The way from one version of the data layout to the next, in SQL, and in code where SQL does not reach.
///
/// ```
/// use telegraft_guest::Migration;
///
/// const MIGRATIONS: &[Migration] = &[
///     Migration::new(&["CREATE TABLE notes (id BLOB PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID"]),
///     Migration::new(&["ALTER TABLE notes ADD COLUMN title TEXT NOT NULL DEFAULT ''"])
///         .down(&["ALTER TABLE notes DROP COLUMN title"]),
/// ];
/// ```
///
/// What was active once is never changed: a new layout is a new element.
#[derive(Clone, Copy)]
pub struct Migration {
    up: &'static [&'static str],
    then: Option<Step>,
    down: Option<&'static [&'static str]>,
}

/// Code that is part of a [`Migration`].
pub type Step = fn(&Command<'_>) -> Result<(), Failure>;

impl Migration {
    /// These statements in order, each a single one.
    pub const fn new(up: &'static [&'static str]) -> Self {
        Self { up, then: None, down: None }
    }

    /// Code that runs after the statements.
    #[must_use]
    pub const fn then(mut self, then: Step) -> Self {
        self.then = Some(then);
        self
    }

    /// The statements of the way back, for [`downgrade`].
    #[must_use]
    pub const fn down(mut self, down: &'static [&'static str]) -> Self {
        self.down = Some(down);
        self
    }
}

/// The schema that `migrations` end in.
#[doc(hidden)]
pub const fn schema_of(migrations: &[Migration]) -> u32 {
    migrations.len() as u32
}

/// Brings the tables of the module `name` from the layout `from_schema`, or from nothing, to the newest.
///
/// # Errors
///
/// FAILED_PRECONDITION for a layout that `migrations` do not lead on from; else what a statement or the code says.
pub fn migrate(
    name: &str,
    command: &Command<'_>,
    from_schema: Option<u32>,
    migrations: &[Migration],
) -> Result<(), Failure> {
    let newest = schema_of(migrations);
    let done = match from_schema {
        None => 0,
        Some(from) if (1..newest).contains(&from) => from,
        Some(from) => {
            let begins = match newest {
                0 | 1 => "it begins on an empty store".to_owned(),
                _ => format!("it begins on an empty store, or goes on from schema 1 to {}", newest - 1),
            };
            return Err(Failure::failed_precondition(format!(
                "the {name} module has schema {newest} and cannot take over a store of schema {from}: {begins}"
            )));
        }
    };
    for migration in migrations.iter().skip(done as usize) {
        for statement in migration.up {
            command.execute(statement, params![])?;
        }
        if let Some(then) = migration.then {
            then(command)?;
        }
    }
    Ok(())
}

/// Takes the tables from the newest layout back to `to_schema`, newest migration first. For the field `downgrade` of
/// [`module!`](crate::module).
///
/// # Errors
///
/// FAILED_PRECONDITION for a layout that is not an earlier one, and where a migration has no [`down`](Migration::down); else
/// what a statement says.
pub fn downgrade(command: &Command<'_>, to_schema: u32, migrations: &[Migration]) -> Result<(), Failure> {
    let newest = schema_of(migrations);
    if !(1..newest).contains(&to_schema) {
        return Err(Failure::failed_precondition(format!(
            "the way back leads from schema {newest} to an earlier one, not to schema {to_schema}"
        )));
    }
    for (earlier, migration) in migrations.iter().enumerate().skip(to_schema as usize).rev() {
        let Some(down) = migration.down else {
            return Err(Failure::failed_precondition(format!(
                "there is no way back from schema {} to schema {earlier}",
                earlier + 1
            )));
        };
        for statement in down {
            command.execute(statement, params![])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, FailureCode, MemoryStore, Store};

    const MIGRATIONS: &[Migration] = &[
        Migration::new(&["CREATE TABLE t (a INTEGER)"]),
        Migration::new(&["ALTER TABLE t ADD COLUMN b INTEGER"])
            .then(|command| {
                command.execute("INSERT INTO t VALUES (1, ?1)", params![command.now_us()])?;
                Ok(())
            })
            .down(&["DELETE FROM t WHERE b = 5", "ALTER TABLE t DROP COLUMN b"]),
        Migration::new(&["CREATE TABLE u (c INTEGER)"]).down(&["DROP TABLE u"]),
    ];

    /// Each table and the number of its columns.
    fn tables(store: &MemoryStore) -> Vec<(String, usize)> {
        let store: &dyn Store = store;
        let tables: Vec<(String, String)> =
            store.all("SELECT name, sql FROM sqlite_schema ORDER BY name", &[]).unwrap();
        tables.into_iter().map(|(name, sql)| (name, sql.split(',').count())).collect()
    }

    #[test]
    fn each_layout_is_reached_once_forth_and_back() {
        let store = MemoryStore::open().unwrap();
        let context = Context { index: 1, time_us: 5, entropy: (0, 0) };
        let command = Command::new(&store, &context);
        migrate("m", &command, None, &MIGRATIONS[..1]).unwrap();
        assert_eq!(tables(&store), [("t".into(), 1)]);
        migrate("m", &command, Some(1), MIGRATIONS).unwrap();
        assert_eq!(tables(&store), [("t".into(), 2), ("u".into(), 1)]);
        assert_eq!(command.query_as::<(i64, i64)>("SELECT a, b FROM t", params![]).unwrap(), [(1, 5)]);

        downgrade(&command, 2, MIGRATIONS).unwrap();
        assert_eq!(tables(&store), [("t".into(), 2)]);
        downgrade(&command, 1, &MIGRATIONS[..2]).unwrap();
        assert_eq!(tables(&store), [("t".into(), 1)]);
        assert_eq!(command.query_one::<(u64,)>("SELECT count(*) FROM t", params![]).unwrap(), (0,));
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        let store = MemoryStore::open().unwrap();
        let context = Context { index: 1, time_us: 5, entropy: (0, 0) };
        let command = Command::new(&store, &context);
        for from in [0, 3, 4, u32::MAX] {
            let failure = migrate("m", &command, Some(from), MIGRATIONS).unwrap_err();
            assert_eq!(failure.code, FailureCode::FailedPrecondition);
            assert!(failure.message.contains(&format!("schema {from}:")), "{}", failure.message);
            assert!(failure.message.ends_with("from schema 1 to 2"), "{}", failure.message);
        }
        for to in [0, 3, 4, u32::MAX] {
            let failure = downgrade(&command, to, MIGRATIONS).unwrap_err();
            assert_eq!(failure.code, FailureCode::FailedPrecondition);
        }
        const ONE_WAY: &[Migration] = &[Migration::new(&[]), Migration::new(&[]), Migration::new(&[]).down(&[])];
        downgrade(&command, 2, ONE_WAY).unwrap();
        let failure = downgrade(&command, 1, ONE_WAY).unwrap_err();
        assert_eq!(failure.message, "there is no way back from schema 2 to schema 1");
    }
}
