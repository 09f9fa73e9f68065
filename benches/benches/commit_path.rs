//! What a write costs, part by part: the log's synced write, and the machine's apply with a fresh instance for each entry
//! and with one that is kept, each with the digest of effects and without, for batches of several sizes. Compare the rows of one run; absolute figures are the machine's.

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;
use telegraft_node::ports::{LogWrite, LogWriter, Machine};
use telegraft_proto::{
    chat::{CreateChatReply, CreateChatRequest, CreateUserReply, CreateUserRequest, SendMessageRequest},
    internal::{Activate, Call, Command, ModuleChunk, command::Body},
};
use telegraft_raft::{Entry, EntryKind, HardState, Index};
use telegraft_sandbox::{Digest, Sandbox, SandboxOptions, SqliteMachine};

const BATCHES: [u64; 3] = [1, 32, 256];

fn entry(index: Index, body: Body) -> Entry {
    let command = Command {
        time_us: 1_700_000_000_000_000 + index,
        entropy_high: index,
        entropy_low: !index,
        body: Some(body),
        ..Command::default()
    };
    Entry { term: 1, index, kind: EntryKind::Normal, data: command.encode_to_vec().into() }
}

fn log_write(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log_write_synced");
    for batch in BATCHES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (_reader, mut writer) =
            telegraft_log::open(&folder.path().join("log"), 1, telegraft_log::Options::default()).expect("a log");
        let mut next = 1;
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
            bencher.iter(|| {
                let entries = (next..next + batch)
                    .map(|index| Entry { term: 1, index, kind: EntryKind::Normal, data: Bytes::from_static(&[7; 256]) })
                    .collect();
                next += batch;
                let hard_state = Some(HardState { term: 1, vote: 1, commit: next - batch - 1 });
                writer
                    .write(&[LogWrite { hard_state, entries, must_sync: true, ..LogWrite::default() }])
                    .expect("a write");
            });
        });
    }
    group.finish();
}

/// A machine with the chat active, one user and one chat.
struct Chat {
    machine: SqliteMachine,
    next: Index,
    user_id: String,
    chat_id: String,
    _folder: tempfile::TempDir,
}

impl Chat {
    fn new(reuse: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let sandbox = Sandbox::new(SandboxOptions::new(folder.path().join("modules"))).expect("a sandbox");
        let path = folder.path().join("machine");
        std::fs::create_dir_all(&path).expect("a folder");
        let (machine, _reader) = telegraft_sandbox::open(sandbox, &path).expect("a machine");
        let mut chat = Self { machine, next: 1, user_id: String::new(), chat_id: String::new(), _folder: folder };
        let digest = Bytes::copy_from_slice(&Digest::of(telegraft_modules::CHAT).0);
        chat.apply(Body::ModuleChunk(ModuleChunk {
            digest: digest.clone(),
            size: telegraft_modules::CHAT.len() as u64,
            offset: 0,
            data: Bytes::from_static(telegraft_modules::CHAT),
            name: "chat".into(),
            version: "0".into(),
            schema: 1,
        }));
        chat.apply(Body::Activate(Activate { digest, reuse, ..Activate::default() }));
        let user = chat.call("CreateUser", &CreateUserRequest { name: "ada".into() });
        chat.user_id = CreateUserReply::decode(user).expect("a reply").user_id;
        let creator_id = chat.user_id.clone();
        let reply = chat.call("CreateChat", &CreateChatRequest { creator_id, title: "bench".into() });
        chat.chat_id = CreateChatReply::decode(reply).expect("a reply").chat_id;
        chat
    }

    fn call(&mut self, method: &str, request: &impl prost::Message) -> Bytes {
        let method = format!("chat.v1.Chat/{method}");
        self.apply(Body::Call(Call { method, payload: request.encode_to_vec().into() }))
    }

    fn apply(&mut self, body: Body) -> Bytes {
        let entries = [entry(self.next, body)];
        self.next += 1;
        let mut outcomes = self.machine.apply(&entries).expect("no fault");
        outcomes.remove(0).expect("an accepted command")
    }

    fn messages(&mut self, count: u64) -> Vec<Entry> {
        let request = SendMessageRequest {
            user_id: self.user_id.clone(),
            chat_id: self.chat_id.clone(),
            content: "x".repeat(64),
        };
        let payload = Bytes::from(request.encode_to_vec());
        let first = self.next;
        self.next += count;
        (first..first + count)
            .map(|index| {
                let method = "chat.v1.Chat/SendMessage".into();
                entry(index, Body::Call(Call { method, payload: payload.clone() }))
            })
            .collect()
    }
}

fn apply(criterion: &mut Criterion) {
    for (name, reuse, digested) in [
        ("apply_fresh_instance", false, true),
        ("apply_fresh_instance_undigested", false, false),
        ("apply_reused_instance", true, true),
        ("apply_reused_instance_undigested", true, false),
    ] {
        let mut group = criterion.benchmark_group(name);
        for batch in BATCHES {
            let chat = std::cell::RefCell::new(Chat::new(reuse));
            if !digested {
                chat.borrow_mut().machine.without_effect_digest();
            }
            group.throughput(Throughput::Elements(batch));
            group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
                bencher.iter_batched(
                    || chat.borrow_mut().messages(batch),
                    |entries| {
                        let outcomes = chat.borrow_mut().machine.apply(&entries).expect("no fault");
                        assert!(outcomes.iter().all(Result::is_ok), "a message was refused");
                    },
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(benches, log_write, apply);
criterion_main!(benches);
