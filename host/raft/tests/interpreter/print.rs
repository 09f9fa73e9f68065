//! The printed forms: messages, entries, hard state, configuration, progress and `Ready`.
//!
//! These forms are the ones that interaction scripts of Raft cores are commonly written in, so that a script from
//! elsewhere can be run as it is. Every function returns text without a final newline unless it says otherwise.

use std::fmt::Write as _;

use telegraft_raft::{
    ConfChangeKind, ConfChangeSingle, ConfChangeV2, ConfState, Configuration, Entry, EntryKind, HardState, Message,
    MessageKind, NodeId, PeerProgress, ProgressState, ReadState, Ready, Role, Snapshot, SoftState,
};

/// The name a role is printed under.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "StateFollower",
        Role::PreCandidate => "StatePreCandidate",
        Role::Candidate => "StateCandidate",
        Role::Leader => "StateLeader",
    }
}

/// The name a kind of message is printed under.
pub fn message_kind(kind: MessageKind) -> &'static str {
    match kind {
        MessageKind::Propose => "MsgProp",
        MessageKind::Append => "MsgApp",
        MessageKind::AppendResponse => "MsgAppResp",
        MessageKind::Vote => "MsgVote",
        MessageKind::VoteResponse => "MsgVoteResp",
        MessageKind::PreVote => "MsgPreVote",
        MessageKind::PreVoteResponse => "MsgPreVoteResp",
        MessageKind::Snapshot => "MsgSnap",
        MessageKind::Heartbeat => "MsgHeartbeat",
        MessageKind::HeartbeatResponse => "MsgHeartbeatResp",
        MessageKind::TimeoutNow => "MsgTimeoutNow",
        MessageKind::ReadIndex => "MsgReadIndex",
        MessageKind::ReadIndexResponse => "MsgReadIndexResp",
        MessageKind::TransferLeader => "MsgTransferLeader",
    }
}

/// Bytes as a quoted string with escapes for what is not printable.
pub fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let _ = match c {
                '"' | '\\' => write!(text, "\\{c}"),
                '\x07' => write!(text, "\\a"),
                '\x08' => write!(text, "\\b"),
                '\t' => write!(text, "\\t"),
                '\n' => write!(text, "\\n"),
                '\x0b' => write!(text, "\\v"),
                '\x0c' => write!(text, "\\f"),
                '\r' => write!(text, "\\r"),
                c if u32::from(c) < 0x80 && c.is_control() => write!(text, "\\x{:02x}", u32::from(c)),
                c if c.is_control() => write!(text, "\\u{:04x}", u32::from(c)),
                c => write!(text, "{c}"),
            };
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text.push('"');
    text
}

/// Changes as they are written in a script: `v1 l2 r3 u4`.
pub fn changes(changes: &[ConfChangeSingle]) -> String {
    let words: Vec<String> = changes
        .iter()
        .map(|change| {
            let letter = match change.kind {
                ConfChangeKind::AddNode => 'v',
                ConfChangeKind::AddLearnerNode => 'l',
                ConfChangeKind::RemoveNode => 'r',
                ConfChangeKind::UpdateNode => 'u',
            };
            format!("{letter}{}", change.node)
        })
        .collect();
    words.join(" ")
}

/// `term/index Kind payload`.
pub fn entry(entry: &Entry) -> String {
    let (kind, payload) = match entry.kind {
        EntryKind::Normal => ("EntryNormal", quoted(&entry.data)),
        EntryKind::ConfChange | EntryKind::ConfChangeV2 => {
            let name = if entry.kind == EntryKind::ConfChange { "EntryConfChange" } else { "EntryConfChangeV2" };
            let payload = match ConfChangeV2::decode(entry) {
                Ok(change) => changes(&change.changes),
                Err(error) => format!("({error})"),
            };
            (name, payload)
        }
    };
    let gap = if payload.is_empty() { "" } else { " " };
    format!("{}/{} {kind}{gap}{payload}", entry.term, entry.index)
}

/// Entries, one a line.
pub fn entries(list: &[Entry]) -> String {
    list.iter().map(entry).collect::<Vec<_>>().join("\n")
}

/// `Term:1 Vote:1 Commit:5`, without a vote that is not cast.
pub fn hard_state(state: &HardState) -> String {
    let vote = if state.vote == 0 { String::new() } else { format!(" Vote:{}", state.vote) };
    format!("Term:{}{vote} Commit:{}", state.term, state.commit)
}

/// `Lead:1 State:StateFollower`.
pub fn soft_state(state: &SoftState) -> String {
    format!("Lead:{} State:{}", state.leader, role(state.role))
}

fn ids<'a>(list: impl IntoIterator<Item = &'a NodeId>) -> String {
    list.into_iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

/// A stored membership.
pub fn conf_state(state: &ConfState) -> String {
    format!(
        "Voters:[{}] VotersOutgoing:[{}] Learners:[{}] LearnersNext:[{}] AutoLeave:{}",
        ids(&state.voters),
        ids(&state.voters_outgoing),
        ids(&state.learners),
        ids(&state.learners_next),
        state.auto_leave
    )
}

/// A membership in force: `voters=(1 2)&&(1) learners=(3) learners_next=(4) autoleave`.
pub fn configuration(configuration: &Configuration) -> String {
    let mut text = format!("voters=({})", ids(&configuration.voters));
    if configuration.is_joint() {
        let _ = write!(text, "&&({})", ids(&configuration.voters_outgoing));
    }
    if !configuration.learners.is_empty() {
        let _ = write!(text, " learners=({})", ids(&configuration.learners));
    }
    if !configuration.learners_next.is_empty() {
        let _ = write!(text, " learners_next=({})", ids(&configuration.learners_next));
    }
    if configuration.auto_leave {
        text.push_str(" autoleave");
    }
    text
}

/// A snapshot's place and membership.
pub fn snapshot(snapshot: &Snapshot) -> String {
    let meta = &snapshot.meta;
    format!("Index:{} Term:{} ConfState:{}", meta.index, meta.term, conf_state(&meta.conf_state))
}

/// How far one member is, as `status` shows it.
pub fn progress(progress: &PeerProgress) -> String {
    let state = match progress.state {
        ProgressState::Probe => "StateProbe",
        ProgressState::Replicate => "StateReplicate",
        ProgressState::Snapshot => "StateSnapshot",
    };
    let mut text = format!("{state} match={} next={}", progress.match_index, progress.next_index);
    if progress.is_learner {
        text.push_str(" learner");
    }
    if progress.paused {
        text.push_str(" paused");
    }
    if progress.pending_snapshot > 0 {
        let _ = write!(text, " pendingSnap={}", progress.pending_snapshot);
    }
    if !progress.recent_active {
        text.push_str(" inactive");
    }
    if progress.inflights > 0 {
        let _ = write!(text, " inflight={}", progress.inflights);
        if progress.inflights_full {
            text.push_str("[full]");
        }
    }
    text
}

/// A line of a message that may come from or go to one of a node's own threads: every field a message shows.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Sender.
    pub from: String,
    /// Receiver.
    pub to: String,
    /// Printed name of the kind.
    pub kind: &'static str,
    /// See [`Message`].
    pub term: u64,
    /// See [`Message`].
    pub log_term: u64,
    /// See [`Message`].
    pub index: u64,
    /// The hint of a rejection.
    pub rejected: Option<u64>,
    /// See [`Message`].
    pub commit: u64,
    /// See [`Message`].
    pub vote: u64,
    /// See [`Message`].
    pub entries: &'a [Entry],
    /// See [`Message`].
    pub snapshot: Option<&'a Snapshot>,
}

impl Line<'_> {
    /// A line without any of the optional parts.
    pub fn new(from: impl ToString, to: impl ToString, kind: &'static str) -> Self {
        Line {
            from: from.to_string(),
            to: to.to_string(),
            kind,
            term: 0,
            log_term: 0,
            index: 0,
            rejected: None,
            commit: 0,
            vote: 0,
            entries: &[],
            snapshot: None,
        }
    }

    /// The printed form; more than one line where there are several entries or a snapshot.
    pub fn print(&self) -> String {
        let mut text =
            format!("{}->{} {} Term:{} Log:{}/{}", self.from, self.to, self.kind, self.term, self.log_term, self.index);
        if let Some(hint) = self.rejected {
            let _ = write!(text, " Rejected (Hint: {hint})");
        }
        if self.commit != 0 {
            let _ = write!(text, " Commit:{}", self.commit);
        }
        if self.vote != 0 {
            let _ = write!(text, " Vote:{}", self.vote);
        }
        match self.entries {
            [] => {}
            [only] => {
                let _ = write!(text, " Entries:[{}]", entry(only));
            }
            many => {
                let _ = write!(text, " Entries:[\n{}\n]", indent(&entries(many)));
            }
        }
        if let Some(held) = self.snapshot {
            let _ = write!(text, "\n  Snapshot: {}", snapshot(held));
        }
        text
    }
}

/// A message between nodes.
pub fn message(message: &Message) -> String {
    let line = Line {
        from: message.from.to_string(),
        to: message.to.to_string(),
        kind: message_kind(message.kind),
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        rejected: message.reject.then_some(message.reject_hint),
        commit: message.commit,
        vote: message.vote,
        entries: &message.entries,
        snapshot: message.snapshot.as_deref().filter(|snapshot| snapshot.meta.index != 0),
    };
    line.print()
}

fn read_states(states: &[ReadState]) -> String {
    let states: Vec<String> = states
        .iter()
        .map(|state| {
            let bytes: Vec<String> = state.context.iter().map(u8::to_string).collect();
            format!("{{{} [{}]}}", state.index, bytes.join(" "))
        })
        .collect();
    format!("[{}]", states.join(" "))
}

/// A whole `Ready`. `messages` are the printed messages, as they differ between synchronous and asynchronous storage.
pub fn ready(ready: &Ready, messages: &[String]) -> String {
    let mut parts = Vec::new();
    if let Some(state) = &ready.soft_state {
        parts.push(soft_state(state));
    }
    if let Some(state) = &ready.hard_state {
        parts.push(format!("HardState {}", hard_state(state)));
    }
    if !ready.read_states.is_empty() {
        parts.push(format!("ReadStates {}", read_states(&ready.read_states)));
    }
    if !ready.entries.is_empty() {
        parts.push(format!("Entries:\n{}", entries(&ready.entries)));
    }
    if let Some(held) = &ready.snapshot {
        parts.push(format!("Snapshot {}", snapshot(held)));
    }
    if !ready.committed_entries.is_empty() {
        parts.push(format!("CommittedEntries:\n{}", entries(&ready.committed_entries)));
    }
    if !messages.is_empty() {
        parts.push(format!("Messages:\n{}", messages.join("\n")));
    }
    if parts.is_empty() {
        return "<empty Ready>".to_owned();
    }
    format!("Ready MustSync={}:\n{}", ready.must_sync, parts.join("\n"))
}

/// Every line moved two columns to the right.
pub fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
