//! The clients of a load: set up with users and chats, then each in a closed loop on a task of its own.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::{TryStreamExt, stream};
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use telegraft_proto::chat::{
    CreateChatRequest, CreateUserRequest, GetMessagesRequest, JoinChatRequest, SendMessageRequest,
    chat_client::ChatClient,
};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status, metadata::AsciiMetadataValue, transport::Channel};

use crate::cli::{Failure, endpoint, status_name};

/// Set-up calls under way at once.
const SET_UP_AT_ONCE: usize = 64;
/// A set-up write is retried so often: leaders may change while a cluster settles.
const SET_UP_ATTEMPTS: u32 = 20;
/// Pause after a failure: a closed loop that fails at once would otherwise spin.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);
/// How long one attempt may take where clients retry: a host that died without a word must not hold a client up.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);
/// Messages of one GetMessages.
const READ_LIMIT: u32 = 20;
/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// What load to put.
#[derive(Clone, Debug)]
pub struct Plan {
    pub hosts: Vec<String>,
    pub clients: usize,
    pub clients_per_connection: usize,
    /// At most as many as clients.
    pub chats: usize,
    pub payload_bytes: usize,
    pub reads_percent: u8,
    /// Whether writes carry client and request id.
    pub sessions: bool,
    /// Whether a failed write is sent again, to the next host, until it succeeds.
    pub retry: bool,
    pub warmup: Duration,
    pub measured: Duration,
    pub timeout: Duration,
}

impl Plan {
    /// Connections to each host, so that none carries more than its share.
    pub fn connections_per_host(&self) -> usize {
        self.clients.div_ceil(self.hosts.len().max(1)).div_ceil(self.clients_per_connection.max(1))
    }

    /// Which host, and which of its connections, a client uses: clients go round the hosts, so the hosts' shares differ by
    /// one at most.
    fn place(&self, client: usize) -> (usize, usize) {
        let hosts = self.hosts.len().max(1);
        (client % hosts, client / hosts % self.connections_per_host().max(1))
    }
}

/// What the clients have seen in the measured time.
pub struct Tally {
    /// Microseconds from the first attempt to the answer.
    pub writes: Histogram<u64>,
    pub reads: Histogram<u64>,
    /// Failed attempts by gRPC code.
    pub errors: BTreeMap<&'static str, u64>,
    /// Longest time without an answered write.
    pub gap_us: u64,
}

impl Tally {
    fn new() -> Self {
        let histogram = || {
            let mut histogram = Histogram::new_with_bounds(1, 1 << 20, DIGITS)
                .unwrap_or_else(|_| unreachable!("bounds and digits are constants that the histogram takes"));
            histogram.auto(true);
            histogram
        };
        Self { writes: histogram(), reads: histogram(), errors: BTreeMap::new(), gap_us: 0 }
    }

    fn add(&mut self, other: &Self) {
        // Both resize themselves, so adding cannot fail.
        let _ = self.writes.add(&other.writes);
        let _ = self.reads.add(&other.reads);
        for (code, count) in &other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self.gap_us = self.gap_us.max(other.gap_us);
    }
}

/// Longest time between two answered writes of any client, within the measured time.
struct Gap {
    origin: Instant,
    last_us: AtomicU64,
    longest_us: AtomicU64,
}

impl Gap {
    fn new(origin: Instant) -> Self {
        Self { origin, last_us: AtomicU64::new(0), longest_us: AtomicU64::new(0) }
    }

    /// A write was answered at this moment.
    fn answered(&self, at: Instant) {
        let now = at.saturating_duration_since(self.origin).as_micros() as u64;
        let last = self.last_us.fetch_max(now, Relaxed);
        self.longest_us.fetch_max(now.saturating_sub(last), Relaxed);
    }

    /// The end counts as an answer: a cluster that never came back has a long gap.
    fn longest_us(&self, end: Instant) -> u64 {
        self.answered(end);
        self.longest_us.load(Relaxed)
    }
}

/// One client.
struct Client {
    name: String,
    /// One way to each host, the client's own first.
    ways: Vec<ChatClient<Channel>>,
    /// The way in use: after a failure that is retried, the next.
    way: usize,
    user_id: String,
    chat_id: String,
    request_id: u64,
    random: SmallRng,
}

/// Clients that are ready.
pub struct Ready {
    plan: Plan,
    clients: Vec<Client>,
}

/// Makes connections, users and chats.
///
/// # Errors
///
/// If a host cannot be reached or refuses.
pub async fn set_up(plan: &Plan) -> Result<Ready, Failure> {
    // Names must be new in a cluster that has seen earlier runs.
    let run: u64 = rand::rng().random();
    let mut channels = Vec::with_capacity(plan.hosts.len());
    for host in &plan.hosts {
        let endpoint = endpoint(host).map_err(Failure::usage)?.connect_timeout(plan.timeout.min(ATTEMPT_TIMEOUT));
        // Connected when first used, and again whenever they break.
        channels.push((0..plan.connections_per_host()).map(|_| endpoint.connect_lazy()).collect::<Vec<_>>());
    }
    let mut clients: Vec<Client> = (0..plan.clients)
        .map(|number| {
            let (host, connection) = plan.place(number);
            let ways = (0..channels.len()).map(|next| &channels[(host + next) % channels.len()]);
            let ways = ways.filter_map(|of_host| of_host.get(connection)).cloned().map(ChatClient::new).collect();
            let name = format!("bench-{run:016x}-{number}");
            let random = SmallRng::seed_from_u64(run ^ number as u64);
            Client { name, ways, way: 0, user_id: String::new(), chat_id: String::new(), request_id: 0, random }
        })
        .collect();

    stream::iter(clients.iter_mut().map(Ok))
        .try_for_each_concurrent(SET_UP_AT_ONCE, |client| async move {
            let request = CreateUserRequest { name: client.name.clone() };
            let reply = settled(client, plan, |mut way, metadata| {
                let request = metadata.of(request.clone());
                async move { way.create_user(request).await }
            });
            client.user_id =
                reply.await.map_err(|status| Failure::of_status("a user cannot be made", &status))?.user_id;
            Ok::<_, Failure>(())
        })
        .await?;
    let (owners, members) = clients.split_at_mut(plan.chats.clamp(1, plan.clients));
    stream::iter(owners.iter_mut().map(Ok))
        .try_for_each_concurrent(SET_UP_AT_ONCE, |client| async move {
            let request = CreateChatRequest { creator_id: client.user_id.clone(), title: client.name.clone() };
            let reply = settled(client, plan, |mut way, metadata| {
                let request = metadata.of(request.clone());
                async move { way.create_chat(request).await }
            });
            client.chat_id =
                reply.await.map_err(|status| Failure::of_status("a chat cannot be made", &status))?.chat_id;
            Ok::<_, Failure>(())
        })
        .await?;
    let chats: Vec<&str> = owners.iter().map(|owner| owner.chat_id.as_str()).collect();
    stream::iter(members.iter_mut().zip(chats.iter().cycle()).map(Ok))
        .try_for_each_concurrent(SET_UP_AT_ONCE, |(client, chat_id)| async move {
            client.chat_id = (*chat_id).to_owned();
            let request = JoinChatRequest { user_id: client.user_id.clone(), chat_id: client.chat_id.clone() };
            let reply = settled(client, plan, |mut way, metadata| {
                let request = metadata.of(request.clone());
                async move { way.join_chat(request).await }
            });
            reply.await.map(drop).map_err(|status| Failure::of_status("a chat cannot be joined", &status))
        })
        .await?;
    Ok(Ready { plan: plan.clone(), clients })
}

/// Metadata of one write.
struct Metadata {
    session: Option<(AsciiMetadataValue, u64)>,
    timeout: Duration,
}

impl Metadata {
    fn of<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        if let Some((client_id, request_id)) = &self.session {
            request.metadata_mut().insert("telegraft-client-id", client_id.clone());
            request.metadata_mut().insert("telegraft-request-id", AsciiMetadataValue::from(*request_id));
        }
        request
    }
}

impl Client {
    fn metadata(&mut self, session: bool, timeout: Duration) -> Metadata {
        self.request_id += 1;
        let session = session.then(|| AsciiMetadataValue::try_from(self.name.as_str()).ok()).flatten();
        Metadata { session: session.map(|name| (name, self.request_id)), timeout }
    }

    fn way(&self) -> Result<ChatClient<Channel>, Status> {
        let position = self.way % self.ways.len().max(1);
        self.ways.get(position).cloned().ok_or_else(|| Status::unavailable("no host was named"))
    }
}

/// A write of the set-up: with a session, tried again while the cluster is in motion.
async fn settled<T, F>(
    client: &mut Client,
    plan: &Plan,
    call: impl Fn(ChatClient<Channel>, &Metadata) -> F,
) -> Result<T, Status>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let metadata = client.metadata(true, plan.timeout);
    let mut attempts = 1;
    loop {
        match call(client.way()?, &metadata).await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) if attempts < SET_UP_ATTEMPTS && may_pass(&status) => {
                attempts += 1;
                tokio::time::sleep(PAUSE_AFTER_FAILURE * 10).await;
            }
            Err(status) => return Err(status),
        }
    }
}

/// Whether trying again can help. A connection that ends under a call counts too, whatever code that is given: a status
/// that a host sent has no source.
fn may_pass(status: &Status) -> bool {
    let broken = std::error::Error::source(status).is_some();
    broken
        || matches!(
            status.code(),
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::ResourceExhausted
                | Code::Unknown
                | Code::Aborted
        )
}

/// A load under way.
pub struct Run {
    tasks: JoinSet<Tally>,
    gap: Arc<Gap>,
    answered: Arc<AtomicU64>,
    end: Instant,
}

impl Ready {
    /// Starts every client; the warm-up begins now.
    pub fn start(self) -> Run {
        let Self { plan, clients } = self;
        let begin = Instant::now() + plan.warmup;
        let end = begin + plan.measured;
        let gap = Arc::new(Gap::new(begin));
        let answered = Arc::new(AtomicU64::new(0));
        let plan = Arc::new(plan);
        let content: Arc<str> = "telegraft ".chars().cycle().take(plan.payload_bytes).collect::<String>().into();
        let mut tasks = JoinSet::new();
        for client in clients {
            let loops = ClosedLoop {
                client,
                plan: plan.clone(),
                content: content.clone(),
                gap: gap.clone(),
                answered: answered.clone(),
                tally: Tally::new(),
                begin,
                end,
                newest_us: 0,
            };
            tasks.spawn(loops.run());
        }
        Run { tasks, gap, answered, end }
    }
}

impl Run {
    /// Requests answered since the start, the warm-up's too.
    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Waits for the clients' ends and adds up what they saw.
    pub async fn finish(&mut self) -> Tally {
        let mut sum = Tally::new();
        while let Some(tally) = self.tasks.join_next().await {
            match tally {
                Ok(tally) => sum.add(&tally),
                Err(_) => *sum.errors.entry("CLIENT_DIED").or_default() += 1,
            }
        }
        sum.gap_us = self.gap.longest_us(self.end);
        sum
    }
}

struct ClosedLoop {
    client: Client,
    plan: Arc<Plan>,
    content: Arc<str>,
    gap: Arc<Gap>,
    answered: Arc<AtomicU64>,
    tally: Tally,
    begin: Instant,
    end: Instant,
    /// Time of the newest message of this client, so that reads stay short.
    newest_us: u64,
}

impl ClosedLoop {
    async fn run(mut self) -> Tally {
        while Instant::now() < self.end {
            if self.client.random.random_range(0..100) < u32::from(self.plan.reads_percent) {
                self.read().await;
            } else {
                self.write().await;
            }
        }
        self.tally
    }

    /// Whether what ends at this moment counts.
    fn counts(&self, at: Instant) -> bool {
        self.begin <= at && at < self.end
    }

    async fn failed(&mut self, status: &Status) {
        if self.counts(Instant::now()) {
            *self.tally.errors.entry(status_name(status)).or_default() += 1;
        }
        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
    }

    async fn write(&mut self) {
        let timeout = if self.plan.retry { self.plan.timeout.min(ATTEMPT_TIMEOUT) } else { self.plan.timeout };
        let metadata = self.client.metadata(self.plan.sessions, timeout);
        let begin = Instant::now();
        loop {
            let request = metadata.of(SendMessageRequest {
                user_id: self.client.user_id.clone(),
                chat_id: self.client.chat_id.clone(),
                content: self.content.to_string(),
            });
            let reply = match self.client.way() {
                Ok(mut way) => way.send_message(request).await,
                Err(status) => Err(status),
            };
            match reply {
                Ok(reply) => {
                    let now = Instant::now();
                    self.newest_us = reply.into_inner().time_us;
                    self.answered.fetch_add(1, Relaxed);
                    if self.counts(now) {
                        self.tally.writes.saturating_record((now - begin).as_micros() as u64);
                        self.gap.answered(now);
                    }
                    return;
                }
                Err(status) => {
                    self.failed(&status).await;
                    if !self.plan.retry || !may_pass(&status) || Instant::now() >= self.end {
                        return;
                    }
                    self.client.way += 1;
                }
            }
        }
    }

    async fn read(&mut self) {
        let begin = Instant::now();
        let mut request = Request::new(GetMessagesRequest {
            user_id: self.client.user_id.clone(),
            after_us: self.newest_us.saturating_sub(1),
            limit: READ_LIMIT,
            page_token: String::new(),
        });
        request.set_timeout(self.plan.timeout);
        let reply = match self.client.way() {
            Ok(mut way) => way.get_messages(request).await,
            Err(status) => Err(status),
        };
        match reply {
            Ok(_) => {
                let now = Instant::now();
                self.answered.fetch_add(1, Relaxed);
                if self.counts(now) {
                    self.tally.reads.saturating_record((now - begin).as_micros() as u64);
                }
            }
            Err(status) => self.failed(&status).await,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn plan(hosts: usize, clients: usize) -> Plan {
        Plan {
            hosts: (0..hosts).map(|host| format!("h{host}:1")).collect(),
            clients,
            clients_per_connection: 16,
            chats: clients,
            payload_bytes: 64,
            reads_percent: 0,
            sessions: false,
            retry: false,
            warmup: Duration::ZERO,
            measured: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
        }
    }

    pub fn tally(writes_us: &[u64]) -> Tally {
        let mut tally = Tally::new();
        for time in writes_us {
            tally.writes.saturating_record(*time);
        }
        tally
    }

    #[test]
    fn clients_are_spread_over_hosts_and_connections() {
        for (hosts, clients) in [(3, 64), (1, 1), (3, 256), (5, 16), (3, 1)] {
            let plan = plan(hosts, clients);
            let mut shares: BTreeMap<(usize, usize), usize> = BTreeMap::new();
            for client in 0..clients {
                let (host, connection) = plan.place(client);
                assert!(host < hosts && connection < plan.connections_per_host());
                *shares.entry((host, connection)).or_default() += 1;
            }
            assert!(shares.values().all(|share| *share <= 16), "{hosts} hosts, {clients} clients: {shares:?}");
        }
    }

    #[test]
    fn the_gap_is_the_longest_silence() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let gap = Gap::new(origin);
        for ms in [10, 30, 20, 530, 540] {
            gap.answered(at(ms));
        }
        assert_eq!(gap.longest_us(at(600)), 500_000);
        assert_eq!(gap.longest_us(at(2_000)), 1_400_000, "silence until the end counts");
    }

    #[test]
    fn tallies_add_up() {
        let mut sum = tally(&[100, 200]);
        let mut other = tally(&[300]);
        other.errors.insert("UNAVAILABLE", 2);
        sum.add(&other);
        sum.add(&other);
        assert_eq!((sum.writes.len(), sum.errors["UNAVAILABLE"]), (4, 4));
    }
}
