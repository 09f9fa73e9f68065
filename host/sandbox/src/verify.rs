//! Whether the replicas agree: their effect digests at a checkpoint, compared through the log.
//!
//! 1. The leader proposes a checkpoint. Applying it, every replica notes its own digest as of that entry, and asks for its
//!    report to be proposed.
//! 2. The reports come through the log, so all replicas see the same ones in the same order.
//! 3. A digest that more than half of the voters reported is the right one: a replica whose own differs stands still from
//!    there on, also after a restart. Where all have reported and no digest has a majority, nobody knows: all stand still.
//!
//! A report may be lost: then the next checkpoint decides.
//!
//! The reports stay in the log, so a replica that is rebuilt from it meets them again. It is right then, and has the
//! majority; where there was none, an operator who knows which state is right says so with a file
//! ([`IGNORE_FILE`]) in the machine's folder: while it is there, nothing that is reported halts this replica.

use std::{collections::BTreeMap, path::Path};

use rusqlite::{Connection, OptionalExtension, params};
use telegraft_node::ports::MachineFault;
use telegraft_raft::Index;

use crate::{catalog::sql, effects::EffectDigest, module::Digest};

/// Checkpoints that are remembered.
const CHECKPOINTS_KEPT: i64 = 8;

/// A file by which an operator has this replica go on whatever is reported.
pub const IGNORE_FILE: &str = "ignore-differences";

/// What is to be done about a replica that is not like the others.
const REMEDY: &str = "stop this host, move machine.db, machine.db-wal and machine.db-shm away and start it again: the \
                      state is rebuilt from the log. If it differs again, the module or this host's hardware is not \
                      deterministic";

/// What a report leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// The first disagreement at this checkpoint, in words.
    pub alarm: Option<String>,
    /// This replica has the majority's digest.
    pub verified: bool,
    /// This replica must stand still.
    pub halt: Option<String>,
}

/// Notes a checkpoint.
pub(crate) fn note(conn: &Connection, at: Index, voters: u32, own: &EffectDigest) -> Result<(), MachineFault> {
    sql("a checkpoint", || {
        conn.prepare_cached("INSERT OR REPLACE INTO _telegraft_checkpoints VALUES (?1, ?2, ?3)")?
            .execute(params![at as i64, voters, own])?;
        conn.prepare_cached(
            "DELETE FROM _telegraft_checkpoints WHERE at <= \
             (SELECT at FROM _telegraft_checkpoints ORDER BY at DESC LIMIT 1 OFFSET ?1)",
        )?
        .execute([CHECKPOINTS_KEPT])?;
        conn.prepare_cached("DELETE FROM _telegraft_reports WHERE at NOT IN (SELECT at FROM _telegraft_checkpoints)")?
            .execute([])
    })
    .map(drop)
}

/// Takes a replica's report of the checkpoint at `at`. Nothing comes of one that is not remembered, or of a second report.
pub(crate) fn take(conn: &Connection, at: Index, host: u64, digest: &EffectDigest) -> Result<Judgement, MachineFault> {
    let known = sql("a checkpoint", || {
        conn.prepare_cached("SELECT voters, own FROM _telegraft_checkpoints WHERE at = ?1")?
            .query_row([at as i64], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, EffectDigest>(1)?)))
            .optional()
    })?;
    let Some((voters, own)) = known else {
        return Ok(Judgement::default());
    };
    let before = reports(conn, at)?;
    if before.contains_key(&host) {
        return Ok(Judgement::default());
    }
    sql("a report", || {
        conn.prepare_cached("INSERT INTO _telegraft_reports VALUES (?1, ?2, ?3)")?.execute(params![
            at as i64,
            host as i64,
            digest
        ])
    })?;
    let mut after = before.clone();
    after.insert(host, *digest);
    Ok(judge(at, voters as usize, &own, &before, &after))
}

fn reports(conn: &Connection, at: Index) -> Result<BTreeMap<u64, EffectDigest>, MachineFault> {
    sql("the reports", || {
        let mut statement = conn.prepare_cached("SELECT host, digest FROM _telegraft_reports WHERE at = ?1")?;
        let rows = statement.query_map([at as i64], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?;
        rows.collect()
    })
}

fn judge(
    at: Index,
    voters: usize,
    own: &EffectDigest,
    before: &BTreeMap<u64, EffectDigest>,
    after: &BTreeMap<u64, EffectDigest>,
) -> Judgement {
    let differ = |reports: &BTreeMap<u64, EffectDigest>| {
        let first = reports.values().next();
        reports.values().any(|digest| Some(digest) != first)
    };
    let alarm = (differ(after) && !differ(before)).then(|| {
        let said: Vec<_> = after.iter().map(|(host, d)| format!("host {host} {}", short(d))).collect();
        format!("replicas differ at checkpoint {at}: {}", said.join(", "))
    });
    let count = |digest: &EffectDigest| after.values().filter(|other| *other == digest).count();
    let majority = after.values().find(|digest| count(digest) > voters / 2);
    let halt = match majority {
        Some(right) if right == own => None,
        Some(right) => Some(format!(
            "this replica's effects up to checkpoint {at} ({}) are not those of the majority ({}); {REMEDY}",
            short(own),
            short(right)
        )),
        None if after.len() >= voters => Some(format!(
            "the replicas' effects up to checkpoint {at} differ, and none has a majority: nobody knows which is right. \
             Find the right one, put a file named {IGNORE_FILE} into the machine's folder on every host and start the right \
             one; on the others, {REMEDY}. Remove the files when all agree again"
        )),
        None => None,
    };
    Judgement { alarm, verified: majority == Some(own), halt }
}

fn short(digest: &EffectDigest) -> String {
    Digest(*digest).to_string().chars().take(12).collect()
}

/// Whether an operator has this replica go on whatever is reported.
pub(crate) fn is_ignored(dir: &Path) -> bool {
    dir.join(IGNORE_FILE).exists()
}

/// Why this replica stands still, if it does.
pub(crate) fn halted(conn: &Connection) -> Result<Option<String>, MachineFault> {
    sql("whether the machine stands still", || {
        conn.query_row("SELECT why FROM _telegraft_halted", [], |row| row.get(0)).optional()
    })
}

/// Has it go on.
pub(crate) fn go_on(conn: &Connection) -> Result<(), MachineFault> {
    sql("that the machine goes on", || conn.execute("DELETE FROM _telegraft_halted", [])).map(drop)
}

/// Has it stand still for good.
pub(crate) fn halt(conn: &Connection, why: &str) -> Result<(), MachineFault> {
    sql("that the machine stands still", || {
        conn.execute("INSERT OR IGNORE INTO _telegraft_halted VALUES (1, ?1)", [why])
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: EffectDigest = [1; 32];
    const B: EffectDigest = [2; 32];
    const C: EffectDigest = [3; 32];

    /// The judgements of one replica as the reports come in.
    fn judged(voters: usize, own: EffectDigest, reports: &[(u64, EffectDigest)]) -> Vec<Judgement> {
        let mut before = BTreeMap::new();
        reports
            .iter()
            .map(|(host, digest)| {
                let mut after = before.clone();
                after.insert(*host, *digest);
                let judgement = judge(7, voters, &own, &before, &after);
                before = after;
                judgement
            })
            .collect()
    }

    #[test]
    fn a_majority_verifies_and_nobody_stands_still() {
        let all = judged(3, A, &[(1, A), (2, A), (3, A)]);
        assert_eq!(all.iter().map(|j| j.verified).collect::<Vec<_>>(), [false, true, true]);
        assert!(all.iter().all(|j| j.halt.is_none() && j.alarm.is_none()));
    }

    #[test]
    fn only_the_odd_one_stands_still_whoever_leads_and_whenever_it_reports() {
        for order in [[(1, B), (2, A), (3, A)], [(2, A), (1, B), (3, A)], [(2, A), (3, A), (1, B)]] {
            assert!(judged(3, A, &order).iter().all(|j| j.halt.is_none()), "{order:?}");
            assert!(judged(3, B, &order).iter().any(|j| j.halt.is_some()), "{order:?}");
            assert_eq!(judged(3, A, &order).iter().filter(|j| j.alarm.is_some()).count(), 1, "{order:?}");
        }
    }

    #[test]
    fn without_a_majority_all_stand_still_once_all_have_spoken() {
        for own in [A, B, C] {
            let all = judged(3, own, &[(1, A), (2, B), (3, C)]);
            assert_eq!(all.iter().map(|j| j.halt.is_some()).collect::<Vec<_>>(), [false, false, true]);
        }
        assert!(judged(2, A, &[(1, A), (2, B)])[1].halt.is_some());
        // Two of five differ from each other, the rest is silent: not known yet.
        assert!(judged(5, A, &[(1, A), (2, B)]).iter().all(|j| j.halt.is_none()));
    }
}
