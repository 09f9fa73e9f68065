//! Whole-cluster tests of what any gRPC or HTTP client finds on every host: the module's own service, reflection, health
//! and metrics.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use telegraft_modules::KV;
use telegraft_proto::chat::{
    CreateChatRequest, CreateUserRequest, GetChatUsersRequest, GetMessagesRequest, JoinChatRequest,
};
use telegraft_tests::{
    chat,
    client::{HostClient, may_try_again},
    cluster::Cluster,
    http,
    polling::{PATIENCE, until},
};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// A request as an unmodified client sends it; only metadata, which any client can set, makes a retry safe.
fn in_session<T>(message: T, request_id: u64) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("telegraft-client-id", tonic::metadata::MetadataValue::from_static("native-client"));
    request.metadata_mut().insert("telegraft-request-id", request_id.into());
    request.set_timeout(Duration::from_secs(5));
    request
}

/// Repeats a call that was not carried out *now*.
async fn answered<T>(mut call: impl AsyncFnMut() -> Result<Response<T>, Status>) -> Result<Response<T>> {
    until("an answer", PATIENCE, async || match call().await {
        Err(status) if may_try_again(&status) => Err(status.into()),
        answer => Ok(answer),
    })
    .await?
    .map_err(Into::into)
}

/// The log index that an answer of the module's own service carries.
fn index_of<T>(response: &Response<T>) -> Result<u64> {
    let index = response.metadata().get("telegraft-index").context("no telegraft-index in the answer's metadata")?;
    Ok(index.to_str()?.parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmodified_chat_client_works_against_every_host() -> Result<()> {
    let cluster = Cluster::start_with_chat().await?;
    let clients: Vec<_> = cluster.clients().iter().map(HostClient::chat).collect();
    let user = async |through: usize, name: &str, id: u64| {
        let request = CreateUserRequest { name: name.to_owned() };
        answered(async || clients[through].clone().create_user(in_session(request.clone(), id)).await).await
    };
    let alice = user(0, "alice", 1).await?.into_inner().user_id;
    let bob = user(1, "bob", 2).await?.into_inner().user_id;
    let request = CreateChatRequest { creator_id: alice.clone(), title: "lunch".to_owned() };
    let chat_id = answered(async || clients[2].clone().create_chat(in_session(request.clone(), 3)).await)
        .await?
        .into_inner()
        .chat_id;
    let request = JoinChatRequest { user_id: bob.clone(), chat_id: chat_id.clone() };
    let joined = answered(async || clients[0].clone().join_chat(in_session(request.clone(), 4)).await).await?;
    ensure!(joined.get_ref().joined);

    let mut newest = index_of(&joined)?;
    for (number, client) in clients.iter().enumerate() {
        let member = chat::Member { user: bob.clone(), chat: chat_id.clone() };
        let request = chat::message(&member, &format!("through host {}", number + 1));
        let sent =
            answered(async || client.clone().send_message(in_session(request.clone(), 10 + number as u64)).await)
                .await?;
        ensure!(!sent.get_ref().message_id.is_empty() && sent.get_ref().time_us > 0, "{sent:?}");
        ensure!(index_of(&sent)? > newest, "{} after {newest}", index_of(&sent)?);
        newest = index_of(&sent)?;
    }
    for client in &clients {
        let mut request = Request::new(GetMessagesRequest { user_id: alice.clone(), ..Default::default() });
        request.metadata_mut().insert("telegraft-consistency", format!("at-least:{newest}").parse()?);
        let seen = client.clone().get_messages(request).await?.into_inner().messages;
        let contents: Vec<&str> = seen.iter().map(|message| message.content.as_str()).collect();
        ensure!(contents == ["through host 1", "through host 2", "through host 3"], "{contents:?}");
        ensure!(seen.iter().all(|message| message.sender_name == "bob"), "{seen:?}");
        let request = GetChatUsersRequest { chat_id: chat_id.clone(), ..Default::default() };
        let users = client.clone().get_chat_users(request).await?.into_inner().users;
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        ensure!(names == ["alice", "bob"], "{names:?}");
    }

    // A retry of the same request number elsewhere is the same message, and a taken name is refused with its code.
    let again = user(2, "bob", 2).await?.into_inner().user_id;
    ensure!(again == bob, "the retry made another user");
    let Err(error) = user(2, "bob", 99).await else { bail!("two users of one name") };
    let status = error.downcast_ref::<Status>().context("not a status")?;
    ensure!(status.code() == Code::AlreadyExists, "{status:?}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_service_refuses_bad_calls_as_the_general_one_does() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let mut client = cluster.client(2)?.chat();
    let mut request = Request::new(GetMessagesRequest::default());
    request.metadata_mut().insert("telegraft-consistency", "eventually".parse()?);
    let answer = client.get_messages(request).await;
    ensure!(answer.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument), "{answer:?}");
    let mut request = Request::new(CreateUserRequest { name: "carol".to_owned() });
    request.metadata_mut().insert("telegraft-request-id", "many".parse()?);
    let answer = client.create_user(request).await;
    ensure!(answer.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument), "{answer:?}");

    // With another module active, its service is served and this one no longer.
    cluster.install(KV).await?;
    let answer = client.create_user(CreateUserRequest { name: "dave".to_owned() }).await;
    ensure!(answer.as_ref().is_err_and(|status| status.code() == Code::Unimplemented), "{answer:?}");
    cluster.passed()
}

/// Asks one question of a host's reflection.
async fn reflect(host: &HostClient, question: MessageRequest) -> Result<MessageResponse> {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(host.channel());
    let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await?.into_inner();
    let answer = answers.message().await?.context("reflection says nothing")?;
    answer.message_response.context("an empty answer")
}

async fn services_of(host: &HostClient) -> Result<BTreeSet<String>> {
    match reflect(host, MessageRequest::ListServices(String::new())).await? {
        MessageResponse::ListServicesResponse(list) => {
            Ok(list.service.into_iter().map(|service| service.name).collect())
        }
        other => bail!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_and_describes_the_service_of_the_active_module() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    for host in cluster.clients() {
        let services = services_of(host).await?;
        for name in [
            "chat.v1.Chat",
            "telegraft.v1.Telegraft",
            "telegraft.v1.Modules",
            "telegraft.v1.Cluster",
            "grpc.health.v1.Health",
        ] {
            ensure!(services.contains(name), "{name} is not in {services:?}");
        }
        let question = MessageRequest::FileContainingSymbol("chat.v1.Chat".to_owned());
        let MessageResponse::FileDescriptorResponse(files) = reflect(host, question).await? else {
            bail!("no descriptor of chat.v1.Chat");
        };
        let mut methods = BTreeSet::new();
        for file in files.file_descriptor_proto {
            let file = prost_types::FileDescriptorProto::decode(file.as_slice())?;
            methods
                .extend(file.service.into_iter().flat_map(|service| service.method).filter_map(|method| method.name));
        }
        ensure!(methods.contains("SendMessage") && methods.contains("GetMessages"), "{methods:?}");
    }
    cluster.install(KV).await?;
    for host in cluster.clients() {
        let services = services_of(host).await?;
        ensure!(services.contains("kv.v1.Kv") && !services.contains("chat.v1.Chat"), "{services:?}");
    }
    cluster.passed()
}

/// A host's health as the standard service has it.
async fn health(host: &HostClient, service: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest { service: service.to_owned() };
    Ok(HealthClient::new(host.channel()).check(request).await?.into_inner().status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_the_cluster() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    for id in cluster.ids() {
        until("a healthy host", PATIENCE, async || {
            let status = health(cluster.client(id)?, "").await?;
            ensure!(status == ServingStatus::Serving, "host {id}: {status:?}");
            let page = http::get(cluster.host(id)?.addresses().http, "/readyz").await?;
            ensure!(page.status == 200, "host {id}: {page:?}");
            Ok(())
        })
        .await?;
    }
    let unknown = health(cluster.client(1)?, "no.such.Service").await;
    ensure!(unknown.as_ref().is_err_and(|status| status.code() == Code::NotFound), "{unknown:?}");

    // Alone it lives, and says that it is not ready.
    cluster.kill(1)?;
    cluster.kill(2)?;
    until("a host that says it is not ready", PATIENCE, async || {
        let addresses = cluster.host(3)?.addresses();
        ensure!(http::get(addresses.http, "/livez").await?.status == 200, "it is dead");
        let ready = http::get(addresses.http, "/readyz").await?;
        ensure!(ready.status == 503 && !ready.body.trim().is_empty(), "{ready:?}");
        let status = health(cluster.client(3)?, "").await?;
        ensure!(status == ServingStatus::NotServing, "{status:?}");
        Ok(())
    })
    .await?;
    cluster.start_all().await?;
    until("a host that is ready again", PATIENCE, async || {
        let ready = http::get(cluster.host(3)?.addresses().http, "/readyz").await?;
        ensure!(ready.status == 200, "{ready:?}");
        ensure!(health(cluster.client(3)?, "").await? == ServingStatus::Serving);
        Ok(())
    })
    .await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_tell_of_terms_indexes_and_peers_and_move_with_writes() -> Result<()> {
    let mut cluster = Cluster::start_with_chat().await?;
    let alice = chat::user_in_chat(cluster.clients(), "alice").await?;
    let value = |page: &str, name: &str| -> Option<f64> {
        let line = page.lines().find(|line| line.starts_with(name) && !line.starts_with('#'))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let mut before = Vec::new();
    cluster.wait_until_applied().await?;
    for id in cluster.ids() {
        let page = http::get(cluster.host(id)?.addresses().http, "/metrics").await?;
        ensure!(page.status == 200, "{page:?}");
        for name in ["telegraft_raft_term", "telegraft_raft_commit_index", "telegraft_applied_index"] {
            ensure!(value(&page.body, name).is_some_and(|value| value > 0.0), "{name} in\n{}", page.body);
        }
        ensure!(page.body.matches("telegraft_peer_connected{").count() == 2, "{}", page.body);
        before.push(value(&page.body, "telegraft_applied_index").unwrap_or_default());
    }
    for count in 0..10 {
        chat::send(cluster.clients(), 0, &alice, &format!("message {count}")).await?;
    }
    cluster.wait_until_applied().await?;
    for (id, before) in cluster.ids().into_iter().zip(before) {
        let page = http::get(cluster.host(id)?.addresses().http, "/metrics").await?;
        let after = value(&page.body, "telegraft_applied_index").unwrap_or_default();
        ensure!(after >= before + 10.0, "host {id}: {after} after {before} and ten writes");
    }
    let page = http::get(cluster.host(1)?.addresses().http, "/no-such-page").await?;
    ensure!(page.status == 404, "{page:?}");
    cluster.passed()
}
