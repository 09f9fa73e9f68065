//! A machine's budgets. They decide results, so they are replicated: the machine's first activation brings them, entries
//! that set them change them, and they are never read from a host's configuration.

use telegraft_proto::internal;

use crate::{catalog::MODULE_BYTES_MAX, database::SQL_BYTES_MAX};

/// Budgets of one guest call, and of the data. A field that is 0 takes its default; a field above its maximum is cut to it, one below its
/// minimum raised, so that every replica ends at the same figures whatever was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wasm fuel of one call; roughly one unit an instruction. Instantiation is not metered.
    pub fuel: u64,
    /// Linear memory of one instance, bytes. Growing beyond it ends the call.
    pub memory_bytes: u64,
    /// SQLite virtual machine steps of one call, each counted by the longest value that its statement meets, together with one
    /// step for each 8 bytes of statement text.
    pub sql_steps: u64,
    /// Rows of one query result.
    pub rows: u64,
    /// Bytes of one query result.
    pub result_bytes: u64,
    /// Bytes of one reply.
    pub reply_bytes: u64,
    /// Bytes of one value in a statement, a parameter or a row, and of one row.
    pub value_bytes: u64,
    /// Logical bytes of all rows of all the guest's tables: 8 a row, 8 a number, 1 a null, texts and blobs by their length.
    /// An entry may not make the data larger than this, whatever it is already.
    pub database_bytes: u64,
    /// Bytes of one module.
    pub module_bytes: u64,
}

impl Limits {
    /// What holds where an activation names nothing: a second of work for one call, or where it does nothing but what takes
    /// SQLite longest, one or two minutes.
    pub const DEFAULT: Limits = Limits {
        fuel: 1_000_000_000,
        memory_bytes: 64 << 20,
        sql_steps: 10_000_000,
        rows: 100_000,
        result_bytes: 16 << 20,
        reply_bytes: 4 << 20,
        value_bytes: 1 << 20,
        database_bytes: 16 << 30,
        module_bytes: 32 << 20,
    };

    /// What no activation can exceed. The memory bound is also the size of a slot of the instance pool.
    pub const MAX: Limits = Limits {
        fuel: 100_000_000_000,
        memory_bytes: 1 << 30,
        sql_steps: 1_000_000_000,
        rows: 1_000_000,
        result_bytes: 256 << 20,
        reply_bytes: 64 << 20,
        value_bytes: 8 << 20,
        database_bytes: 1 << 50,
        module_bytes: MODULE_BYTES_MAX,
    };

    /// What no machine can go below. A default value in a table's definition may be as long as a statement's text, and SQLite
    /// writes it down while statements run, within the largest value: where it cannot, it says that memory has run out.
    pub const MIN: Limits = Limits {
        fuel: 1,
        memory_bytes: 1,
        sql_steps: 1,
        rows: 1,
        result_bytes: 1,
        reply_bytes: 1,
        value_bytes: SQL_BYTES_MAX as u64,
        database_bytes: 1,
        module_bytes: 1,
    };

    /// The names of the fields, as people write them, with their values, in the order of the fields.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 9] {
        let Limits {
            fuel,
            memory_bytes,
            sql_steps,
            rows,
            result_bytes,
            reply_bytes,
            value_bytes,
            database_bytes,
            module_bytes,
        } = *self;
        [
            ("fuel", fuel),
            ("memory_bytes", memory_bytes),
            ("sql_steps", sql_steps),
            ("rows", rows),
            ("result_bytes", result_bytes),
            ("reply_bytes", reply_bytes),
            ("value_bytes", value_bytes),
            ("database_bytes", database_bytes),
            ("module_bytes", module_bytes),
        ]
    }

    /// Field by field, what `pick` makes of these and the others.
    fn zip(self, other: Limits, pick: impl Fn(u64, u64) -> u64) -> Limits {
        Limits {
            fuel: pick(self.fuel, other.fuel),
            memory_bytes: pick(self.memory_bytes, other.memory_bytes),
            sql_steps: pick(self.sql_steps, other.sql_steps),
            rows: pick(self.rows, other.rows),
            result_bytes: pick(self.result_bytes, other.result_bytes),
            reply_bytes: pick(self.reply_bytes, other.reply_bytes),
            value_bytes: pick(self.value_bytes, other.value_bytes),
            database_bytes: pick(self.database_bytes, other.database_bytes),
            module_bytes: pick(self.module_bytes, other.module_bytes),
        }
    }

    /// These limits, with `others` where a field is 0, and minima and maxima enforced.
    #[must_use]
    pub fn or(self, others: Limits) -> Limits {
        let all = self.zip(others, |asked, other| if asked == 0 { other } else { asked });
        all.zip(Limits::MAX, u64::min).zip(Limits::MIN, u64::max)
    }

    /// These limits with defaults filled in and minima and maxima enforced.
    #[must_use]
    pub fn effective(self) -> Limits {
        self.or(Limits::DEFAULT)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

impl From<&internal::Limits> for Limits {
    /// As they stand there: a 0 says nothing. See [`Limits::effective`] and [`Limits::or`].
    fn from(l: &internal::Limits) -> Self {
        Limits {
            fuel: l.fuel,
            memory_bytes: l.memory_bytes,
            sql_steps: l.sql_steps,
            rows: l.rows,
            result_bytes: l.result_bytes,
            reply_bytes: l.reply_bytes,
            value_bytes: l.value_bytes,
            database_bytes: l.database_bytes,
            module_bytes: l.module_bytes,
        }
    }
}

impl From<Limits> for internal::Limits {
    fn from(l: Limits) -> Self {
        internal::Limits {
            fuel: l.fuel,
            memory_bytes: l.memory_bytes,
            sql_steps: l.sql_steps,
            rows: l.rows,
            result_bytes: l.result_bytes,
            reply_bytes: l.reply_bytes,
            value_bytes: l.value_bytes,
            database_bytes: l.database_bytes,
            module_bytes: l.module_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_takes_what_was_and_too_much_is_cut() {
        assert_eq!(Limits::from(&internal::Limits::default()).effective(), Limits::DEFAULT);
        let asked = internal::Limits { fuel: u64::MAX, memory_bytes: 1, ..Default::default() };
        let got = Limits::from(&asked).effective();
        assert_eq!(got.fuel, Limits::MAX.fuel);
        assert_eq!(got.memory_bytes, 1);
        assert_eq!(got.rows, Limits::DEFAULT.rows);
        let small = Limits::from(&internal::Limits { value_bytes: 1, ..Default::default() }).effective();
        assert_eq!(small.value_bytes, Limits::MIN.value_bytes);
        let later = Limits::from(&internal::Limits { rows: 7, ..Default::default() }).or(got);
        assert_eq!((later.fuel, later.memory_bytes, later.rows), (Limits::MAX.fuel, 1, 7));
    }

    #[test]
    fn the_names_are_those_of_the_message_s_fields() {
        let message = internal::Limits::from(Limits::MAX);
        assert_eq!(Limits::from(&message), Limits::MAX);
        let shown = format!("{message:?}");
        for (name, value) in Limits::MAX.named() {
            assert!(shown.contains(&format!("{name}: {value}")), "{name}");
        }
    }
}
