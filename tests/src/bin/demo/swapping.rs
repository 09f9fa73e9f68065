//! The demo's second half, on a small cluster of its own: a key-value store takes the place of the chat, and gives it back.

use anyhow::{Context, Result, ensure};
use telegraft_modules::{CHAT, KV};
use telegraft_proto::kv::{CompareAndSetRequest, GetReply, GetRequest, PutReply, PutRequest};
use telegraft_tests::{
    chat,
    client::Session,
    cluster::{Cluster, Plan},
    polling::PATIENCE,
};
use tonic::{Code, Status};

use crate::stage::Stage;

const PUT: &str = "kv.v1.Kv/Put";
const GET: &str = "kv.v1.Kv/Get";
const COMPARE_AND_SET: &str = "kv.v1.Kv/CompareAndSet";

/// Plays it.
pub async fn show(stage: &Stage) -> Result<()> {
    stage.act("A second module, a key-value store, is swapped in on a test cluster");
    let mut cluster = Cluster::prepare(Plan { name: "swap-demo".to_owned(), ..Plan::default() }).await?;
    cluster.discard_when_dropped();
    let outcome = swap(stage, &mut cluster).await;
    if outcome.is_err() {
        cluster.keep();
        return outcome;
    }
    cluster.passed()
}

async fn swap(stage: &Stage, cluster: &mut Cluster) -> Result<()> {
    cluster.start_all().await?;
    let leader = cluster.wait_for_leader().await?;
    let chat_module = cluster.install(CHAT).await?.module.context("no module in the answer")?;
    stage.say(&format!("Three more hosts run the chat module; host {} leads.", leader.id));
    let hosts = cluster.clients().to_vec();
    let alice = chat::user_in_chat(&hosts, "alice").await?;
    chat::send(&hosts, 1, &alice, "written before the swap").await?;

    let swapped = cluster.install(KV).await?;
    stage.good(&format!("kv was uploaded and took over at index {}, on every host at the same one", swapped.index));

    let mut session = Session::new("demo-kv");
    let put = PutRequest { key: "colour".to_owned(), value: b"red".to_vec().into() };
    let put: PutReply = session.write(&hosts, 0, PUT, &put, PATIENCE).await?.message;
    ensure!(put.version == 1, "{put:?}");
    stage.good("put colour = red, through host 1: version 1");
    let swap = |expected: &'static [u8], value: &'static [u8]| CompareAndSetRequest {
        key: "colour".to_owned(),
        expected: Some(expected.into()),
        value: value.into(),
    };
    let set = session.write::<PutReply>(&hosts, 1, COMPARE_AND_SET, &swap(b"red", b"green"), PATIENCE).await?;
    ensure!(set.message.version == 2, "{set:?}");
    stage.good("compare-and-set red → green, through host 2: version 2");
    let refused = session.write::<PutReply>(&hosts, 2, COMPARE_AND_SET, &swap(b"red", b"blue"), PATIENCE).await;
    let status = refused.err().context("red was set to blue, but it was green")?;
    ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
    stage.good(&format!("compare-and-set red → blue, through host 3, is refused: {:?}", status.message()));
    for (host, id) in hosts.iter().zip(cluster.ids()) {
        let got: GetReply = host.read(GET, &GetRequest { key: "colour".to_owned() }, set.index).await?.message;
        ensure!(got.value == b"green"[..] && got.version == 2, "host {id} says {got:?}");
    }
    stage.good("get colour: every host says green, version 2");

    let refused: Result<_, Status> = chat::create_user(&hosts, 0, "bob").await;
    let status = refused.err().context("kv has made a chat user")?;
    ensure!(status.code() == Code::Unimplemented, "{status:?}");
    stage.good(&format!("the chat's methods are gone meanwhile: {:?}", status.code()));

    let back = cluster.activate(3, &chat_module.digest).await?;
    cluster.wait_for_module(&chat_module.digest).await?;
    for (host, id) in hosts.iter().zip(cluster.ids()) {
        let seen = chat::read_all(host, &alice.user, back.index).await?;
        let contents: Vec<&str> = seen.iter().map(|message| message.content.as_str()).collect();
        ensure!(contents == ["written before the swap"], "host {id} shows {contents:?}");
    }
    stage.good(&format!("chat is back at index {}, and its message is still there on every host", back.index));
    let agreement = cluster.wait_for_agreement().await?;
    stage.good(&format!("states are equal on all three at index {}; this test cluster ends here", agreement.index));
    Ok(())
}
