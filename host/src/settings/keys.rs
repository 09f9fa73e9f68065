//! Every key, once: its place in the file, what it is for, and how a value is read into the settings. The flags of
//! `telegraft serve` and the `TELEGRAFT_…` variables are made from this list, so none can be forgotten.

use std::{net::SocketAddr, time::Duration};

use super::{HostAddress, LogFormat, LogKind, ReadKind, Settings, parse_duration, parse_size};

/// A value as its source gives it.
pub(super) enum Input<'a> {
    /// From the file.
    Toml(&'a toml::Value),
    /// From a flag or a variable.
    Text(&'a str),
}

/// One setting.
pub struct Key {
    /// Place in the file, as `raft.tick`.
    pub path: &'static str,
    /// What it is for, in one line.
    pub help: &'static str,
    /// What a value looks like, as the help shows it.
    pub shape: &'static str,
    pub(super) set: fn(&mut Settings, &Input<'_>) -> Result<(), String>,
}

impl Key {
    /// Name of the flag without the dashes: `raft-tick`.
    pub fn flag(&self) -> String {
        self.path.replace(['.', '_'], "-")
    }

    /// Name of the environment variable: `TELEGRAFT_RAFT_TICK`.
    pub fn variable(&self) -> String {
        format!("TELEGRAFT_{}", self.path.replace('.', "_").to_uppercase())
    }
}

macro_rules! keys {
    ($($path:literal, $($field:ident).+, $read:ident, $shape:literal, $help:literal;)+) => {
        /// Every key, in the order in which the file shows them.
        pub const KEYS: &[Key] = &[$(Key {
            path: $path,
            help: $help,
            shape: $shape,
            set: |settings, input| {
                settings.$($field).+ = $read(input)?;
                Ok(())
            },
        }),+];
    };
}

keys! {
    "cluster", cluster, text, "NAME", "Name of the cluster; hosts of another cluster are refused";
    "host_id", host_id, count, "ID", "Id of this host, one of `hosts`";
    "data_dir", data_dir, path, "DIR", "Folder for the log, the databases and the module cache";
    "log", log, log_kind, "KIND", "Where entries are kept: rocksdb, or memory (for tests: forgotten at the end)";
    "client_listen", client_listen, socket, "ADDR", "Where the client API listens";
    "peer_listen", peer_listen, socket, "ADDR", "Where the other hosts connect";
    "http_listen", http_listen, socket, "ADDR", "Where metrics and health are served over HTTP";
    "hosts", hosts, hosts, "ID=CLIENT/PEER,…", "Every host of the cluster, by the addresses that others use";
    "raft.tick", raft.tick, duration, "TIME", "One tick of consensus; the other times are whole multiples";
    "raft.heartbeat", raft.heartbeat, duration, "TIME", "How often a leader speaks to its followers at least";
    "raft.election_min", raft.election_min, duration, "TIME", "Shortest silence after which a follower campaigns";
    "raft.election_max", raft.election_max, duration, "TIME", "Longest such silence: twice raft.election_min";
    "raft.pre_vote", raft.pre_vote, boolean, "BOOL", "Ask for votes before raising the term";
    "raft.check_quorum", raft.check_quorum, boolean, "BOOL", "A leader that hears no majority steps down";
    "raft.read", raft.read, read_kind, "KIND", "Before a linearizable read: read-index asks a majority; lease trusts clocks (rates within 10 %)";
    "raft.message_bytes_max", raft.message_bytes_max, size, "SIZE", "Entries in one message to a peer";
    "raft.inflight_messages_max", raft.inflight_messages_max, small, "N", "Append messages under way to one follower";
    "raft.inflight_bytes_max", raft.inflight_bytes_max, size, "SIZE", "Bytes of append messages under way to one follower";
    "raft.uncommitted_bytes_max", raft.uncommitted_bytes_max, size, "SIZE", "Uncommitted proposals that a leader holds";
    "raft.apply_bytes_max", raft.apply_bytes_max, size, "SIZE", "Committed entries handed to the machine at once";
    "requests.timeout", requests.timeout, duration, "TIME", "How long a call may take when the client brings no deadline";
    "requests.timeout_max", requests.timeout_max, duration, "TIME", "Longer deadlines are cut to this";
    "requests.payload_bytes_max", requests.payload_bytes_max, size, "SIZE", "Payload of one request";
    "requests.pending_max", requests.pending_max, small, "N", "Writes that may wait in this host, and linearizable reads";
    "machine.fuel", machine.fuel, count, "N", "Wasm fuel of one call, of a new machine (later: telegraft machine limits)";
    "machine.memory_bytes", machine.memory_bytes, size, "SIZE", "Linear memory of one instance, of a new machine";
    "machine.sql_steps", machine.sql_steps, count, "N", "SQLite virtual machine steps of one call, of a new machine";
    "machine.rows", machine.rows, count, "N", "Rows of one query result, of a new machine";
    "machine.result_bytes", machine.result_bytes, size, "SIZE", "One query result, of a new machine";
    "machine.reply_bytes", machine.reply_bytes, size, "SIZE", "One reply, of a new machine";
    "machine.value_bytes", machine.value_bytes, size, "SIZE", "One value in a statement or a row, of a new machine";
    "machine.database_bytes", machine.database_bytes, size, "SIZE", "All of the module's rows, of a new machine";
    "machine.module_bytes_max", machine.module_bytes_max, size, "SIZE", "Largest module this host takes for upload";
    "machine.digest_interval", machine.digest_interval, duration, "TIME", "How often replicas compare what they did, while they do something; 0s: never";
    "machine.query_threads", machine.query_threads, small, "N", "Threads that answer reads";
    "machine.query_time_max", machine.query_time_max, duration, "TIME", "How long a read may run, whatever the client's deadline; 0s: until that";
    "telemetry.log_level", telemetry.log_level, text, "LEVEL", "error, warn, info, debug, trace or off; or target=level,…";
    "telemetry.log_format", telemetry.log_format, log_format, "FORMAT", "text or json";
}

/// What a TOML value is called where another kind was wanted.
fn kind(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "a string",
        toml::Value::Integer(_) => "a whole number",
        toml::Value::Float(_) => "a fraction",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "a list",
        toml::Value::Table(_) => "a table",
    }
}

fn string<'a>(input: &Input<'a>, wanted: &str) -> Result<&'a str, String> {
    match input {
        Input::Text(text) => Ok(text),
        Input::Toml(toml::Value::String(text)) => Ok(text),
        Input::Toml(other) => Err(format!("must be {wanted}, not {}", kind(other))),
    }
}

fn text(input: &Input<'_>) -> Result<String, String> {
    string(input, "a string").map(str::to_owned)
}

fn path(input: &Input<'_>) -> Result<std::path::PathBuf, String> {
    string(input, "a path in quotes").map(Into::into)
}

fn count(input: &Input<'_>) -> Result<u64, String> {
    match input {
        Input::Toml(toml::Value::Integer(number)) => {
            u64::try_from(*number).map_err(|_| format!("must not be negative, and is {number}"))
        }
        Input::Toml(other) => Err(format!("must be a whole number, not {}", kind(other))),
        Input::Text(text) => {
            text.trim().replace('_', "").parse().map_err(|_| format!("{text:?} is not a whole number of 0 or more"))
        }
    }
}

fn small(input: &Input<'_>) -> Result<usize, String> {
    let number = count(input)?;
    usize::try_from(number).map_err(|_| format!("{number} is too large"))
}

fn size(input: &Input<'_>) -> Result<u64, String> {
    match input {
        Input::Toml(toml::Value::Integer(_)) => count(input),
        _ => parse_size(string(input, "a size as 4096 or \"16MiB\"")?),
    }
}

fn duration(input: &Input<'_>) -> Result<Duration, String> {
    match input {
        Input::Toml(toml::Value::Integer(number)) => {
            Err(format!("needs a unit: write \"{number}ms\" or \"{number}s\", in quotes"))
        }
        _ => parse_duration(string(input, "a duration as \"150ms\"")?),
    }
}

fn boolean(input: &Input<'_>) -> Result<bool, String> {
    match input {
        Input::Toml(toml::Value::Boolean(value)) => Ok(*value),
        Input::Toml(other) => Err(format!("must be true or false (without quotes), not {}", kind(other))),
        Input::Text(text) => match text.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("must be true or false, not {text:?}")),
        },
    }
}

fn socket(input: &Input<'_>) -> Result<SocketAddr, String> {
    let text = string(input, "an address as \"127.0.0.1:7400\"")?;
    text.trim().parse().map_err(|_| {
        format!("{text:?} is not an address to listen on: write an IP address and a port, as 127.0.0.1:7400")
    })
}

fn log_kind(input: &Input<'_>) -> Result<LogKind, String> {
    match string(input, "\"rocksdb\" or \"memory\"")? {
        "rocksdb" => Ok(LogKind::Rocksdb),
        "memory" => Ok(LogKind::Memory),
        other => Err(format!("must be rocksdb or memory, not {other:?}")),
    }
}

fn read_kind(input: &Input<'_>) -> Result<ReadKind, String> {
    match string(input, "\"read-index\" or \"lease\"")? {
        "read-index" => Ok(ReadKind::ReadIndex),
        "lease" => Ok(ReadKind::Lease),
        other => Err(format!("must be read-index or lease, not {other:?}")),
    }
}

fn log_format(input: &Input<'_>) -> Result<LogFormat, String> {
    match string(input, "\"text\" or \"json\"")? {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("must be text or json, not {other:?}")),
    }
}

/// `1=127.0.0.1:7400/127.0.0.1:7401,2=…`, or the file's `[[hosts]]`.
fn hosts(input: &Input<'_>) -> Result<Vec<HostAddress>, String> {
    match input {
        Input::Text(text) => text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(host_of_text).collect(),
        Input::Toml(toml::Value::Array(list)) => {
            let mut hosts = Vec::with_capacity(list.len());
            let mut wrong = Vec::new();
            for (position, value) in list.iter().enumerate() {
                match host_of_toml(value) {
                    Ok(host) => hosts.push(host),
                    Err(mistakes) => wrong.push(format!("host {} of the list: {}", position + 1, mistakes.join("; "))),
                }
            }
            if wrong.is_empty() { Ok(hosts) } else { Err(wrong.join("; ")) }
        }
        Input::Toml(other) => Err(format!(
            "must be a list, each host under a [[hosts]] of its own with id, client and peer; it is {}",
            kind(other)
        )),
    }
}

fn host_of_text(text: &str) -> Result<HostAddress, String> {
    let wrong = || format!("{text:?} is not a host: write ID=CLIENT/PEER, as 1=127.0.0.1:7400/127.0.0.1:7401");
    let (id, addresses) = text.split_once('=').ok_or_else(wrong)?;
    let (client, peer) = addresses.split_once('/').ok_or_else(wrong)?;
    let id = id.trim().parse().map_err(|_| wrong())?;
    Ok(HostAddress { id, client: client.trim().to_owned(), peer: peer.trim().to_owned() })
}

fn host_of_toml(value: &toml::Value) -> Result<HostAddress, Vec<String>> {
    let toml::Value::Table(table) = value else {
        return Err(vec![format!("must be a table with id, client and peer, not {}", kind(value))]);
    };
    let mut wrong: Vec<String> = table
        .keys()
        .filter(|key| !["id", "client", "peer"].contains(&key.as_str()))
        .map(|key| format!("unknown key {key:?} (there are id, client and peer)"))
        .collect();
    let mut field = |name: &str| match table.get(name) {
        Some(value) => Some(value),
        None => {
            wrong.push(format!("{name} is missing"));
            None
        }
    };
    let (id, client, peer) = (field("id"), field("client"), field("peer"));
    let mut read = |name: &str, result: Result<String, String>| match result {
        Ok(text) => text,
        Err(message) => {
            wrong.push(format!("{name} {message}"));
            String::new()
        }
    };
    let client = client.map(|value| read("client", text(&Input::Toml(value)))).unwrap_or_default();
    let peer = peer.map(|value| read("peer", text(&Input::Toml(value)))).unwrap_or_default();
    let id = match id.map(|value| count(&Input::Toml(value))) {
        Some(Ok(id)) => id,
        Some(Err(message)) => {
            wrong.push(format!("id {message}"));
            0
        }
        None => 0,
    };
    if wrong.is_empty() { Ok(HostAddress { id, client, peer }) } else { Err(wrong) }
}
