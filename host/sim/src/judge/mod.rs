//! The checkers. They watch every step of every node and know things no node can know: what is durable where, what has
//! ever been committed, who was told what. Each has a letter:
//!
//! | letter | what must hold | here |
//! |---|---|---|
//! | **E** | one leader a term, one vote a node and term | [`Judge::after_turn`], [`Judge::sent`] |
//! | **L** | equal index and term, equal entry and equal term before it (log matching) | [`Judge::written`] |
//! | **C** | whoever leads holds all that earlier terms committed; nothing committed differs (leader completeness) | [`Judge::after_turn`] |
//! | **S** | equal outcomes, and equal state digests, at equal index on all replicas | [`Judge::applied`], [`Judge::digest`], `after.rs` |
//! | **D** | an acknowledged write is the committed entry at its index, and stays | `after.rs` |
//! | **M** | term, vote, commit and applied never go back, nor a machine behind what it called durable | [`Judge::after_turn`], [`Judge::started`] |
//! | **Q** | committed only when the logs of a true quorum of the configuration in force hold it, as far as their processes were told that it is durable | [`Judge::after_turn`] |
//! | **X** | the clients' history is linearizable; other reads are of the state at their index | `after.rs` |
//! | **V** | it serves again after the faults have ended | the world, in its last phase |
//! | **P** | no panic; no node gives up without a cause that the world made | the world |

pub mod after;
pub mod membership;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use telegraft_node::AppliedEntry;
use telegraft_raft::{
    Entry, EntryKind, Index, Message, MessageKind, NodeId, Role, SnapshotMeta, StorageError, Term, invariants,
};

use crate::{
    clients::outcome_hash,
    process::{Process, data_hash},
};
use membership::Members;

/// One of the ten rules, broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The checker's letter.
    pub checker: char,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.what)
    }
}

/// A violation of the rule with this letter.
pub fn violation<T>(checker: char, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { checker, what: what.into() })
}

/// A committed entry.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// Hash of its data.
    pub data: u64,
    /// The term of the node that knew it first.
    pub by: Term,
}

/// What an entry is, as far as log matching is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Written {
    data: u64,
    term_before: Term,
}

/// All that the checkers remember.
pub struct Judge {
    leaders: HashMap<Term, NodeId>,
    votes: HashMap<(NodeId, Term), NodeId>,
    /// The highest term in which a node has promised anything.
    promised: HashMap<NodeId, Term>,
    written: HashMap<(Index, Term), Written>,
    entries: HashMap<(Index, Term), Entry>,
    /// By index, from 1.
    pub committed: Vec<Committed>,
    /// Configurations, in the order of their indexes.
    pub members: Vec<Members>,
    /// Hash of the outcome at each index, from 1.
    pub outcomes: Vec<Option<u64>>,
    digests: BTreeMap<Index, (NodeId, String)>,
    effects: BTreeMap<Index, (NodeId, [u8; 32])>,
    /// Things that were compared.
    pub checks: u64,
}

impl Judge {
    /// Checkers of a new group.
    pub fn new(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Judge {
            leaders: HashMap::new(),
            votes: HashMap::new(),
            promised: HashMap::new(),
            written: HashMap::new(),
            entries: HashMap::new(),
            committed: Vec::new(),
            members: vec![Members::first(voters)],
            outcomes: Vec::new(),
            digests: BTreeMap::new(),
            effects: BTreeMap::new(),
            checks: 0,
        }
    }

    /// The newest committed configuration.
    pub fn newest_members(&self) -> &Members {
        // Never empty.
        &self.members[self.members.len() - 1]
    }

    /// How far anything is committed.
    pub fn commit_index(&self) -> Index {
        self.committed.len() as Index
    }

    /// The committed entry at `index`.
    pub fn committed_at(&self, index: Index) -> Option<&Committed> {
        self.committed.get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    /// A process started.
    ///
    /// # Errors
    /// **M**, where it forgot what it had promised.
    pub fn started(&mut self, process: &Process) -> Result<(), Violation> {
        let Some(running) = &process.running else { return Ok(()) };
        let (id, raft) = (process.id, running.node.raft());
        let promised = self.promised.get(&id).copied().unwrap_or(0);
        if raft.term() < promised {
            return violation(
                'M',
                format!("node {id} made promises in term {promised} and starts in term {}", raft.term()),
            );
        }
        if let Some(vote) = self.votes.get(&(id, raft.term()))
            && raft.vote() != *vote
        {
            let now = raft.vote();
            return violation('M', format!("node {id} voted for {vote} in term {} and starts with {now}", raft.term()));
        }
        let applied = running.machine.applied_index();
        if applied < process.machine_durable {
            let durable = process.machine_durable;
            return violation('M', format!("node {id}'s machine called {durable} durable and starts at {applied}"));
        }
        self.checks += 3;
        Ok(())
    }

    /// A node handed entries to its log.
    ///
    /// # Errors
    /// **L**, where an entry differs from another of the same index and term.
    pub fn written(&mut self, process: &Process, entries: &[Entry]) -> Result<(), Violation> {
        let mut before: Option<Term> = None;
        for entry in entries {
            let term_before = match before {
                Some(term) => term,
                None => {
                    let raft = process.running.as_ref().map(|running| running.node.raft());
                    raft.and_then(|raft| raft.term_at(entry.index - 1).ok()).unwrap_or(Term::MAX)
                }
            };
            before = Some(entry.term);
            let now = Written { data: data_hash(&entry.data) ^ kind(entry), term_before };
            let at = (entry.index, entry.term);
            let known = *self.written.entry(at).or_insert(now);
            self.entries.entry(at).or_insert_with(|| entry.clone());
            self.checks += 1;
            let same_before =
                known.term_before == now.term_before || [known.term_before, now.term_before].contains(&Term::MAX);
            if known.data != now.data || !same_before {
                let (index, term) = at;
                return violation(
                    'L',
                    format!("node {} has another entry at index {index} of term {term}", process.id),
                );
            }
        }
        Ok(())
    }

    /// A node's message leaves for the network.
    ///
    /// # Errors
    /// **E**, where it votes twice in a term.
    pub fn sent(&mut self, message: &Message) -> Result<(), Violation> {
        let promises = match message.kind {
            MessageKind::Vote => Some(message.from),
            MessageKind::VoteResponse if !message.reject => Some(message.to),
            MessageKind::AppendResponse if !message.reject => None,
            _ => return Ok(()),
        };
        let promised = self.promised.entry(message.from).or_default();
        *promised = message.term.max(*promised);
        let Some(candidate) = promises else { return Ok(()) };
        self.checks += 1;
        let first = *self.votes.entry((message.from, message.term)).or_insert(candidate);
        if first != candidate {
            let (node, term) = (message.from, message.term);
            return violation('E', format!("node {node} voted for {first} and for {candidate} in term {term}"));
        }
        Ok(())
    }

    /// A node took a turn; `holds` says which node's durable log has the entry of an index and term.
    ///
    /// # Errors
    /// **E**, **C**, **M**, **Q**: see the head of this file.
    pub fn after_turn(
        &mut self,
        process: &mut Process,
        holds: impl Fn(NodeId, Index, Term) -> bool,
    ) -> Result<(), Violation> {
        let id = process.id;
        let Some(running) = &mut process.running else { return Ok(()) };
        let raft = running.node.raft();
        let now = invariants::observe(raft);
        let seen = running.seen;
        if now == seen {
            return Ok(());
        }
        self.checks += 2;
        invariants::check(raft).or_else(|broken| violation('P', broken.to_string()))?;
        invariants::check_across(id, &seen, &now).or_else(|broken| violation('M', broken.to_string()))?;
        if now.role == Role::Leader {
            let leader = *self.leaders.entry(now.term).or_insert(id);
            if leader != id {
                return violation('E', format!("nodes {leader} and {id} both lead term {}", now.term));
            }
            if seen.role != Role::Leader || seen.term != now.term {
                self.leads(id, now.term, |index| raft.term_at(index))?;
            }
        }
        let conf = (running.conf_seen, running.node.conf_index());
        for index in seen.commit + 1..=now.commit {
            // Below a snapshot that was just taken in the log says nothing any more.
            let Ok(term) = raft.term_at(index) else { continue };
            match self.committed_at(index) {
                Some(known) if known.entry.term != term => {
                    let other = known.entry.term;
                    return violation(
                        'C',
                        format!("node {id} has term {term} committed at index {index}, others {other}"),
                    );
                }
                Some(_) => self.checks += 1,
                None => self.commits(id, (index, term), now.term, conf, &holds)?,
            }
        }
        running.seen = now;
        running.conf_seen = conf.1;
        Ok(())
    }

    /// A node leads a new term: it must hold everything that earlier terms committed.
    fn leads(
        &mut self,
        id: NodeId,
        term: Term,
        at: impl Fn(Index) -> Result<Term, StorageError>,
    ) -> Result<(), Violation> {
        let newest = self.committed.iter().rposition(|committed| committed.by < term);
        let Some(newest) = newest else { return Ok(()) };
        self.checks += 1;
        let (index, expected) = (newest as Index + 1, self.committed[newest].entry.term);
        match at(index) {
            Ok(found) if found == expected => Ok(()),
            // Compacted away, so committed and applied here.
            Err(StorageError::Compacted) => Ok(()),
            found => violation(
                'C',
                format!(
                    "node {id} leads term {term} without the committed entry {index} of term {expected} (has {found:?})"
                ),
            ),
        }
    }

    /// The first to know that an entry is committed.
    fn commits(
        &mut self,
        id: NodeId,
        (index, term): (Index, Term),
        by: Term,
        conf: (Index, Index),
        holds: impl Fn(NodeId, Index, Term) -> bool,
    ) -> Result<(), Violation> {
        if index != self.commit_index() + 1 {
            return violation(
                'Q',
                format!("node {id} has entry {index} committed, nobody knows {}", self.commit_index() + 1),
            );
        }
        let Some(entry) = self.entries.get(&(index, term)).cloned() else {
            return violation(
                'D',
                format!("node {id} has entry {index} of term {term} committed, which was never written"),
            );
        };
        // A change comes into force with the turn that hands its entry to the machine: before it or after it within this
        // very turn anything may have been committed.
        let (before, after) = conf;
        let in_force = self.members.iter().rposition(|members| members.index <= before).unwrap_or(0);
        let possible = self.members[in_force..].iter().take_while(|members| members.index <= after.max(before));
        let enough = |members: &Members| members.is_quorum(|member| holds(member, index, term));
        self.checks += 1;
        if !possible.clone().any(enough) {
            let who: Vec<NodeId> = self.newest_members().all().into_iter().filter(|m| holds(*m, index, term)).collect();
            let voters: Vec<_> = possible.map(|members| (&members.voters, &members.outgoing)).collect();
            return violation(
                'Q',
                format!(
                    "node {id} commits entry {index} of term {term}, durable on {who:?} only; voters (and outgoing): {voters:?}"
                ),
            );
        }
        if entry.kind != EntryKind::Normal
            && let Some(next) = self.newest_members().after(&entry)
        {
            self.members.push(next);
        }
        let data = data_hash(&entry.data);
        self.committed.push(Committed { entry, data, by });
        Ok(())
    }

    /// A machine applied entries.
    ///
    /// # Errors
    /// **S**, where the outcome differs from another replica's; **C**, where the entry is not the committed one.
    pub fn applied(&mut self, id: NodeId, applied: &[AppliedEntry], skipped_to: Index) -> Result<(), Violation> {
        for entry in applied {
            let index = entry.index;
            match self.committed_at(index) {
                Some(known) if known.entry.term == entry.term => {}
                known => {
                    let committed = known.map(|known| known.entry.term);
                    let term = entry.term;
                    return violation(
                        'C',
                        format!("node {id} applied entry {index} of term {term}, committed is {committed:?}"),
                    );
                }
            }
            if index <= skipped_to {
                continue;
            }
            let outcome = outcome_hash(&entry.outcome);
            let at = usize::try_from(index).unwrap_or(usize::MAX);
            if self.outcomes.len() < at {
                self.outcomes.resize(at, None);
            }
            self.checks += 1;
            let known = *self.outcomes[at - 1].get_or_insert(outcome);
            if known != outcome {
                return violation(
                    'S',
                    format!("node {id} got {:?} from entry {index}, another replica something else", entry.outcome),
                );
            }
        }
        Ok(())
    }

    /// A node made a snapshot.
    ///
    /// # Errors
    /// **Q**, where it carries another configuration than that of its index; **C**, where its term is not the entry's.
    pub fn snapshot(&mut self, id: NodeId, meta: &SnapshotMeta) -> Result<(), Violation> {
        self.checks += 2;
        let index = meta.index;
        let of = self.members.iter().rev().find(|members| members.index <= index);
        let set = |ids: &[NodeId]| ids.iter().copied().collect::<BTreeSet<_>>();
        let conf = &meta.conf_state;
        let same = |m: &Members| {
            let own = [&conf.voters, &conf.voters_outgoing, &conf.learners, &conf.learners_next].map(|ids| set(ids));
            [&m.voters, &m.outgoing, &m.learners, &m.demoted] == own.each_ref()
        };
        if !of.is_some_and(same) {
            return violation(
                'Q',
                format!("node {id}'s snapshot at {index} carries {conf:?}, in force there is {of:?}"),
            );
        }
        match self.committed_at(index) {
            Some(known) if known.entry.term == meta.term => Ok(()),
            known => violation('C', format!("node {id}'s snapshot at {index} is of term {}, not {known:?}", meta.term)),
        }
    }

    /// A replica's state digest at an index.
    ///
    /// # Errors
    /// **S**, where it differs from another replica's at that index.
    pub fn digest(&mut self, id: NodeId, index: Index, digest: String) -> Result<(), Violation> {
        self.checks += 1;
        let (first, known) = self.digests.entry(index).or_insert_with(|| (id, digest.clone()));
        if *known != digest {
            return violation(
                'S',
                format!("nodes {first} and {id} have different state at index {index}: {known} and {digest}"),
            );
        }
        Ok(())
    }
}

impl Judge {
    /// A replica's digest of all effects up to an index.
    ///
    /// # Errors
    /// **S**, where it differs from another replica's at that index.
    pub fn effects(&mut self, id: NodeId, index: Index, digest: [u8; 32]) -> Result<(), Violation> {
        self.checks += 1;
        let (first, known) = *self.effects.entry(index).or_insert((id, digest));
        if known != digest {
            return violation(
                'S',
                format!("up to index {index} the entries had other effects on node {first} than on node {id}"),
            );
        }
        Ok(())
    }
}

fn kind(entry: &Entry) -> u64 {
    match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 2,
        EntryKind::ConfChangeV2 => 4,
    }
}
