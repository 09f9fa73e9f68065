//! The budgets of a guest call. They decide results, so they are replicated: they come with the entry that activates a
//! module, never from a host's configuration.

use telegraft_proto::internal;

/// Budgets of one guest call. A field that is 0 takes its default; a field above its maximum is cut to it, so that every
/// replica ends at the same figures whatever was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wasm fuel of one call; roughly one unit an instruction. Instantiation is not metered.
    pub fuel: u64,
    /// Linear memory of one instance, bytes. Growing beyond it ends the call.
    pub memory_bytes: u64,
    /// SQLite virtual machine steps of one call, together with one step for each 8 bytes of statement text.
    pub sql_steps: u64,
    /// Rows of one query result.
    pub rows: u64,
    /// Bytes of one query result, and of one value in the database.
    pub result_bytes: u64,
    /// Bytes of one reply.
    pub reply_bytes: u64,
}

impl Limits {
    /// What holds where an activation names nothing: about a fifth of a second of work for one call.
    pub const DEFAULT: Limits = Limits {
        fuel: 200_000_000,
        memory_bytes: 64 << 20,
        sql_steps: 5_000_000,
        rows: 10_000,
        result_bytes: 8 << 20,
        reply_bytes: 4 << 20,
    };

    /// What no activation can exceed. The memory bound is also the size of a slot of the instance pool.
    pub const MAX: Limits = Limits {
        fuel: 100_000_000_000,
        memory_bytes: 1 << 30,
        sql_steps: 1_000_000_000,
        rows: 1_000_000,
        result_bytes: 256 << 20,
        reply_bytes: 64 << 20,
    };

    /// These limits with defaults filled in and maxima enforced.
    #[must_use]
    pub fn effective(self) -> Limits {
        let pick = |asked: u64, default: u64, max: u64| if asked == 0 { default } else { asked.min(max) };
        let (d, m) = (Limits::DEFAULT, Limits::MAX);
        Limits {
            fuel: pick(self.fuel, d.fuel, m.fuel),
            memory_bytes: pick(self.memory_bytes, d.memory_bytes, m.memory_bytes),
            sql_steps: pick(self.sql_steps, d.sql_steps, m.sql_steps),
            rows: pick(self.rows, d.rows, m.rows),
            result_bytes: pick(self.result_bytes, d.result_bytes, m.result_bytes),
            reply_bytes: pick(self.reply_bytes, d.reply_bytes, m.reply_bytes),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

impl From<&internal::Limits> for Limits {
    /// Already [effective](Limits::effective).
    fn from(l: &internal::Limits) -> Self {
        Limits {
            fuel: l.fuel,
            memory_bytes: l.memory_bytes,
            sql_steps: l.sql_steps,
            rows: l.rows,
            result_bytes: l.result_bytes,
            reply_bytes: l.reply_bytes,
        }
        .effective()
    }
}

impl From<Option<&internal::Limits>> for Limits {
    fn from(l: Option<&internal::Limits>) -> Self {
        l.map_or(Limits::DEFAULT, Limits::from)
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_zero_take_the_default_and_too_much_is_cut() {
        assert_eq!(Limits::from(None), Limits::DEFAULT);
        assert_eq!(Limits::from(&internal::Limits::default()), Limits::DEFAULT);
        let asked = internal::Limits { fuel: u64::MAX, memory_bytes: 1, ..Default::default() };
        let got = Limits::from(&asked);
        assert_eq!(got.fuel, Limits::MAX.fuel);
        assert_eq!(got.memory_bytes, 1);
        assert_eq!(got.rows, Limits::DEFAULT.rows);
    }
}
