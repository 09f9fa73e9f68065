//! What an entry did, as one digest: the rows it changed, the schema where it changed that, and its outcome. Also how many
//! logical bytes it added, since the same hook sees both.
//!
//! The digests of all commands form a chain: each is BLAKE3 over the one before it, the entry's index, its outcome and its
//! effects. Two replicas whose chains are equal at one index have done the same all the way. The chain stands in the
//! machine's own tables and moves with the applied index.
//!
//! Rows are seen by SQLite's pre-update hook (<https://www.sqlite.org/c3ref/preupdate_blobwrite.html>) while a guest's
//! statement runs: table, row ids, and all values, old and new. (By the values rather than the row id alone, because a
//! table WITHOUT ROWID has none.) The hook also sees rows that a failed statement takes back; they stay in the digest,
//! since every replica sees them alike. It does not see what DDL does to rows, so an entry with DDL adds the text of the
//! whole schema, and it does not see `sqlite_sequence`, whose numbers show in the rows that take them.
//!
//! # Encoding
//!
//! A row change is a tag (1 insert, 2 delete, 3 update), the table's name with its length, then for each side the row id
//! and the values; a value is a tag (0 null, 1 integer, 2 real, 3 text, 4 blob) and its bytes, of texts and blobs with
//! their length. Integers are little-endian.
//!
//! # Logical bytes
//!
//! A row counts 8, a null 1, a number 8, a text or blob its length. Indexes and SQLite's own overhead are not counted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rusqlite::{Connection, hooks::PreUpdateCase, types::ValueRef};
use telegraft_node::ports::Outcome;
use telegraft_raft::Index;

use crate::{database::quote, errors::is_guests, keys::Keys};

/// A digest of effects, or of all up to one entry.
pub(crate) type EffectDigest = [u8; 32];

/// Bytes of row changes that are held before they are hashed.
const BUFFER_BYTES: usize = 32 << 10;

/// Rows that statements changed in one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableChanges {
    /// Rows that were added.
    pub inserted: u64,
    /// Rows that were changed.
    pub updated: u64,
    /// Rows that were removed.
    pub deleted: u64,
}

/// What the hook of one connection shares with its owner. One thread uses it at a time; a mutex only because hooks must
/// be `Send`.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    recorder: Mutex<Recorder>,
    /// The data has outgrown its budget: the running statement is to be interrupted.
    outgrown: AtomicBool,
}

/// Where an entry's effects are at one moment.
pub(crate) struct SoFar {
    /// Row changes that there were, those taken back among them: equal numbers say that nothing changed between.
    pub rows_seen: u64,
    /// Logical bytes.
    grown: i64,
    tables: Option<BTreeMap<String, TableChanges>>,
}

#[derive(Debug, Default)]
struct Recorder {
    /// Whether a guest's statement runs.
    recording: bool,
    /// Whether nothing is ever to be recorded.
    blind: bool,
    buffer: Vec<u8>,
    /// Of what did not fit the buffer.
    overflow: Option<Box<blake3::Hasher>>,
    /// Logical bytes by which the entry has made the data larger.
    grown: i64,
    /// How far it may.
    grown_max: i64,
    ddl: bool,
    /// Tables whose rows are counted otherwise.
    measured: Vec<String>,
    /// Row changes that the hook has been told of, ever.
    rows_seen: u64,
    /// The schema's, while a statement runs that writes; and whether its rows may have keys that are too long.
    keys: Option<(Arc<Keys>, bool)>,
    /// Why a row of the statement's could not be written.
    long_key: Option<String>,
    /// Kept only where somebody wants to know.
    tables: Option<BTreeMap<String, TableChanges>>,
}

impl Effects {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry begins. `grown_max`: logical bytes that it may add to the data.
    pub(crate) fn begin(&self, grown_max: i64) {
        self.outgrown.store(false, Relaxed);
        let mut recorder = self.recorder();
        recorder.forget();
        recorder.grown_max = grown_max;
    }

    /// The entry's effects are undone.
    pub(crate) fn forget(&self) {
        self.outgrown.store(false, Relaxed);
        self.recorder().forget();
    }

    /// From here on a guest's statement runs, or no longer.
    pub(crate) fn record(&self, on: bool) {
        let mut recorder = self.recorder();
        recorder.recording = on && !recorder.blind;
    }

    /// Records nothing from here on.
    pub(crate) fn see_nothing(&self) {
        self.recorder().blind = true;
    }

    /// DDL begins that makes, drops or alters these tables: what the hook sees of their rows is not counted, since they are
    /// measured before and after.
    pub(crate) fn begin_ddl(&self, tables: impl IntoIterator<Item = String>) {
        self.recorder().measured.extend(tables);
    }

    /// The statement has ended, whatever came of it.
    pub(crate) fn end_ddl(&self) {
        self.recorder().measured.clear();
    }

    /// The DDL has changed the schema, and made the tables larger by `grown`.
    pub(crate) fn saw_ddl(&self, grown: i64) {
        let mut recorder = self.recorder();
        recorder.ddl = true;
        recorder.grow(grown, &self.outgrown);
    }

    /// Whether the entry made the data larger than its budget.
    pub(crate) fn outgrown(&self) -> bool {
        self.outgrown.load(Relaxed)
    }

    /// Logical bytes by which the entry made the data larger.
    pub(crate) fn grown(&self) -> i64 {
        self.recorder().grown
    }

    /// The statement that ran was taken back: the entry has made the data larger by `grown`, as before it.
    pub(crate) fn set_grown(&self, grown: i64) {
        let mut recorder = self.recorder();
        recorder.grown = grown;
        self.outgrown.store(grown > recorder.grown_max.max(0), Relaxed);
    }

    /// Counts rows by table from here on, or no longer.
    pub(crate) fn count_tables(&self, on: bool) {
        self.recorder().tables = on.then(BTreeMap::new);
    }

    /// The rows counted since this was last asked.
    pub(crate) fn take_tables(&self) -> BTreeMap<String, TableChanges> {
        self.recorder().tables.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What a statement that begins may have to be taken back to.
    pub(crate) fn so_far(&self) -> SoFar {
        let recorder = self.recorder();
        SoFar { rows_seen: recorder.rows_seen, grown: recorder.grown, tables: recorder.tables.clone() }
    }

    /// A statement was taken back that had begun so, and did not change the schema.
    pub(crate) fn back_to(&self, before: &SoFar) {
        self.set_grown(before.grown);
        let mut recorder = self.recorder();
        recorder.tables.clone_from(&before.tables);
        recorder.long_key = None;
    }

    /// The keys of the rows that the next statement writes, and whether they must be looked at, their length not being
    /// bounded otherwise.
    pub(crate) fn keep_to(&self, keys: Option<(Arc<Keys>, bool)>) {
        self.recorder().keys = keys;
    }

    /// Why a row could not be written, if one was too long for a key.
    pub(crate) fn take_long_key(&self) -> Option<String> {
        self.recorder().long_key.take()
    }

    /// The hook. What the change costs in steps, besides the statement's own: its bytes are read and hashed, and its long keys
    /// compared with others.
    pub(crate) fn see(&self, table: &str, case: &PreUpdateCase) -> u64 {
        let mut recorder = self.recorder();
        recorder.rows_seen += 1;
        if let Some((keys, true)) = &recorder.keys
            && recorder.long_key.is_none()
        {
            recorder.long_key = match case {
                PreUpdateCase::Insert(new) | PreUpdateCase::Update { new_value_accessor: new, .. } => {
                    keys.refuse(table, new.get_column_count(), |i| new.get_new_column_value(i))
                }
                PreUpdateCase::Delete(_) | PreUpdateCase::Unknown => None,
            };
        }
        if !recorder.recording {
            return 0;
        }
        let bytes = recorder.see(table, case, &self.outgrown);
        let mut steps = bytes as u64 / BYTES_PER_STEP.unsigned_abs();
        if let Some((keys, _)) = &recorder.keys
            && keys.may_cost(bytes)
        {
            if let PreUpdateCase::Insert(new) | PreUpdateCase::Update { new_value_accessor: new, .. } = case {
                steps += keys.cost(table, new.get_column_count(), |i| new.get_new_column_value(i));
            }
            if let PreUpdateCase::Delete(old) | PreUpdateCase::Update { old_value_accessor: old, .. } = case {
                steps += keys.cost(table, old.get_column_count(), |i| old.get_old_column_value(i));
            }
        }
        steps
    }

    /// The digest of the entry's effects and outcome on top of `chain`. `schema`: asked where the entry had DDL.
    pub(crate) fn digest<E>(
        &self,
        chain: &EffectDigest,
        index: Index,
        outcome: &Outcome,
        schema: impl FnOnce(&mut blake3::Hasher) -> Result<(), E>,
    ) -> Result<EffectDigest, E> {
        let recorder = self.recorder();
        let mut hasher = blake3::Hasher::new();
        hasher.update(chain);
        hasher.update(&index.to_le_bytes());
        match outcome {
            Ok(reply) => {
                hasher.update(&0_i32.to_le_bytes());
                hasher.update(&(reply.len() as u64).to_le_bytes());
                hasher.update(reply);
            }
            Err(rejection) => {
                hasher.update(&(rejection.code as i32).to_le_bytes());
                hasher.update(&(rejection.message.len() as u64).to_le_bytes());
                hasher.update(rejection.message.as_bytes());
            }
        }
        if let Some(overflow) = &recorder.overflow {
            hasher.update(overflow.finalize().as_bytes());
        }
        hasher.update(&recorder.buffer);
        if recorder.ddl {
            schema(&mut hasher)?;
        }
        Ok(*hasher.finalize().as_bytes())
    }
}

impl Recorder {
    fn forget(&mut self) {
        self.buffer.clear();
        self.overflow = None;
        self.grown = 0;
        self.ddl = false;
        self.measured.clear();
        self.keys = None;
        self.long_key = None;
    }

    fn grow(&mut self, by: i64, outgrown: &AtomicBool) {
        self.grown = self.grown.saturating_add(by);
        // An entry that makes less of too much is welcome.
        if self.grown > self.grown_max.max(0) {
            outgrown.store(true, Relaxed);
        }
    }

    /// How many bytes it has.
    fn see(&mut self, table: &str, case: &PreUpdateCase, outgrown: &AtomicBool) -> usize {
        let before = self.buffer.len();
        if let Some(tables) = &mut self.tables {
            let changes = tables.entry(table.to_owned()).or_default();
            match case {
                PreUpdateCase::Insert(_) => changes.inserted += 1,
                PreUpdateCase::Delete(_) => changes.deleted += 1,
                PreUpdateCase::Update { .. } => changes.updated += 1,
                PreUpdateCase::Unknown => (),
            }
        }
        let grown = match case {
            PreUpdateCase::Insert(new) => {
                self.head(1, table);
                self.row(new.get_new_row_id(), new.get_column_count(), |i| new.get_new_column_value(i))
            }
            PreUpdateCase::Delete(old) => {
                self.head(2, table);
                -self.row(old.get_old_row_id(), old.get_column_count(), |i| old.get_old_column_value(i))
            }
            PreUpdateCase::Update { old_value_accessor: old, new_value_accessor: new } => {
                self.head(3, table);
                let before = self.row(old.get_old_row_id(), old.get_column_count(), |i| old.get_old_column_value(i));
                self.row(new.get_new_row_id(), new.get_column_count(), |i| new.get_new_column_value(i)) - before
            }
            PreUpdateCase::Unknown => 0,
        };
        // SQLite's own table: the hook is told of rows that a guest deletes there, and not how they came.
        if table != "sqlite_sequence" && !self.measured.iter().any(|measured| measured == table) {
            self.grow(grown, outgrown);
        }
        let bytes = self.buffer.len() - before;
        if self.buffer.len() >= BUFFER_BYTES {
            self.overflow.get_or_insert_with(Box::default).update(&self.buffer);
            self.buffer.clear();
        }
        bytes
    }

    fn head(&mut self, tag: u8, table: &str) {
        self.buffer.push(tag);
        self.buffer.extend_from_slice(&(table.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(table.as_bytes());
    }

    /// One side of a change; says how many logical bytes the row has.
    fn row<'v>(&mut self, id: i64, columns: i32, value: impl Fn(i32) -> rusqlite::Result<ValueRef<'v>>) -> i64 {
        self.buffer.extend_from_slice(&id.to_le_bytes());
        let mut bytes = 8;
        for column in 0..columns {
            // A value that cannot be had (out of memory) is taken for a null, and shows as a difference.
            bytes += match value(column).unwrap_or(ValueRef::Null) {
                ValueRef::Null => {
                    self.buffer.push(0);
                    1
                }
                ValueRef::Integer(i) => self.number(1, i.to_le_bytes()),
                ValueRef::Real(r) => self.number(2, r.to_bits().to_le_bytes()),
                ValueRef::Text(t) => self.long(3, t),
                ValueRef::Blob(b) => self.long(4, b),
            };
        }
        bytes
    }

    fn number(&mut self, tag: u8, bytes: [u8; 8]) -> i64 {
        self.buffer.push(tag);
        self.buffer.extend_from_slice(&bytes);
        8
    }

    fn long(&mut self, tag: u8, bytes: &[u8]) -> i64 {
        self.buffer.push(tag);
        self.buffer.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.buffer.extend_from_slice(bytes);
        i64::try_from(bytes.len()).unwrap_or(i64::MAX)
    }
}

/// Adds the guest's schema to a digest.
pub(crate) fn hash_schema(conn: &Connection, hasher: &mut blake3::Hasher) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(
        "SELECT type, name, coalesce(sql, '') FROM sqlite_schema \
         WHERE substr(name, 1, 11) <> '_telegraft_' AND substr(tbl_name, 1, 11) <> '_telegraft_' ORDER BY type, name",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for column in 0..3 {
            let text = row.get_ref(column)?.as_bytes()?;
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
    }
    Ok(())
}

/// What a table comes to.
pub(crate) struct TableSize {
    /// Logical bytes; `None` where there is no table of this name, or where its generated columns cannot be computed.
    pub bytes: Option<i64>,
    /// What looking at it costs of the step budget: one a row, and one for each [`BYTES_PER_STEP`].
    pub steps: i64,
}

/// One step of the budget for so many bytes that are looked at.
const BYTES_PER_STEP: i64 = 512;

/// Measures a guest's table; no further than `steps_max`, beyond which the measure is not complete.
pub(crate) fn table_size(conn: &Connection, table: &str, steps_max: i64) -> rusqlite::Result<TableSize> {
    let is_table: bool = conn
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?1)) /* _telegraft_ */",
        )?
        .query_row([table], |row| row.get(0))?;
    let mut size = TableSize { bytes: None, steps: 0 };
    if !is_table {
        return Ok(size);
    }
    // Without virtual columns, which are not stored.
    let names: Vec<String> = {
        let mut statement =
            conn.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden NOT IN (1, 2) /* _telegraft_ */")?;
        let names = statement.query_map([table], |row| row.get::<_, String>(0))?;
        names.map(|name| name.map(|name| quote(&name))).collect::<Result<_, _>>()?
    };
    let names = names.join(", ");
    let mut statement = conn.prepare(&format!("SELECT {names} FROM main.{} /* _telegraft_ */", quote(table)))?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let (mut count, mut bytes) = (0_i64, 0_i64);
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => {
                size.bytes = Some(bytes);
                return Ok(size);
            }
            Err(error) if error.sqlite_error_code().is_some_and(is_guests) => return Ok(size),
            Err(error) => return Err(error),
        };
        count += 1;
        bytes += 8;
        for column in 0..columns {
            let value = match row.get_ref(column)? {
                ValueRef::Null => 1,
                ValueRef::Integer(_) | ValueRef::Real(_) => 8,
                ValueRef::Text(b) | ValueRef::Blob(b) => i64::try_from(b.len()).unwrap_or(i64::MAX),
            };
            bytes = bytes.saturating_add(value);
        }
        size.steps = count.saturating_add(bytes / BYTES_PER_STEP);
        if size.steps > steps_max {
            return Ok(size);
        }
    }
}
