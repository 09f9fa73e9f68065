//! A replica that is not like the others: it is found, stands still and says so, and a cluster at rest compares no more.

use super::*;

async fn put(host: &HostClient, key: &str) -> Result<u64> {
    let request = PutRequest { key: key.to_owned(), value: b"value".to_vec().into() };
    Ok(write_kv(host, "kv.v1.Kv/Put", request.encode_to_vec()).await?)
}

async fn write_kv(host: &HostClient, method: &str, payload: Vec<u8>) -> Result<u64, Status> {
    let begun = Instant::now();
    loop {
        let call = WriteCall { method: method.to_owned(), payload: payload.clone().into(), ..Default::default() };
        match host.request(call, Duration::from_secs(5)).await {
            Err(status) if may_try_again(&status) && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(telegraft_tests::polling::INTERVAL).await;
            }
            answer => return answer.map(|reply| reply.index),
        }
    }
}

/// A read of a key that must be refused since the host has halted.
async fn refused_read(host: &HostClient, consistency: Consistency) -> Result<()> {
    let payload = GetRequest { key: "a".to_owned() }.encode_to_vec().into();
    let call = ReadCall {
        method: "kv.v1.Kv/Get".to_owned(),
        payload,
        consistency: consistency.into(),
        min_index: 1,
        ..Default::default()
    };
    let begun = Instant::now();
    let Err(status) = host.query(call, Duration::from_secs(5)).await else { bail!("{consistency:?} was answered") };
    let (why, metadata) = reason(&status).with_context(|| format!("no ErrorInfo in {status:?}"))?;
    ensure!((status.code(), why.as_str()) == (Code::Unavailable, "HALTED"), "{status:?}");
    ensure!(metadata.get("applied").is_some_and(|applied| applied == "no"), "{metadata:?}");
    ensure!(status.message().contains("another host"), "what to do is not said: {status:?}");
    ensure!(begun.elapsed() < Duration::from_secs(2), "refused only after {:?}", begun.elapsed());
    Ok(())
}

/// Has host `id` lead.
async fn have_lead(cluster: &mut Cluster, id: u64) -> Result<()> {
    until("the transfer", PATIENCE, async || {
        let wish = TransferLeadership { machine: String::new(), to: id };
        ClusterClient::new(cluster.client(id)?.channel()).transfer_leader(wish).await?;
        ensure!(cluster.wait_for_leader().await?.id == id, "it moved on");
        Ok(())
    })
    .await
}

async fn halted(cluster: &Cluster, id: u64) -> Result<MachineStatus> {
    until("the machine to halt", PATIENCE, async || {
        let machine = cluster.machine(id).await?;
        ensure!(!machine.halted.is_empty(), "it goes on: {machine:?}");
        Ok(machine)
    })
    .await
}

/// The value of a metric of the machine.
fn metric(page: &str, name: &str) -> Option<u64> {
    let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")))?;
    line.split_whitespace().last()?.parse().ok()
}

async fn health(host: &HostClient) -> Result<ServingStatus> {
    let mut client = HealthClient::new(host.channel());
    Ok(client.check(HealthCheckRequest { service: String::new() }).await?.into_inner().status())
}

/// Stops a host and changes a row of its machine's database behind its back.
async fn tamper(cluster: &mut Cluster, id: u64) -> Result<()> {
    cluster.wait_until_applied().await?;
    ensure!(cluster.host_mut(id)?.terminate(PATIENCE)?.success());
    let file = cluster.host(id)?.data_dir().join("machine").join("machine.db");
    let database = rusqlite::Connection::open(&file)?;
    let changed = database.execute("UPDATE pairs SET version = version + 5 WHERE key = CAST('a' AS BLOB)", [])?;
    ensure!(changed == 1, "{changed} rows were changed");
    drop(database);
    cluster.start_host(id).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_differs_is_found_and_stops_serving_and_the_others_go_on() -> Result<()> {
    let plan = Plan { tables: INTERVAL.to_owned(), ..Default::default() };
    let mut cluster = Cluster::start_with(plan).await?;
    cluster.install(KV).await?;
    put(cluster.client(1)?, "a").await?;
    // As long as they agree they say so, each about itself.
    for id in cluster.ids() {
        until("a comparison", PATIENCE, async || {
            let machine = cluster.machine(id).await?;
            ensure!(machine.verified_index > 0 && machine.halted.is_empty(), "{machine:?}");
            Ok(())
        })
        .await?;
    }
    let victim = cluster.wait_for_leader().await?.id % 3 + 1;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != victim).collect();
    tamper(&mut cluster, victim).await?;
    // It leads, so that its wrong effects meet those of two followers.
    cluster.wait_for_leader().await?;
    have_lead(&mut cluster, victim).await?;
    let begun = Instant::now();
    put(cluster.client(others[0])?, "a").await?;
    let machine = halted(&cluster, victim).await?;
    println!("found after {:?}: {}", begun.elapsed(), machine.halted);

    // It does not stay leader, however it comes to lead.
    let leader = until("another leader", PATIENCE, async || {
        let leader = cluster.wait_for_leader().await?;
        ensure!(leader.id != victim, "it leads still");
        Ok(leader.id)
    })
    .await?;
    let wish = TransferLeadership { machine: String::new(), to: victim };
    let _ = ClusterClient::new(cluster.client(leader)?.channel()).transfer_leader(wish).await;
    until("another leader again", PATIENCE, async || {
        ensure!(cluster.wait_for_leader().await?.id != victim, "it leads still");
        Ok(())
    })
    .await?;

    // It serves no read, carries writes to who can answer them, and says what is the matter wherever one looks.
    let host = cluster.client(victim)?.clone();
    for consistency in [Consistency::Local, Consistency::AtLeast, Consistency::Linearizable] {
        refused_read(&host, consistency).await?;
    }
    put(&host, "b").await?;
    let addresses = cluster.host(victim)?.addresses();
    let ready = http::get(addresses.http, "/readyz").await?;
    ensure!(ready.status == 503 && ready.body.contains("halted"), "{ready:?}");
    let metrics = http::get(addresses.http, "/metrics").await?.body;
    ensure!(metric(&metrics, "telegraft_machine_halted") == Some(1), "{metrics}");
    until("the health service to notice", PATIENCE, async || {
        ensure!(health(&host).await? == ServingStatus::NotServing, "it says that it serves");
        Ok(())
    })
    .await?;
    let status = at(cluster.client(others[0])?, &["--json", "status"]).await?;
    let seen: Value = serde_json::from_str(&status.stdout)?;
    ensure!(status.code == 1 && seen["ok"] == false && seen["troubles"].to_string().contains("halted"), "{seen}");
    let table = at(cluster.client(others[0])?, &["status"]).await?;
    ensure!(table.stdout.contains("halted"), "{}", table.stdout);
    let upload = cluster.client(victim)?.modules().list(ListModules::default()).await;
    ensure!(upload.is_ok(), "what it knows of modules may be asked: {upload:?}");

    // The others go on, agree with each other, and have an alarm.
    let index = put(cluster.client(others[1])?, "c").await?;
    for id in &others {
        until("another comparison", PATIENCE, async || {
            let machine = cluster.machine(*id).await?;
            ensure!(machine.verified_index > index && machine.halted.is_empty(), "{machine:?}");
            ensure!(!machine.alarms.is_empty(), "no alarm");
            Ok(())
        })
        .await?;
        let page = http::get(cluster.host(*id)?.addresses().http, "/metrics").await?.body;
        ensure!(metric(&page, "telegraft_machine_halted") == Some(0), "{page}");
        ensure!(metric(&page, "telegraft_alarms").is_some_and(|alarms| alarms > 0), "{page}");
        ensure!(metric(&page, "telegraft_effect_digest_verified_index").is_some_and(|at| at > index), "{page}");
        ensure!(health(cluster.client(*id)?).await? == ServingStatus::Serving);
    }
    let told = history_of(cluster.client(others[0])?).await?;
    ensure!(told.iter().any(|entry| entry.what == "replicas-differ"), "{told:?}");

    // Restarted it is as before; and it votes: with one of the others gone there is a majority all the same.
    cluster.kill(victim)?;
    cluster.start_host(victim).await?;
    halted(&cluster, victim).await?;
    cluster.kill(others[0])?;
    put(cluster.client(others[1])?, "d").await?;
    ensure!(cluster.host_mut(victim)?.is_live());
    cluster.start_host(others[0]).await?;

    // What it says is to be done brings it back: the log has everything.
    ensure!(machine.halted.contains("machine.db"), "no remedy: {}", machine.halted);
    cluster.kill(victim)?;
    let folder = cluster.host(victim)?.data_dir().join("machine");
    for entry in fs::read_dir(&folder)? {
        let file = entry?.path();
        if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("machine.db")) {
            fs::remove_file(file)?;
        }
    }
    cluster.start_host(victim).await?;
    cluster.wait_for_leader().await?;
    let index = put(cluster.client(victim)?, "e").await?;
    until("the rebuilt machine to be like the others", PATIENCE, async || {
        let machine = cluster.machine(victim).await?;
        ensure!(machine.verified_index > index && machine.halted.is_empty(), "{machine:?}");
        Ok(())
    })
    .await?;
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_at_rest_compares_once_and_then_stays_silent() -> Result<()> {
    let plan = Plan { tables: INTERVAL.to_owned(), ..Default::default() };
    let mut cluster = Cluster::start_with(plan).await?;
    cluster.install(&PROBE.build()?).await?;
    write(cluster.client(1)?, RUN, "INSERT INTO t(v) VALUES ('x')").await?;
    // The last comparison: nothing but its own entries came after it.
    let quiet = async |cluster: &mut Cluster| {
        until("silence", PATIENCE, async || {
            let before = cluster.wait_until_applied().await?;
            tokio::time::sleep(Duration::from_millis(700)).await;
            let after = cluster.wait_until_applied().await?;
            ensure!(before == after, "{} entries more", after - before);
            Ok(after)
        })
        .await
    };
    let rest = quiet(&mut cluster).await?;
    let verified: Vec<u64> = cluster.machines().await?.values().map(|machine| machine.verified_index).collect();
    ensure!(verified.iter().all(|index| *index > 0 && *index <= rest), "{verified:?}");
    // One write, one comparison: its entry, the checkpoint and an answer of each host.
    let index = write(cluster.client(2)?, RUN, "INSERT INTO t(v) VALUES ('y')").await?.index;
    let rest = until("the comparison", PATIENCE, async || {
        for machine in cluster.machines().await?.values() {
            ensure!(machine.verified_index > index, "{machine:?}");
        }
        quiet(&mut cluster).await
    })
    .await?;
    ensure!(rest - index <= 8, "{} entries for one comparison", rest - index);
    let digests: Vec<String> = cluster.machines().await?.into_values().map(|machine| machine.effect_digest).collect();
    ensure!(digests[0].len() == 64 && digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    cluster.passed()
}
