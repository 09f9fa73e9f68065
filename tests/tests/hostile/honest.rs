//! Honest clients beside an attack: they read on every host and write through all of them, all the time, and count what
//! is answered. Owns the judgement that nothing they were promised is lost and nothing appears that they did not write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use telegraft_proto::v1::{Consistency, ReadCall, WriteCall};
use telegraft_tests::{
    client::{HostClient, may_try_again},
    polling::{PATIENCE, until},
};
use tokio::task::JoinHandle;
use tonic::Status;

const KEEP: &str = "hostile.v1.Hostile/Keep";
const KEPT: &str = "hostile.v1.Hostile/Kept";

/// Between two calls of one client, so that hosts have something else to do as well.
const PAUSE: Duration = Duration::from_millis(3);

/// What was promised to honest clients so far.
#[derive(Debug, Default)]
pub struct Honest {
    kept: u64,
    sessions: u64,
}

/// Clients at work. They stop when this is dropped.
#[derive(Debug)]
pub struct Served {
    over: Arc<AtomicBool>,
    reads: Vec<Arc<AtomicU64>>,
    writes: Arc<AtomicU64>,
    readers: Vec<JoinHandle<Result<(), Status>>>,
    writer: JoinHandle<Result<u64, Status>>,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Counts {
    /// On each host.
    pub reads: Vec<u64>,
    /// Through any.
    pub writes: u64,
}

impl Honest {
    /// Rows that must be there.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Sets clients to work.
    pub fn begin(&mut self, hosts: &[HostClient]) -> Served {
        self.sessions += 1;
        let over = Arc::new(AtomicBool::new(false));
        let reads: Vec<Arc<AtomicU64>> = hosts.iter().map(|_| Arc::default()).collect();
        let writes: Arc<AtomicU64> = Arc::default();
        let readers = hosts.iter().zip(&reads).map(|(host, count)| {
            let (host, count, over) = (host.clone(), Arc::clone(count), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Relaxed) {
                    read(&host).await?;
                    count.fetch_add(1, Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(())
            })
        });
        let readers = readers.collect();
        let writer = {
            let (hosts, count, over) = (hosts.to_vec(), Arc::clone(&writes), Arc::clone(&over));
            let session = format!("honest-{}", self.sessions);
            tokio::spawn(async move {
                let mut written = 0;
                while !over.load(Relaxed) {
                    written += 1;
                    write(&hosts, &session, written).await?;
                    count.fetch_add(1, Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(written)
            })
        };
        Served { over, reads, writes, readers, writer }
    }

    /// Lets the clients come to their end, and counts what they were promised.
    ///
    /// # Errors
    ///
    /// Where one of them was refused.
    pub async fn end(&mut self, mut served: Served) -> Result<()> {
        served.over.store(true, Relaxed);
        for reader in served.readers.drain(..) {
            reader.await??;
        }
        self.kept += (&mut served.writer).await??;
        Ok(())
    }

    /// One write, and a read on every host.
    ///
    /// # Errors
    ///
    /// Where one is not answered, or not rightly.
    pub async fn serve_once(&mut self, hosts: &[HostClient]) -> Result<()> {
        self.sessions += 1;
        write(hosts, &format!("honest-{}", self.sessions), 1).await?;
        self.kept += 1;
        self.check_kept(hosts).await
    }

    /// Every host has exactly the rows that were promised.
    ///
    /// # Errors
    ///
    /// Where it has not.
    pub async fn check_kept(&self, hosts: &[HostClient]) -> Result<()> {
        for host in hosts {
            until("the rows that were promised", PATIENCE, async || {
                let found = read(host).await?;
                ensure!(found == self.kept, "{found} rows in place of {}", self.kept);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

impl Served {
    /// What was answered so far.
    pub fn counts(&self) -> Counts {
        Counts {
            reads: self.reads.iter().map(|count| count.load(Relaxed)).collect(),
            writes: self.writes.load(Relaxed),
        }
    }

    /// Waits until every client was answered once more than `before`.
    ///
    /// # Errors
    ///
    /// Where one is not.
    pub async fn wait_for_more(&self, before: &Counts) -> Result<()> {
        until("answers to honest clients", PATIENCE, async || {
            let now = self.counts();
            let more = now.reads.iter().zip(&before.reads).all(|(now, then)| now > then) && now.writes > before.writes;
            ensure!(more, "{before:?} before, {now:?} now");
            Ok(())
        })
        .await
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}

/// The number of rows that one host has.
async fn read(host: &HostClient) -> Result<u64, Status> {
    let call = ReadCall { method: KEPT.to_owned(), consistency: Consistency::Local.into(), ..Default::default() };
    let reply = host.query(call, PATIENCE).await?;
    let number = String::from_utf8_lossy(&reply.payload).parse();
    number.map_err(|_| Status::internal(format!("no number: {:?}", reply.payload)))
}

/// One row, through whichever host takes it, once.
async fn write(hosts: &[HostClient], session: &str, number: u64) -> Result<(), Status> {
    let call = WriteCall {
        method: KEEP.to_owned(),
        payload: b"honest".to_vec().into(),
        client_id: session.to_owned(),
        request_id: number,
        ..Default::default()
    };
    let begun = std::time::Instant::now();
    let first = usize::try_from(number).unwrap_or_default();
    for host in hosts.iter().cycle().skip(first % hosts.len().max(1)) {
        match host.request(call.clone(), PATIENCE).await {
            Ok(_) => break,
            Err(status) if may_try_again(&status) && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(telegraft_tests::polling::INTERVAL).await;
            }
            Err(status) => return Err(status),
        }
    }
    Ok(())
}
