//! Reads that nobody waits for any more: whichever way their clients gave them up, the host's threads are soon free for others.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use telegraft_proto::v1::{CallReply, Consistency, ReadCall, WriteCall};
use telegraft_tests::{
    client::{HostClient, reason},
    cluster::{Cluster, Plan},
    http,
    polling::{PATIENCE, until},
    probe::{PROBE, QUERY, RUN},
};
use tonic::{Code, Status};

use crate::number;

/// Runs until its budget is used up.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

/// With this largest budget there is, that is most of a minute.
const BUDGET: &str = "[machine]\nsql_steps = 1000000000\nquery_threads = 2\n";

/// Longer than any read here takes that is not endless, and far shorter than one that is.
const SOON: Duration = Duration::from_secs(5);

async fn read(host: HostClient, sql: &str, consistency: Consistency, within: Duration) -> Result<CallReply, Status> {
    let payload = sql.to_owned().into_bytes().into();
    let call = ReadCall { method: QUERY.to_owned(), payload, consistency: consistency.into(), ..Default::default() };
    host.query(call, within).await
}

/// Waits until so many reads are being worked at; none has long to wait for its thread.
async fn until_running(cluster: &Cluster, count: u64, within: Duration) -> Result<()> {
    until("the threads", within, async || {
        let running = metric(cluster, "reads_running").await?;
        ensure!(running == count, "{running} reads run, not {count}");
        Ok(())
    })
    .await
}

/// A read that takes no time of its own.
async fn short(host: &HostClient, within: Duration) -> Result<CallReply, Status> {
    read(host.clone(), "SELECT 7", Consistency::Local, within).await
}

/// Every thread is soon free, and answers.
async fn all_are_free(cluster: &Cluster, when: &str) -> Result<()> {
    until_running(cluster, 0, SOON).await.with_context(|| format!("after {when}"))?;
    let host = cluster.client(1)?;
    short(host, SOON).await.map(drop).with_context(|| format!("after {when}"))
}

/// One of the host's numbers.
async fn metric(cluster: &Cluster, name: &str) -> Result<u64> {
    let page = http::get(cluster.host(1)?.addresses().http, "/metrics").await?;
    let line = page.body.lines().find_map(|line| line.strip_prefix(&format!("telegraft_{name}{{machine=\"main\"}} ")));
    Ok(line.with_context(|| format!("{name} is not in\n{}", page.body))?.trim().parse()?)
}

async fn cluster(query_time_max: &str) -> Result<Cluster> {
    let tables = format!("{BUDGET}query_time_max = \"{query_time_max}\"\n");
    let mut cluster = Cluster::start_with(Plan { hosts: 1, tables, ..Default::default() }).await?;
    cluster.install(&PROBE.build()?).await?;
    Ok(cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_their_clients_gave_up_leave_their_threads_to_others() -> Result<()> {
    let cluster = cluster("0s").await?;
    let host = cluster.client(1)?.clone();
    let address = host.address();
    for (when, consistency, own_connections) in [
        ("cancelled calls", Consistency::Local, false),
        ("cancelled linearizable calls", Consistency::Linearizable, false),
        ("closed connections", Consistency::Local, true),
    ] {
        let given_up = [(); 2].map(|()| {
            let host = if own_connections { HostClient::new(address) } else { host.clone() };
            tokio::spawn(async move { read(host, ENDLESS, consistency, PATIENCE * 2).await })
        });
        until_running(&cluster, 2, PATIENCE).await?;
        if !own_connections && consistency == Consistency::Local {
            // More than may wait; none holds its place when its client has gone.
            for _ in 0..20 {
                let hurried: Vec<_> = (0..256)
                    .map(|_| {
                        let host = host.clone();
                        tokio::spawn(async move { short(&host, Duration::from_millis(20)).await.map(drop) })
                    })
                    .collect();
                for asked in hurried {
                    let Err(status) = asked.await? else { bail!("a thread was free") };
                    // Its own clock may be the first to say so.
                    let late = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
                    ensure!(late, "{status:?}");
                }
            }
        }
        let asked = short(&host, Duration::from_millis(200)).await;
        let Err(status) = asked else { bail!("a thread was free: {asked:?}") };
        ensure!(status.code() == Code::DeadlineExceeded, "{status:?}");
        ensure!(status.message().contains("machine.query_threads"), "{status:?}");
        for call in given_up {
            call.abort();
            ensure!(call.await.is_err_and(|error| error.is_cancelled()), "it has ended by itself");
        }
        all_are_free(&cluster, when).await?;
    }

    // A deadline is told, and what can be done.
    let late = || read(host.clone(), ENDLESS, Consistency::Local, Duration::from_secs(3));
    let (first, second, both) = tokio::join!(late(), late(), until_running(&cluster, 2, PATIENCE));
    both?;
    for asked in [first, second] {
        let Err(status) = asked else { bail!("it ended: {asked:?}") };
        ensure!(status.code() == Code::DeadlineExceeded, "{status:?}");
        ensure!(status.message().contains("requests.timeout_max, 1m"), "{status:?}");
    }
    all_are_free(&cluster, "deadlines").await?;
    let cancelled = metric(&cluster, "reads_cancelled_total").await?;
    ensure!(cancelled == 8, "{cancelled} reads were cut short");

    // A write goes on, whoever waits for it.
    let sql = "INSERT INTO t(v) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000000) \
               SELECT max(i) FROM n";
    let write = WriteCall { method: RUN.to_owned(), payload: sql.into(), ..Default::default() };
    let asked = host.request(write, Duration::from_millis(300)).await;
    ensure!(asked.as_ref().is_err_and(|status| status.code() == Code::DeadlineExceeded), "{asked:?}");
    until("the write", PATIENCE * 2, async || {
        let rows = number(&host, "SELECT count(*) FROM t WHERE v = '5000000'", 1).await?;
        ensure!(rows == 1, "{rows} rows");
        Ok(())
    })
    .await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_runs_no_longer_than_its_host_allows() -> Result<()> {
    let cluster = cluster("500ms").await?;
    let host = cluster.client(1)?.clone();
    let begun = Instant::now();
    let asked = || read(host.clone(), ENDLESS, Consistency::Local, PATIENCE);
    // The last two wait for the first two, and then run for their own time.
    let (first, second, third, fourth) = tokio::join!(asked(), asked(), asked(), asked());
    let took = begun.elapsed();
    for asked in [first, second, third, fourth] {
        let Err(status) = asked else { bail!("it ended: {asked:?}") };
        ensure!(status.code() == Code::DeadlineExceeded, "{status:?}");
        for part in ["has run for 500ms", "machine.query_time_max", "read less"] {
            ensure!(status.message().contains(part), "{status:?}");
        }
        let (reason, metadata) = reason(&status).context("no reason")?;
        ensure!(
            (reason.as_str(), metadata.get("applied").map(String::as_str)) == ("DEADLINE", Some("no")),
            "{status:?}"
        );
    }
    ensure!((Duration::from_secs(1)..SOON * 2).contains(&took), "after {took:?}");
    all_are_free(&cluster, "the host's own bound").await?;
    cluster.passed()
}
