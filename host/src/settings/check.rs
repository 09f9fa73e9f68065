//! What a whole configuration must fulfil, beyond each value being readable.

use std::{net::SocketAddr, time::Duration};

use telegraft_sandbox::{Limits, MODULE_BYTES_MAX};

use super::{ReadKind, Settings, format_duration};

/// A rule that is broken, and the keys it speaks of: the first is the one to change.
pub(super) struct Finding {
    pub keys: Vec<&'static str>,
    pub message: String,
}

/// Longest cluster name: it travels in the metadata of every stream.
const CLUSTER_NAME_MAX: usize = 63;
/// Most hosts: majorities beyond this only cost.
const HOSTS_MAX: usize = 15;
/// Bytes that a payload leaves in an entry for its other fields.
const ENTRY_OVERHEAD: u64 = 4096;
/// Ticks of an election timeout below which nothing worth having is left of a lease.
const LEASE_ELECTION_TICKS_MIN: u32 = 6;

/// Shortest time between two comparisons of the replicas: each costs an entry, and one more for each host.
const DIGEST_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Shortest time worth giving a read: a page that must come from a slow disk takes as long.
const QUERY_TIME_MIN: Duration = Duration::from_millis(10);

/// Every rule that the settings break.
pub(super) fn check(settings: &Settings) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    identity(settings, &mut findings);
    listeners(settings, &mut findings);
    hosts(settings, &mut findings);
    times(settings, &mut findings);
    bounds(settings, &mut findings);
    log_level(&settings.telemetry.log_level, &mut findings);
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn push(&mut self, keys: &[&'static str], message: String) {
        self.0.push(Finding { keys: keys.to_vec(), message });
    }
}

fn identity(settings: &Settings, findings: &mut Findings) {
    let name = &settings.cluster;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > CLUSTER_NAME_MAX || !name.chars().all(allowed) {
        findings.push(
            &["cluster"],
            format!("must be 1 to {CLUSTER_NAME_MAX} letters (a-z, A-Z), digits, '-', '_' or '.', and is {name:?}"),
        );
    }
    if settings.host_id == 0 {
        findings.push(&["host_id"], "must be greater than 0".into());
    } else if !settings.hosts.iter().any(|host| host.id == settings.host_id) {
        let known: Vec<String> = settings.hosts.iter().map(|host| host.id.to_string()).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        findings.push(&["host_id", "hosts"], format!("{} is not in hosts (there are: {known})", settings.host_id));
    }
    if settings.data_dir.as_os_str().is_empty() {
        findings.push(&["data_dir"], "must name a folder".into());
    }
}

fn listeners(settings: &Settings, findings: &mut Findings) {
    let all: [(&'static str, SocketAddr); 3] = [
        ("client_listen", settings.client_listen),
        ("peer_listen", settings.peer_listen),
        ("http_listen", settings.http_listen),
    ];
    for (position, (key, address)) in all.iter().enumerate() {
        for (earlier_key, earlier) in all.iter().take(position) {
            // A wildcard takes the port on every address. Port 0 lets the system choose, so it never collides.
            let same = address.ip() == earlier.ip() || address.ip().is_unspecified() || earlier.ip().is_unspecified();
            if same && address.port() == earlier.port() && address.port() != 0 {
                findings.push(&[key, earlier_key], format!("{address} takes the port of {earlier_key} ({earlier})"));
            }
        }
    }
}

fn hosts(settings: &Settings, findings: &mut Findings) {
    let hosts = &settings.hosts;
    if hosts.is_empty() {
        findings.push(&["hosts"], "is empty: list every host of the cluster, this one too".into());
    }
    if hosts.len() > HOSTS_MAX {
        findings.push(&["hosts"], format!("has {} hosts; at most {HOSTS_MAX}", hosts.len()));
    }
    let mut ids: Vec<u64> = Vec::new();
    let mut addresses: Vec<&str> = Vec::new();
    for host in hosts {
        if host.id == 0 {
            findings.push(&["hosts"], "an id must be greater than 0".into());
        } else if ids.contains(&host.id) {
            findings.push(&["hosts"], format!("id {} stands there twice", host.id));
        }
        ids.push(host.id);
        for (name, address) in [("client", &host.client), ("peer", &host.peer)] {
            if let Err(why) = reachable(address) {
                findings.push(&["hosts"], format!("{name} of host {}: {address:?} {why}", host.id));
            } else if addresses.contains(&address.as_str()) {
                findings.push(&["hosts"], format!("{name} of host {}: {address} is taken twice", host.id));
            }
            addresses.push(address);
        }
    }
}

/// Whether others can be told this address: `name:port`, neither a wildcard nor port 0.
fn reachable(address: &str) -> Result<(), &'static str> {
    const SHAPE: &str = "is not an address: write it as 10.0.0.1:7400 or name:7400";
    let (name, port) = address.rsplit_once(':').ok_or(SHAPE)?;
    match port.parse::<u16>() {
        Err(_) => return Err(SHAPE),
        Ok(0) => return Err("has port 0, which nobody can connect to"),
        Ok(_) => {}
    }
    let name = match name.strip_prefix('[') {
        Some(inner) => {
            let inner = inner.strip_suffix(']').ok_or(SHAPE)?;
            inner.parse::<std::net::Ipv6Addr>().map_err(|_| SHAPE)?;
            inner
        }
        None if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) => {
            return Err(SHAPE);
        }
        None => name,
    };
    match name.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Err("is a wildcard: give the address that the other hosts use"),
        _ => Ok(()),
    }
}

fn times(settings: &Settings, findings: &mut Findings) {
    let raft = &settings.raft;
    if raft.tick < Duration::from_millis(1) || raft.tick > Duration::from_secs(1) {
        findings.push(&["raft.tick"], format!("must be 1ms to 1s, and is {}", format_duration(raft.tick)));
    } else {
        for (key, time) in [("raft.heartbeat", raft.heartbeat), ("raft.election_min", raft.election_min)] {
            if time.is_zero() || time.as_nanos() % raft.tick.as_nanos() != 0 {
                let (time, tick) = (format_duration(time), format_duration(raft.tick));
                findings.push(&[key, "raft.tick"], format!("must be a whole number of ticks ({tick}), and is {time}"));
            } else if time.as_nanos() / raft.tick.as_nanos() > 1_000_000 {
                findings.push(&[key, "raft.tick"], "is more than a million ticks".into());
            }
        }
    }
    if raft.election_min <= raft.heartbeat {
        let (election, heartbeat) = (format_duration(raft.election_min), format_duration(raft.heartbeat));
        findings.push(
            &["raft.election_min", "raft.heartbeat"],
            format!("must be longer than raft.heartbeat ({heartbeat}), better three times that, and is {election}"),
        );
    }
    if raft.election_min.checked_mul(2) != Some(raft.election_max) {
        let twice = format_duration(raft.election_min.saturating_mul(2));
        findings.push(
            &["raft.election_max", "raft.election_min"],
            format!("must be twice raft.election_min ({twice}), and is {}", format_duration(raft.election_max)),
        );
    }
    if raft.read == ReadKind::Lease {
        lease(settings, findings);
    }
    let interval = settings.machine.digest_interval;
    if !interval.is_zero() && interval < DIGEST_INTERVAL_MIN {
        let (least, interval) = (format_duration(DIGEST_INTERVAL_MIN), format_duration(interval));
        findings
            .push(&["machine.digest_interval"], format!("must be 0s (never) or at least {least}, and is {interval}"));
    }
    let query = settings.machine.query_time_max;
    if !query.is_zero() && query < QUERY_TIME_MIN {
        let (least, query) = (format_duration(QUERY_TIME_MIN), format_duration(query));
        findings.push(
            &["machine.query_time_max"],
            format!("must be 0s (the client's deadline alone counts) or at least {least}, and is {query}"),
        );
    }
    let requests = &settings.requests;
    for (key, time) in [("requests.timeout", requests.timeout), ("requests.timeout_max", requests.timeout_max)] {
        if time.is_zero() {
            findings.push(&[key], "must be longer than 0".into());
        }
    }
    if requests.timeout > requests.timeout_max {
        let max = format_duration(requests.timeout_max);
        findings.push(
            &["requests.timeout", "requests.timeout_max"],
            format!(
                "must not be longer than requests.timeout_max ({max}), and is {}",
                format_duration(requests.timeout)
            ),
        );
    }
}

fn lease(settings: &Settings, findings: &mut Findings) {
    let raft = &settings.raft;
    if !raft.check_quorum {
        findings.push(
            &["raft.read", "raft.check_quorum"],
            "lease needs raft.check_quorum = true: without it voters do not wait for a leader's lease to end".into(),
        );
    }
    if !raft.tick.is_zero() && raft.election_ticks() < LEASE_ELECTION_TICKS_MIN {
        findings.push(
            &["raft.read", "raft.election_min", "raft.tick"],
            format!(
                "lease needs a raft.election_min of at least {LEASE_ELECTION_TICKS_MIN} ticks, and it has {}",
                raft.election_ticks()
            ),
        );
    }
}

fn bounds(settings: &Settings, findings: &mut Findings) {
    let (raft, requests, machine) = (&settings.raft, &settings.requests, &settings.machine);
    let numbers: [(&'static str, u64, u64, u64); 17] = [
        ("raft.message_bytes_max", raft.message_bytes_max, 1024, 64 << 20),
        ("raft.inflight_messages_max", raft.inflight_messages_max as u64, 1, 65_536),
        ("raft.inflight_bytes_max", raft.inflight_bytes_max, 1024, 4 << 30),
        ("raft.uncommitted_bytes_max", raft.uncommitted_bytes_max, 1024, 16 << 30),
        ("raft.apply_bytes_max", raft.apply_bytes_max, 1024, 1 << 30),
        ("requests.payload_bytes_max", requests.payload_bytes_max, 1, 64 << 20),
        ("requests.pending_max", requests.pending_max as u64, 1, 1 << 24),
        ("machine.fuel", machine.fuel, 1, Limits::MAX.fuel),
        ("machine.memory_bytes", machine.memory_bytes, 65_536, Limits::MAX.memory_bytes),
        ("machine.sql_steps", machine.sql_steps, 1, Limits::MAX.sql_steps),
        ("machine.rows", machine.rows, 1, Limits::MAX.rows),
        ("machine.result_bytes", machine.result_bytes, 1, Limits::MAX.result_bytes),
        ("machine.reply_bytes", machine.reply_bytes, 1, Limits::MAX.reply_bytes),
        ("machine.value_bytes", machine.value_bytes, Limits::MIN.value_bytes, Limits::MAX.value_bytes),
        ("machine.database_bytes", machine.database_bytes, 1, Limits::MAX.database_bytes),
        ("machine.module_bytes_max", machine.module_bytes_max, 1, MODULE_BYTES_MAX),
        ("machine.query_threads", machine.query_threads as u64, 1, 256),
    ];
    for (key, value, least, most) in numbers {
        if value < least || value > most {
            findings.push(&[key], format!("must be {least} to {most}, and is {value}"));
        }
    }
    if requests.payload_bytes_max.saturating_add(ENTRY_OVERHEAD) > raft.uncommitted_bytes_max {
        findings.push(
            &["raft.uncommitted_bytes_max", "requests.payload_bytes_max"],
            format!("must have room for a request of requests.payload_bytes_max and {ENTRY_OVERHEAD} bytes"),
        );
    }
    if raft.inflight_bytes_max < raft.message_bytes_max {
        findings.push(
            &["raft.inflight_bytes_max", "raft.message_bytes_max"],
            "must hold a message of raft.message_bytes_max".into(),
        );
    }
}

fn log_level(text: &str, findings: &mut Findings) {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let sound = |part: &str| match part.split_once('=') {
        Some((target, level)) => !target.trim().is_empty() && LEVELS.contains(&level.trim()),
        None => LEVELS.contains(&part.trim()),
    };
    if !text.split(',').all(sound) {
        findings.push(
            &["telemetry.log_level"],
            format!("must be one of {}, or target=level with commas between, and is {text:?}", LEVELS.join(", ")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::HostAddress;

    fn host(id: u64, client: &str, peer: &str) -> HostAddress {
        HostAddress { id, client: client.into(), peer: peer.into() }
    }

    /// The keys found at fault after a change to the defaults.
    fn keys(change: impl FnOnce(&mut Settings)) -> Vec<&'static str> {
        let mut settings = Settings::default();
        change(&mut settings);
        check(&settings).iter().map(|finding| finding.keys[0]).collect()
    }

    #[test]
    fn the_defaults_break_no_rule() {
        assert_eq!(keys(|_| {}), [""; 0]);
    }

    #[test]
    fn the_host_must_be_one_of_the_hosts() {
        assert_eq!(keys(|s| s.host_id = 2), ["host_id"]);
        assert_eq!(keys(|s| s.host_id = 0), ["host_id"]);
        assert_eq!(keys(|s| s.hosts.clear()), ["host_id", "hosts"]);
    }

    #[test]
    fn hosts_must_differ() {
        assert_eq!(keys(|s| s.hosts.push(host(1, "a:1", "a:2"))), ["hosts"]);
        assert_eq!(keys(|s| s.hosts.push(host(2, "127.0.0.1:7401", "a:2"))), ["hosts"]);
        assert_eq!(keys(|s| s.hosts.push(host(2, "a:1", "a:2"))), [""; 0]);
    }

    #[test]
    fn a_host_must_be_reachable_where_it_says() {
        for address in
            ["", "a", "a:", "a:0", "a:99999", ":7", "a b:7", "0.0.0.0:7", "[::]:7", "[::1:7", "::1:7", "http://a:7"]
        {
            assert_eq!(keys(|s| s.hosts.push(host(2, address, "a:2"))), ["hosts"], "{address:?}");
        }
        for address in ["a:1", "10.0.0.1:7400", "[::1]:7400", "chat-1.example.org:80"] {
            assert_eq!(keys(|s| s.hosts.push(host(2, address, "b:2"))), [""; 0], "{address:?}");
        }
    }

    #[test]
    fn listeners_must_not_collide() {
        assert_eq!(keys(|s| s.peer_listen = s.client_listen), ["peer_listen"]);
        assert_eq!(keys(|s| s.http_listen = SocketAddr::from(([0, 0, 0, 0], 7400))), ["http_listen"]);
        assert_eq!(keys(|s| s.http_listen = SocketAddr::from(([127, 0, 0, 2], 7400))), [""; 0]);
        assert_eq!(
            keys(|s| {
                s.http_listen.set_port(0);
                s.peer_listen.set_port(0);
            }),
            [""; 0]
        );
    }

    #[test]
    fn times_are_whole_ticks_in_the_right_order() {
        let ms = Duration::from_millis;
        assert_eq!(keys(|s| s.raft.heartbeat = ms(55)), ["raft.heartbeat"]);
        assert_eq!(keys(|s| s.raft.tick = ms(0)), ["raft.tick"]);
        assert_eq!(keys(|s| s.raft.heartbeat = ms(150)), ["raft.election_min"]);
        assert_eq!(keys(|s| s.raft.election_max = ms(310)), ["raft.election_max"]);
        assert_eq!(keys(|s| s.raft.election_min = ms(155)), ["raft.election_min", "raft.election_max"]);
        assert_eq!(keys(|s| s.requests.timeout = ms(60_001)), ["requests.timeout"]);
        let settings = Settings::default();
        assert_eq!((settings.raft.heartbeat_ticks(), settings.raft.election_ticks()), (5, 15));
    }

    #[test]
    fn replicas_are_compared_now_and_then_or_never() {
        assert_eq!(keys(|s| s.machine.digest_interval = Duration::ZERO), [""; 0]);
        assert_eq!(keys(|s| s.machine.digest_interval = Duration::from_millis(99)), ["machine.digest_interval"]);
        assert_eq!(keys(|s| s.machine.digest_interval = Duration::from_millis(100)), [""; 0]);
    }

    #[test]
    fn a_read_s_time_is_bounded_or_not_but_never_too_short_for_any() {
        assert_eq!(keys(|s| s.machine.query_time_max = Duration::ZERO), [""; 0]);
        assert_eq!(keys(|s| s.machine.query_time_max = Duration::from_millis(9)), ["machine.query_time_max"]);
        assert_eq!(keys(|s| s.machine.query_time_max = Duration::from_millis(10)), [""; 0]);
        assert_eq!(keys(|s| s.machine.query_time_max = Duration::MAX), [""; 0]);
    }

    #[test]
    fn a_lease_needs_voters_that_wait_for_its_end() {
        let lease = |change: fn(&mut Settings)| {
            keys(|s| {
                s.raft.read = ReadKind::Lease;
                change(s);
            })
        };
        assert_eq!(lease(|_| {}), [""; 0]);
        assert_eq!(lease(|s| s.raft.check_quorum = false), ["raft.read"]);
        assert_eq!(keys(|s| s.raft.check_quorum = false), [""; 0], "without leases it is free");
        let short = |s: &mut Settings| {
            (s.raft.heartbeat, s.raft.election_min) = (s.raft.tick, s.raft.tick * 5);
            s.raft.election_max = s.raft.tick * 10;
        };
        assert_eq!((keys(short), lease(short)), (vec![], vec!["raft.read"]));
    }

    #[test]
    fn a_lease_ends_before_the_patience_of_the_fastest_clock() {
        let mut settings = Settings::default();
        assert_eq!(settings.raft.lease(), None);
        settings.raft.read = ReadKind::Lease;
        assert_eq!(settings.raft.lease(), Some(Duration::from_millis(108)), "nine tenths of 15 - 3 ticks of 10 ms");
        settings.raft.tick = Duration::from_millis(100);
        assert_eq!(settings.raft.lease(), Some(Duration::ZERO), "no lease is better than a wrong one");
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(keys(|s| s.machine.fuel = 0), ["machine.fuel"]);
        assert_eq!(keys(|s| s.machine.query_threads = 0), ["machine.query_threads"]);
        assert_eq!(keys(|s| s.raft.uncommitted_bytes_max = 1 << 20), ["raft.uncommitted_bytes_max"]);
        assert_eq!(keys(|s| s.raft.inflight_bytes_max = 1 << 19), ["raft.inflight_bytes_max"]);
    }

    #[test]
    fn levels_are_known_ones() {
        for level in ["info", "off", "warn,telegraft=debug", "h2=error, info"] {
            assert_eq!(keys(|s| s.telemetry.log_level = level.into()), [""; 0], "{level}");
        }
        for level in ["", "inof", "info,", "=debug", "a=loud"] {
            assert_eq!(keys(|s| s.telemetry.log_level = level.into()), ["telemetry.log_level"], "{level}");
        }
    }

    #[test]
    fn names_of_clusters_are_plain() {
        for name in ["", "two words", "ä", &"x".repeat(64)] {
            assert_eq!(keys(|s| s.cluster = name.into()), ["cluster"], "{name:?}");
        }
    }
}
