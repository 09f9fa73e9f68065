//! Whole-cluster tests of modules: they are swapped at one index on every host, and what is no good is refused before
//! anything is replicated.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use telegraft_modules::{CHAT, KV};
use telegraft_proto::{
    kv::{
        CompareAndSetRequest, DeleteReply, DeleteRequest, GetReply, GetRequest, PutReply, PutRequest, ScanReply,
        ScanRequest,
    },
    v1::{DescribeModule, ListModules, MachineStatus, ModuleInfo, Role, WriteCall},
};
use telegraft_tests::{
    chat::{self, Member},
    client::{HostClient, Session, reason},
    cluster::{Cluster, Plan, upload_once},
    polling::{PATIENCE, until},
};
use tonic::{Code, Status};

const PUT: &str = "kv.v1.Kv/Put";
const DELETE: &str = "kv.v1.Kv/Delete";
const COMPARE_AND_SET: &str = "kv.v1.Kv/CompareAndSet";
const GET: &str = "kv.v1.Kv/Get";
const SCAN: &str = "kv.v1.Kv/Scan";

/// The header of an empty component: it exports nothing.
const EMPTY_COMPONENT: &[u8] = &[0x00, b'a', b's', b'm', 0x0d, 0x00, 0x01, 0x00];

/// The header of an empty core module, which is no component.
const CORE_MODULE: &[u8] = &[0x00, b'a', b's', b'm', 0x01, 0x00, 0x00, 0x00];

/// A component that imports an instance nobody offers, written by hand: a type section with one empty instance type, and
/// an import section that names it.
fn component_with_a_foreign_import(name: &str) -> Vec<u8> {
    let mut bytes = EMPTY_COMPONENT.to_vec();
    bytes.extend([0x07, 0x03, 0x01, 0x42, 0x00]);
    let length = u8::try_from(name.len()).expect("a short name");
    bytes.extend([0x0a, length + 5, 0x01, 0x00, length]);
    bytes.extend(name.bytes());
    bytes.extend([0x05, 0x00]);
    bytes
}

async fn modules_of(host: &HostClient) -> Result<Vec<ModuleInfo>> {
    Ok(host.modules().list(ListModules::default()).await?.into_inner().modules)
}

async fn put(
    hosts: &[HostClient],
    first: usize,
    key: &str,
    value: &str,
) -> Result<telegraft_tests::client::Answer<PutReply>, Status> {
    let request = PutRequest { key: key.to_owned(), value: value.as_bytes().to_vec().into() };
    Session::new("put").write(hosts, first, PUT, &request, PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_is_listed_described_and_uploaded_only_once() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let first = cluster.upload(1, CHAT).await?;
    ensure!(!first.existed && first.size == CHAT.len() as u64, "{first:?}");
    ensure!(first.digest.len() == 64 && first.digest.bytes().all(|b| b.is_ascii_hexdigit()), "{first:?}");
    cluster.wait_until_applied().await?;
    let again = cluster.upload(2, CHAT).await?;
    ensure!(again.existed && again.digest == first.digest, "{again:?}");

    for host in cluster.clients() {
        let modules = modules_of(host).await?;
        ensure!(modules.len() == 1 && !modules[0].active && modules[0].activated_index == 0, "{modules:?}");
    }
    // A prefix of the digest that names one module is enough.
    let activated = cluster.activate(3, &first.digest[..8]).await?;
    cluster.wait_for_module(&first.digest).await?;
    for host in cluster.clients() {
        let modules = modules_of(host).await?;
        ensure!(
            modules.len() == 1 && modules[0].active && modules[0].activated_index == activated.index,
            "{modules:?}"
        );
        let described = host.modules().describe(DescribeModule::default()).await?.into_inner();
        let service = prost_types::FileDescriptorSet::decode(described.service)?;
        ensure!(service.file.iter().any(|file| file.package() == "chat.v1"), "the descriptors lack chat.v1");
        ensure!(described.module.is_some_and(|module| module.digest == first.digest));
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_module_requests_are_refused_with_the_reason() -> Result<()> {
    let cluster = Cluster::start().await?;
    for first in 0..3 {
        let Err(status) = chat::create_user(cluster.clients(), first, "alice").await else {
            bail!("a write was carried out by no module");
        };
        ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
        ensure!(reason(&status).is_some(), "no ErrorInfo in {status:?}");
    }
    for wanted in ["0123456789abcdef", "0123", "not hexadecimal", ""] {
        let Err(status) = cluster.activate(1, wanted).await else { bail!("{wanted:?} was activated") };
        let codes = [Code::NotFound, Code::FailedPrecondition, Code::InvalidArgument];
        ensure!(codes.contains(&status.code()) && !status.message().is_empty(), "{wanted:?}: {status:?}");
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_value_module_keeps_its_contract() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    cluster.install(KV).await?;
    let hosts = cluster.clients().to_vec();
    ensure!(put(&hosts, 0, "colour", "red").await?.message.version == 1);
    let second = put(&hosts, 1, "colour", "green").await?;
    ensure!(second.message.version == 2);
    for host in &hosts {
        let got: GetReply = host.read(GET, &GetRequest { key: "colour".to_owned() }, second.index).await?.message;
        ensure!(got.version == 2 && got.value == b"green"[..], "{got:?}");
    }

    let mut session = Session::new("cas");
    let swap = |expected: Option<&'static str>, value: &'static str| CompareAndSetRequest {
        key: "colour".to_owned(),
        expected: expected.map(|expected| expected.as_bytes().to_vec().into()),
        value: value.as_bytes().to_vec().into(),
    };
    for (expected, value) in [(Some("red"), "blue"), (None, "blue")] {
        let refused = session.write::<PutReply>(&hosts, 2, COMPARE_AND_SET, &swap(expected, value), PATIENCE).await;
        let Err(status) = refused else { bail!("{expected:?} was taken for green") };
        ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
    }
    let swapped: PutReply =
        session.write(&hosts, 2, COMPARE_AND_SET, &swap(Some("green"), "blue"), PATIENCE).await?.message;
    ensure!(swapped.version == 3);

    for key in ["a/1", "a/2", "a/3", "b/1"] {
        put(&hosts, 0, key, key).await?;
    }
    let removal = DeleteRequest { key: "a/2".to_owned() };
    let removed = session.write::<DeleteReply>(&hosts, 0, DELETE, &removal, PATIENCE).await?;
    ensure!(removed.message.existed);
    let (mut keys, mut token) = (Vec::new(), String::new());
    loop {
        let request = ScanRequest { prefix: "a/".to_owned(), limit: 1, page_token: token };
        let page: ScanReply = hosts[1].read(SCAN, &request, removed.index).await?.message;
        keys.extend(page.items.into_iter().map(|item| item.key));
        ensure!(keys.len() < 5, "the pages never end: {keys:?}");
        if page.next_page_token.is_empty() {
            break;
        }
        token = page.next_page_token;
    }
    ensure!(keys == ["a/1", "a/3"], "{keys:?}");
    let gone = hosts[2].read::<GetReply>(GET, &GetRequest { key: "a/2".to_owned() }, removed.index).await;
    ensure!(gone.as_ref().is_err_and(|status| status.code() == Code::NotFound), "{gone:?}");
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

/// What became of one writer's calls while modules were swapped under it.
#[derive(Default)]
struct Served {
    /// Indexes of calls that the module answered.
    carried_out: Vec<u64>,
    /// Calls that met the other module.
    not_mine: usize,
}

/// Calls `method` over and over, whichever module is active.
async fn call_until(
    over: Arc<AtomicBool>,
    hosts: Vec<HostClient>,
    call: impl Fn(usize) -> (String, Vec<u8>),
) -> Result<Served> {
    let mut served = Served::default();
    for number in 0_usize.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let (method, payload) = call(number);
        // No session and no retry: each call is one entry, and its answer carries that entry's index.
        let write = WriteCall { method, payload: payload.into(), ..Default::default() };
        match hosts[number % hosts.len()].request(write, Duration::from_secs(10)).await {
            Ok(reply) => served.carried_out.push(reply.index),
            Err(status) if status.code() == Code::Unimplemented => served.not_mine += 1,
            // A leader may change under load; what became of the call is not known, so it is no evidence.
            Err(status) if telegraft_tests::client::may_try_again(&status) => {}
            Err(status) => bail!("call {number}: {status:?}"),
        }
    }
    Ok(served)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_under_load_happens_at_one_index_and_keeps_the_data() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let hosts = cluster.clients().to_vec();
    let alice = chat::user_in_chat(&hosts, "alice").await?;
    chat::send(&hosts, 0, &alice, "before the swap").await?;
    let chat_digest = cluster.upload(1, CHAT).await?.digest;
    let kv_digest = cluster.upload(1, KV).await?.digest;

    let over = Arc::new(AtomicBool::new(false));
    let member: Member = alice.clone();
    let chatting = tokio::spawn(call_until(Arc::clone(&over), hosts.clone(), move |number| {
        let message = chat::message(&member, &format!("during the swap {number}"));
        (chat::SEND_MESSAGE.to_owned(), message.encode_to_vec())
    }));
    let putting = tokio::spawn(call_until(Arc::clone(&over), hosts.clone(), |number| {
        let request = PutRequest { key: format!("key {number}"), value: b"value".to_vec().into() };
        (PUT.to_owned(), request.encode_to_vec())
    }));
    let swaps = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let to_kv = cluster.activate(2, &kv_digest).await?.index;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let to_chat = cluster.activate(3, &chat_digest).await?.index;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok::<_, Status>((to_kv, to_chat))
    };
    let swaps = swaps.await;
    over.store(true, Ordering::Relaxed);
    let (chatted, kept) = (chatting.await??, putting.await??);
    let (to_kv, to_chat) = swaps?;

    println!(
        "kv from {to_kv}, chat from {to_chat}; chat answered {} and met kv {} times, kv answered {} and met chat {} times",
        chatted.carried_out.len(),
        chatted.not_mine,
        kept.carried_out.len(),
        kept.not_mine
    );
    let kv_era = to_kv..to_chat;
    let wrong = chatted.carried_out.iter().find(|index| kv_era.contains(index));
    ensure!(wrong.is_none(), "chat answered at {wrong:?}, while kv was active ({kv_era:?})");
    let wrong = kept.carried_out.iter().find(|index| !kv_era.contains(index));
    ensure!(wrong.is_none(), "kv answered at {wrong:?}, while chat was active (kv: {kv_era:?})");
    ensure!(chatted.carried_out.len() > 10 && chatted.not_mine > 10, "too little chat to judge");
    ensure!(kept.carried_out.len() > 10 && kept.not_mine > 10, "too few puts to judge");

    // Everything chat acknowledged is there, and what kv wrote is there when it comes back.
    cluster.wait_for_module(&chat_digest).await?;
    let agreement = cluster.wait_for_agreement().await?;
    for host in &hosts {
        let seen = chat::read_all(host, &alice.user, agreement.index).await?;
        let during = seen.len() - 1;
        ensure!(chat::counted(&seen).get("before the swap") == Some(&1), "old data is gone");
        ensure!(during >= chatted.carried_out.len(), "{during} messages of {}", chatted.carried_out.len());
    }
    let back = cluster.activate(1, &kv_digest).await?.index;
    cluster.wait_for_module(&kv_digest).await?;
    for host in &hosts {
        let page: ScanReply = host.read(SCAN, &ScanRequest { limit: 1000, ..Default::default() }, back).await?.message;
        ensure!(page.items.len() >= kept.carried_out.len().min(1000), "{} keys are left", page.items.len());
    }
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_missed_the_swap_makes_it_when_it_comes_back() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    chat::user_in_chat(cluster.clients(), "alice").await?;
    cluster.wait_until_applied().await?;
    let leader = cluster.wait_for_leader().await?.id;
    let victim = if leader == 1 { 2 } else { 1 };
    cluster.kill(victim)?;
    let kv_digest = cluster.upload(leader, KV).await?.digest;
    cluster.activate(leader, &kv_digest).await?;
    let live: Vec<HostClient> =
        cluster.live().into_iter().map(|id| cluster.client(id).cloned()).collect::<Result<_>>()?;
    let written = put(&live, 0, "while you were away", "x").await?;
    cluster.start_host(victim).await?;
    cluster.wait_for_module(&kv_digest).await?;
    let request = GetRequest { key: "while you were away".to_owned() };
    let got: GetReply = cluster.client(victim)?.read(GET, &request, written.index).await?.message;
    ensure!(got.version == 1);
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_modules_are_refused_with_the_reason_and_nothing_is_replicated() -> Result<()> {
    // Nothing else may be replicated meanwhile: no checkpoints.
    let tables = "[machine]\nmodule_bytes_max = 1048576\ndigest_interval = \"0s\"\n".to_owned();
    let mut cluster = Cluster::start_with(Plan { tables, ..Default::default() }).await?;
    cluster.install(CHAT).await?;

    let garbage: Vec<u8> = (0..100_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let truncated = CHAT[..CHAT.len() / 2].to_vec();
    let mut damaged = CHAT.to_vec();
    damaged.iter_mut().skip(200).take(64).for_each(|byte| *byte ^= 0x5a);
    let cases: [(&str, Vec<u8>, &[&str]); 9] = [
        ("nothing at all", Vec::new(), &["empty", "component", "no module"]),
        ("text", b"This is no module.".to_vec(), &["component", "wasm", "magic"]),
        ("garbage", garbage, &["component", "wasm", "magic"]),
        ("a core module", CORE_MODULE.to_vec(), &["component"]),
        ("a component for another world", EMPTY_COMPONENT.to_vec(), &["telegraft:machine", "export", "world"]),
        ("a foreign import", component_with_a_foreign_import("wasi:filesystem/types@0.2.0"), &["wasi:filesystem"]),
        ("half a module", truncated, &[]),
        ("a damaged module", damaged, &[]),
        ("too large a file", vec![0; 1_048_577], &["1048576", "large", "1 MiB", "1MiB"]),
    ];
    for (what, bytes, words) in cases {
        for id in cluster.ids() {
            // An election in between would add an entry of the new leader: then look again.
            let refusal = until("a look within one term", PATIENCE, async || {
                let before = settled(&mut cluster).await?;
                let refusal = upload_once(cluster.client(id)?, "", &bytes).await;
                let after = settled(&mut cluster).await?;
                ensure!(before.term == after.term, "an election came in between");
                if before.last_index != after.last_index {
                    return Ok(Err(anyhow::anyhow!(
                        "{what} was replicated: {} entries more",
                        after.last_index - before.last_index
                    )));
                }
                Ok(Ok(refusal))
            });
            let Err(status) = refusal.await?? else { bail!("{what} was accepted by host {id}") };
            let codes = [Code::FailedPrecondition, Code::InvalidArgument];
            ensure!(codes.contains(&status.code()), "{what}: {status:?}");
            let said = status.message().to_lowercase();
            ensure!(
                !said.is_empty() && (words.is_empty() || words.iter().any(|word| said.contains(&word.to_lowercase()))),
                "{what}: {said:?}"
            );
            ensure!(
                reason(&status).is_some_and(|(reason, _)| !reason.is_empty()),
                "{what}: no ErrorInfo in {status:?}"
            );
        }
    }
    for host in cluster.clients() {
        ensure!(modules_of(host).await?.len() == 1, "a refused module is listed");
    }
    chat::user_in_chat(cluster.clients(), "alice").await.context("chat must go on")?;
    cluster.wait_for_agreement().await?;
    cluster.passed()
}

/// What the leader says once everybody has applied everything.
async fn settled(cluster: &mut Cluster) -> Result<MachineStatus> {
    cluster.wait_until_applied().await?;
    let machines = cluster.machines().await?;
    machines.into_values().find(|machine| machine.role() == Role::Leader).context("nobody leads right now")
}
