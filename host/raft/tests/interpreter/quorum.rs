//! Scripts of quorum arithmetic: `vote` and `committed` of a majority or a joint quorum.
//!
//! `vote cfg=(1,2,3) cfgj=(2,3,4) votes=(y,n,_,y)` gives `VoteWon`, `VoteLost` or `VotePending`. Votes belong to the
//! voters in the order written, `cfg` before `cfgj`, each voter once; `_` is a vote not cast. `cfgj=zero` asks for a
//! joint quorum with an empty second half. `committed … idx=(10,_,12)` draws each voter's index and gives the index
//! that is committed; with no voter at all that is `∞`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use telegraft_raft::quorum::{VoteResult, joint_committed, joint_vote, majority_committed, majority_vote};
use telegraft_raft::{Index, NodeId};

use super::Machine;
use super::datadriven::{Directive, ScriptError};

/// The language has no state.
#[derive(Debug)]
pub struct Quorums;

type Voters = BTreeSet<NodeId>;

impl Machine for Quorums {
    fn run(&mut self, directive: &Directive) -> Result<String, ScriptError> {
        let (mut first, mut second) = (Vec::new(), None);
        let (mut votes, mut indexes) = (Vec::new(), Vec::new());
        for argument in &directive.arguments {
            match argument.key.as_str() {
                "cfg" => first = directive.all::<NodeId>(argument)?,
                "cfgj" if argument.list() == ["zero"] => second = Some(Vec::new()),
                "cfgj" => second = Some(directive.all::<NodeId>(argument)?),
                "votes" => {
                    for word in argument.list() {
                        votes.push(match word.as_str() {
                            "y" => Some(true),
                            "n" => Some(false),
                            "_" => None,
                            other => return Err(directive.error(format!("vote {other:?} is none of y, n, _"))),
                        });
                    }
                }
                "idx" => {
                    for word in argument.list() {
                        indexes.push(if word == "_" { None } else { Some(directive.read::<Index>("idx", word)?) });
                    }
                }
                _ => return Err(directive.unknown(argument)),
            }
        }
        // Input is given once for a voter of both halves.
        let mut order = Vec::new();
        for id in first.iter().chain(second.iter().flatten()) {
            if !order.contains(id) {
                order.push(*id);
            }
        }
        let given = if directive.command == "vote" { votes.len() } else { indexes.len() };
        if given != order.len() {
            return Err(directive
                .error(format!("{} voters need as many values (y, n, _ or an index), got {given}", order.len())));
        }
        let incoming: Voters = first.iter().copied().collect();
        let outgoing: Option<Voters> = second.map(|ids| ids.into_iter().collect());
        match directive.command.as_str() {
            "vote" => Ok(vote(&incoming, outgoing.as_ref(), &known(&order, &votes))),
            "committed" => Ok(committed(&incoming, outgoing.as_ref(), &known(&order, &indexes))),
            _ => Err(directive.error("unknown command of a quorum script")),
        }
    }
}

fn known<T: Copy>(order: &[NodeId], values: &[Option<T>]) -> BTreeMap<NodeId, T> {
    order.iter().zip(values).filter_map(|(id, value)| Some((*id, (*value)?))).collect()
}

fn vote(incoming: &Voters, outgoing: Option<&Voters>, votes: &BTreeMap<NodeId, bool>) -> String {
    let look = |id: NodeId| votes.get(&id).copied();
    let name = |result| match result {
        VoteResult::Pending => "VotePending",
        VoteResult::Lost => "VoteLost",
        VoteResult::Won => "VoteWon",
    };
    let Some(outgoing) = outgoing else { return name(majority_vote(incoming, &look)).to_owned() };
    let result = joint_vote(incoming, outgoing, &look);
    let mirrored = joint_vote(outgoing, incoming, &look);
    if mirrored == result {
        name(result).to_owned()
    } else {
        format!("{}\n{} <-- with the halves exchanged", name(result), name(mirrored))
    }
}

fn committed(incoming: &Voters, outgoing: Option<&Voters>, acknowledged: &BTreeMap<NodeId, Index>) -> String {
    let look = |id: NodeId| acknowledged.get(&id).copied();
    let print = |index: Index| if index == Index::MAX { "∞".to_owned() } else { index.to_string() };
    let nobody = Voters::new();
    let (voters, index, others) = match outgoing {
        None => {
            let index = majority_committed(incoming, &look);
            let others = [
                ("joined with nobody", joint_committed(incoming, &nobody, &look)),
                ("joined with itself", joint_committed(incoming, incoming, &look)),
            ];
            (incoming.clone(), index, others.to_vec())
        }
        Some(outgoing) => {
            let index = joint_committed(incoming, outgoing, &look);
            let others = vec![("with the halves exchanged", joint_committed(outgoing, incoming, &look))];
            (incoming.union(outgoing).copied().collect(), index, others)
        }
    };
    let mut text = picture(&voters, acknowledged);
    for (how, other) in others.into_iter().filter(|(_, other)| *other != index) {
        let _ = writeln!(text, "{} <-- {how}", print(other));
    }
    text + &print(index)
}

/// Each voter's index with a bar: as many `x` as voters have a lower index, `?` where the index is not known. Of voters
/// with equal indexes only the one with the lowest id carries the bar.
fn picture(voters: &Voters, acknowledged: &BTreeMap<NodeId, Index>) -> String {
    if voters.is_empty() {
        return "<empty majority quorum>".to_owned();
    }
    let mut ranked: Vec<(Index, NodeId)> =
        voters.iter().map(|id| (acknowledged.get(id).copied().unwrap_or(0), *id)).collect();
    ranked.sort_unstable();
    let mut bars = BTreeMap::new();
    for (rank, pair) in ranked.windows(2).enumerate() {
        if pair[0].0 < pair[1].0 {
            bars.insert(pair[1].1, rank + 1);
        }
    }
    let width = voters.len();
    let mut text = format!("{}idx\n", " ".repeat(width + 4));
    for id in voters {
        let index = acknowledged.get(id).copied();
        let bar = match index {
            None => format!("?{}", " ".repeat(width)),
            Some(_) => {
                let bar = bars.get(id).copied().unwrap_or(0);
                format!("{}>{}", "x".repeat(bar), " ".repeat(width - bar))
            }
        };
        let _ = writeln!(text, "{bar} {:5}    (id={id})", index.unwrap_or(0));
    }
    text
}
