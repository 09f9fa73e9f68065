//! The checkers that need the whole run: what clients were told against what was committed, their reads against a model,
//! and their history as one.

use std::collections::BTreeMap;

use telegraft_raft::Index;

use crate::{
    clients::{Consistency, PlainRead, Seen, get_call, seen_in},
    judge::{Judge, Violation, violation},
    linearizability::{Verdict, kv},
    machine::{MachineDisk, plain::PlainDisk},
};

/// Judges the run by everything clients saw. A history too hard to decide is no pass.
///
/// # Errors
/// **D**, **S**, **X**.
pub fn judge(judge: &mut Judge, seen: &Seen, swaps: bool) -> Result<(), Violation> {
    if let Some(absurd) = &seen.absurd {
        return violation('X', format!("an answer that no machine should give: {absurd}"));
    }
    for acknowledged in &seen.acknowledged {
        judge.checks += 1;
        match judge.committed_at(acknowledged.index) {
            Some(committed) if committed.data == acknowledged.data => {}
            Some(_) => {
                let index = acknowledged.index;
                return violation(
                    'D',
                    format!("the write acknowledged at index {index} is not what is committed there"),
                );
            }
            None => {
                let index = acknowledged.index;
                return violation('D', format!("a write was acknowledged at index {index}, which is not committed"));
            }
        }
    }
    // While another module is active the model below would answer otherwise than the machine.
    if !swaps {
        replay(judge, &seen.plain_reads)?;
    }
    match kv::check(&seen.history) {
        Verdict::Linearizable => Ok(()),
        not => violation('X', format!("{not}")),
    }
}

/// Applies what was committed to a plain machine: reads that named an index must show the state there.
fn replay(judge: &mut Judge, reads: &[PlainRead]) -> Result<(), Violation> {
    let mut by_index: BTreeMap<Index, Vec<&PlainRead>> = BTreeMap::new();
    for read in reads {
        if let Consistency::AtLeast(least) = read.asked
            && read.index < least
        {
            return violation('X', format!("a read that asked for index {least} was answered at {}", read.index));
        }
        by_index.entry(read.index).or_default().push(read);
    }
    let Ok(mut model) = PlainDisk::default().open() else {
        return violation('S', "the model does not start".to_owned());
    };
    let mut applied = 0;
    for (index, reads) in by_index {
        let Some(more) = judge.committed.get(applied as usize..index as usize) else {
            return violation('D', format!("a read was answered at index {index}, which is not committed"));
        };
        let entries: Vec<_> = more.iter().map(|committed| committed.entry.clone()).collect();
        applied = index;
        if model.apply(&entries).is_err() {
            return violation('S', "the model cannot apply what is committed".to_owned());
        }
        for read in reads {
            let (method, payload) = get_call(read.key);
            let expected = model.query(method, &payload).ok().and_then(|(_, outcome)| seen_in(&outcome));
            judge.checks += 1;
            if expected.as_ref() != Some(&read.seen) {
                return violation(
                    'X',
                    format!(
                        "a read of key {} at index {index} saw {:?}, the state there is {expected:?}",
                        read.key, read.seen
                    ),
                );
            }
        }
    }
    Ok(())
}
