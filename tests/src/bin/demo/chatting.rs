//! The demo's first half: people chat through different hosts, the leader is killed, and nobody loses a word.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use telegraft_modules::CHAT;
use telegraft_proto::chat::{CreateChatRequest, CreateUserRequest, GetMessagesRequest, JoinChatRequest};
use telegraft_tests::{
    chat::{self, Member},
    client::{HostClient, may_try_again},
    cluster::Cluster,
    host,
    polling::{PATIENCE, until},
};
use tokio::process::Command;
use tonic::{Request, Response, Status};

use crate::stage::{self, Stage};

/// Who has said what so far.
struct Conversation {
    alice: Member,
    bob: Member,
    carol: Member,
    said: Vec<(&'static str, &'static str)>,
    /// Index of the newest message.
    index: u64,
    /// Number of the next request of the demo's own gRPC clients.
    request: u64,
}

/// Plays it, and gives back the id of a user who sees all messages.
pub async fn show(stage: &Stage, cluster: &mut Cluster) -> Result<String> {
    install(stage, cluster).await?;
    let mut conversation = begin(stage, cluster).await?;
    talk(stage, cluster, &mut conversation).await?;
    everybody_shows_the_same(stage, cluster, &conversation).await?;
    let killed = kill_the_leader(stage, cluster, &mut conversation).await?;
    come_back(stage, cluster, &mut conversation, killed).await?;
    Ok(conversation.alice.user)
}

async fn install(stage: &Stage, cluster: &mut Cluster) -> Result<()> {
    stage.act("The chat module is uploaded, and activated on all hosts at one index of the log");
    let file = cluster.folder()?.join("chat.wasm");
    std::fs::write(&file, CHAT).with_context(|| format!("writing {}", file.display()))?;
    let file = file.to_string_lossy().into_owned();
    // Through two different hosts, because it makes no difference.
    telegraft(stage, cluster, 1, &["module", "upload", &file]).await?;
    telegraft(stage, cluster, 2, &["module", "activate", &file]).await?;
    let leader = cluster.wait_for_leader().await?.id;
    let modules =
        cluster.client(leader)?.modules().list(telegraft_proto::v1::ListModules::default()).await?.into_inner();
    let active = modules.modules.into_iter().find(|module| module.active).context("no module is active")?;
    cluster.wait_for_module(&active.digest).await?;
    stage.good(&format!(
        "every host serves {} {} ({} bytes, sha256 {}…), since index {}",
        active.name,
        active.version,
        active.size,
        active.digest.get(..12).unwrap_or(&active.digest),
        active.activated_index
    ));
    Ok(())
}

/// Runs `telegraft` as a person would, and shows what it prints.
async fn telegraft(stage: &Stage, cluster: &Cluster, id: u64, arguments: &[&str]) -> Result<()> {
    let address = cluster.client(id)?.address().to_string();
    stage.command(&format!("telegraft --host {address} {}", arguments.join(" ")));
    // An election may pass by at any time; a person would type the command again.
    until("the command", PATIENCE, async || {
        let mut command = Command::new(host::binary()?);
        command.arg("--host").arg(&address).args(arguments).env("NO_COLOR", "1").env_remove(host::BINARY_VARIABLE);
        let output = command.stdin(std::process::Stdio::null()).kill_on_drop(true).output().await?;
        ensure!(
            output.status.success(),
            "telegraft {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        stage.printed(&String::from_utf8_lossy(&output.stdout));
        Ok(())
    })
    .await
}

impl Conversation {
    /// A request of a plain gRPC client: the metadata lets it be sent again after an election, and be applied once.
    fn request<T: Clone>(&mut self, message: &T) -> impl Fn() -> Request<T> + use<T> {
        self.request += 1;
        let (message, number) = (message.clone(), self.request);
        move || {
            let mut request = Request::new(message.clone());
            let client = tonic::metadata::MetadataValue::from_static("demo");
            request.metadata_mut().insert("telegraft-client-id", client);
            request.metadata_mut().insert("telegraft-request-id", number.into());
            request.set_timeout(std::time::Duration::from_secs(5));
            request
        }
    }

    /// One message through one host, by the chat module's own gRPC service.
    async fn say(
        &mut self,
        stage: &Stage,
        cluster: &Cluster,
        who: &'static str,
        through: u64,
        text: &'static str,
    ) -> Result<()> {
        let member = match who {
            "alice" => &self.alice,
            "bob" => &self.bob,
            _ => &self.carol,
        };
        let request = chat::message(member, text);
        let request = self.request(&request);
        let client = cluster.client(through)?.chat();
        let sent = answered(async || client.clone().send_message(request()).await).await;
        let sent = sent.with_context(|| format!("{who} writes {text:?} through host {through}"))?;
        let index = sent.metadata().get("telegraft-index").context("no telegraft-index in the answer")?;
        let index: u64 = index.to_str()?.parse()?;
        ensure!(index > self.index, "message at index {index}, after one at {}", self.index);
        self.index = index;
        self.said.push((who, text));
        stage.quote(who, text, &format!("through host {through}, index {index}"));
        Ok(())
    }

    /// Checks that one host shows what was said, all of it, once, and in order.
    async fn is_on(&self, host: &HostClient) -> Result<()> {
        let mut seen = Vec::new();
        let mut token = String::new();
        loop {
            let question =
                GetMessagesRequest { user_id: self.alice.user.clone(), page_token: token, ..Default::default() };
            let mut request = Request::new(question);
            request.metadata_mut().insert("telegraft-consistency", format!("at-least:{}", self.index).parse()?);
            request.set_timeout(std::time::Duration::from_secs(10));
            let page = host.chat().get_messages(request).await?.into_inner();
            seen.extend(page.messages.into_iter().map(|message| (message.sender_name, message.content)));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        let said: Vec<(String, String)> =
            self.said.iter().map(|(who, text)| ((*who).to_owned(), (*text).to_owned())).collect();
        ensure!(seen == said, "host {} shows {seen:?}, but what was said is {said:?}", host.address());
        Ok(())
    }
}

/// Repeats a call that was not carried out now, because nobody leads for a moment.
async fn answered<T>(mut call: impl AsyncFnMut() -> Result<Response<T>, Status>) -> Result<Response<T>> {
    let answer = until("an answer", PATIENCE, async || match call().await {
        Err(status) if may_try_again(&status) => Err(status.into()),
        answer => Ok(answer),
    });
    answer.await?.map_err(Into::into)
}

async fn begin(stage: &Stage, cluster: &Cluster) -> Result<Conversation> {
    stage.act("People meet: three users and a chat, each made through another host");
    let nobody = Member { user: String::new(), chat: String::new() };
    let mut all = Conversation {
        alice: nobody.clone(),
        bob: nobody.clone(),
        carol: nobody,
        said: Vec::new(),
        index: 0,
        request: 0,
    };
    for (name, through) in [("alice", 1), ("bob", 2), ("carol", 3)] {
        let request = all.request(&CreateUserRequest { name: name.to_owned() });
        let client = cluster.client(through)?.chat();
        let user = answered(async || client.clone().create_user(request()).await).await?.into_inner().user_id;
        stage.say(&format!("{name} is made through host {through}: {user}"));
        match name {
            "alice" => all.alice.user = user,
            "bob" => all.bob.user = user,
            _ => all.carol.user = user,
        }
    }
    let request = all.request(&CreateChatRequest { creator_id: all.alice.user.clone(), title: "Lunch".to_owned() });
    let client = cluster.client(2)?.chat();
    let chat = answered(async || client.clone().create_chat(request()).await).await?.into_inner().chat_id;
    stage.say(&format!("alice makes the chat \"Lunch\" through host 2: {chat}"));
    for (name, through) in [("bob", 3), ("carol", 1)] {
        let user = if name == "bob" { all.bob.user.clone() } else { all.carol.user.clone() };
        let request = all.request(&JoinChatRequest { user_id: user, chat_id: chat.clone() });
        let client = cluster.client(through)?.chat();
        let joined = answered(async || client.clone().join_chat(request()).await).await?.into_inner().joined;
        ensure!(joined, "{name} was in the chat already");
        stage.say(&format!("{name} joins through host {through}"));
    }
    for member in [&mut all.alice, &mut all.bob, &mut all.carol] {
        member.chat.clone_from(&chat);
    }
    // A name can be had only once, whichever host is asked.
    let request = all.request(&CreateUserRequest { name: "alice".to_owned() });
    let client = cluster.client(3)?.chat();
    let second = answered(async || client.clone().create_user(request()).await).await;
    let refusal = second.err().context("a second alice was made")?;
    let status = refusal.downcast_ref::<Status>().context("the refusal is no gRPC status")?;
    ensure!(status.code() == tonic::Code::AlreadyExists, "{status:?}");
    stage.good(&format!("a second alice is refused: {:?}, {:?}", status.code(), status.message()));
    Ok(all)
}

async fn talk(stage: &Stage, cluster: &Cluster, conversation: &mut Conversation) -> Result<()> {
    stage.act("A conversation, each message through another host, by the module's own gRPC service");
    for (who, through, text) in [
        ("alice", 1, "Lunch at twelve?"),
        ("bob", 2, "I can't before half past."),
        ("carol", 3, "Half past is fine."),
        ("alice", 3, "Half past twelve then, at the harbour."),
    ] {
        conversation.say(stage, cluster, who, through, text).await?;
    }
    Ok(())
}

async fn everybody_shows_the_same(stage: &Stage, cluster: &mut Cluster, conversation: &Conversation) -> Result<()> {
    stage.act("Every host is asked, and shows the same messages");
    for id in cluster.live() {
        conversation.is_on(cluster.client(id)?).await?;
        stage.good(&format!("host {id} shows all {} messages, in order", conversation.said.len()));
    }
    let agreement = cluster.wait_for_agreement().await?;
    let digest = agreement.digest.get(..16).unwrap_or(&agreement.digest);
    stage.good(&format!("their states are equal: sha256 {digest}… at index {} on each", agreement.index));
    Ok(())
}

async fn kill_the_leader(stage: &Stage, cluster: &mut Cluster, conversation: &mut Conversation) -> Result<u64> {
    stage.act("The leader is killed");
    let old = cluster.wait_for_leader().await?;
    let survivors: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old.id).collect();
    let [through, other] = survivors[..] else { anyhow::bail!("a cluster of three has two survivors") };
    stage.command(&format!("kill -9   # host {}, leader of term {}", old.id, old.term));
    let begun = Instant::now();
    cluster.kill(old.id)?;
    conversation.say(stage, cluster, "bob", through, "Did anybody notice something?").await?;
    let outage = begun.elapsed();
    stage.good(&format!("the next write succeeded {} after the kill", stage::duration(outage)));
    let new = cluster.wait_for_leader().await?;
    ensure!(new.id != old.id && new.term > old.term, "host {} leads again, in term {}", new.id, new.term);
    stage.good(&format!("host {} leads now, in term {}", new.id, new.term));
    conversation.say(stage, cluster, "carol", other, "No, what should have happened?").await?;
    for id in survivors {
        conversation.is_on(cluster.client(id)?).await?;
    }
    stage.good("both survivors show every message: none that was acknowledged is lost");
    Ok(old.id)
}

async fn come_back(stage: &Stage, cluster: &mut Cluster, conversation: &mut Conversation, killed: u64) -> Result<()> {
    stage.act(&format!("Host {killed} is started again, and catches up"));
    let begun = Instant::now();
    cluster.start_host(killed).await?;
    conversation.is_on(cluster.client(killed)?).await?;
    stage.good(&format!("host {killed} shows what it missed, {} after its start", stage::duration(begun.elapsed())));
    conversation.say(stage, cluster, "alice", killed, "See you at half past.").await?;
    everybody_shows_the_same(stage, cluster, conversation).await?;
    telegraft(stage, cluster, killed, &["status"]).await
}
