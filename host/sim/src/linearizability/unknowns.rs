//! The operations of unknown outcome in a search, by what they ask for, and how many of each have been taken.

use std::collections::HashMap;

use super::{Model, Moment, Operation, Outcome};

/// How many operations of which groups are taken: pairs of group and number, the groups ascending.
pub(super) type Taken = Box<[(u32, u32)]>;

/// Unknown operations that ask for the same, in the order of their calls. The first `taken` are placed.
pub(super) struct Unknowns<'a, M: Model> {
    pub(super) op: &'a M::Op,
    pub(super) calls: Vec<(Moment, usize)>,
    pub(super) taken: usize,
}

/// Groups the unknown operations that may change something; they are given in the order of their calls.
pub(super) fn groups<'a, M: Model>(
    operations: impl Iterator<Item = (usize, &'a Operation<M::Op, M::Ret>)>,
    model: &M,
) -> Vec<Unknowns<'a, M>>
where
    M::Ret: 'a,
{
    let mut groups: Vec<Unknowns<'a, M>> = Vec::new();
    let mut by_op: HashMap<&M::Op, usize> = HashMap::new();
    for (place, Operation { op, called, outcome, .. }) in operations {
        if !matches!(outcome, Outcome::Unknown) || model.changes_nothing(op, None) {
            continue;
        }
        let group = *by_op.entry(op).or_insert_with(|| {
            groups.push(Unknowns { op, calls: Vec::new(), taken: 0 });
            groups.len() - 1
        });
        groups[group].calls.push((*called, place));
    }
    groups
}

/// The operations that are taken now.
pub(super) fn taken<M: Model>(groups: &[Unknowns<'_, M>]) -> Taken {
    (groups.iter().enumerate())
        .filter(|(_, group)| group.taken > 0)
        .map(|(group, Unknowns { taken, .. })| (group as u32, *taken as u32))
        .collect()
}

/// Whether `less` takes of no group more than `more` does.
pub(super) fn is_subset(less: &Taken, more: &Taken) -> bool {
    let mut more = more.iter();
    less.iter().all(|(group, taken)| {
        more.find(|(other, _)| other >= group).is_some_and(|(other, most)| other == group && most >= taken)
    })
}
