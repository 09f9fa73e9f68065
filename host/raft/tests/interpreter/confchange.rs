//! Scripts that change a configuration without nodes: `simple`, `enter-joint [autoleave=true]`, `leave-joint`.
//!
//! The input holds the changes (`v1 l2 r3 u4`). Each command prints the new configuration and every member's progress,
//! or why the change is refused; a refused change leaves the configuration as it was. The log grows by one entry with
//! each command, so a member's next index tells when it came.

use telegraft_raft::{
    Changer, ConfChangeKind, ConfChangeSingle, Configuration, Index, PeerProgress, Progress, ProgressMap,
};

use super::Machine;
use super::datadriven::{Directive, ScriptError};
use super::print;

/// The configuration so far.
#[derive(Default)]
pub struct Changes {
    configuration: Configuration,
    progress: ProgressMap,
    last_index: Index,
}

impl Machine for Changes {
    fn run(&mut self, directive: &Directive) -> Result<String, ScriptError> {
        let changes = read_changes(directive)?;
        let mut auto_leave = false;
        for argument in &directive.arguments {
            match (directive.command.as_str(), argument.key.as_str()) {
                ("enter-joint", "autoleave") => auto_leave = directive.only(argument)?,
                _ => return Err(directive.unknown(argument)),
            }
        }
        let changer =
            Changer { configuration: &self.configuration, progress: &self.progress, last_index: self.last_index };
        let result = match directive.command.as_str() {
            "simple" => changer.simple(&changes),
            "enter-joint" => changer.enter_joint(auto_leave, &changes),
            "leave-joint" if !changes.is_empty() => return Err(directive.error("takes no changes")),
            "leave-joint" => changer.leave_joint(),
            _ => return Err(directive.error("unknown command of a confchange script")),
        };
        self.last_index += 1;
        Ok(match result {
            Err(error) => error.to_string(),
            Ok((configuration, progress)) => {
                let mut lines = vec![print::configuration(&configuration)];
                lines.extend(
                    progress.iter().map(|(id, progress)| format!("{id}: {}", print::progress(&view(progress)))),
                );
                (self.configuration, self.progress) = (configuration, progress);
                lines.join("\n")
            }
        })
    }
}

/// What a script can see of a member's progress; nothing is ever in flight here.
fn view(progress: &Progress) -> PeerProgress {
    PeerProgress {
        match_index: progress.match_index(),
        next_index: progress.next_index(),
        state: progress.state(),
        pending_snapshot: progress.pending_snapshot(),
        recent_active: progress.is_recently_active(),
        is_learner: progress.is_learner(),
        paused: progress.is_paused(),
        inflights: 0,
        inflights_full: false,
    }
}

/// Reads the changes in a directive's input: words `vN` (voter), `lN` (learner), `rN` (remove), `uN` (update).
///
/// # Errors
///
/// A word is none of these.
pub fn read_changes(directive: &Directive) -> Result<Vec<ConfChangeSingle>, ScriptError> {
    let mut changes = Vec::new();
    for word in directive.input.split_whitespace() {
        let kind = match word.as_bytes().first() {
            Some(b'v') => ConfChangeKind::AddNode,
            Some(b'l') => ConfChangeKind::AddLearnerNode,
            Some(b'r') => ConfChangeKind::RemoveNode,
            Some(b'u') => ConfChangeKind::UpdateNode,
            _ => return Err(directive.error(format!("change {word:?} begins with none of v, l, r, u"))),
        };
        changes.push(ConfChangeSingle { kind, node: directive.read("node of a change", &word[1..])? });
    }
    Ok(changes)
}
