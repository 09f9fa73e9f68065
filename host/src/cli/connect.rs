//! Finding a host that answers: the addresses are tried in order until one can be connected to.

use std::time::Duration;

use telegraft_proto::v1::{
    GetStatus, HostStatus, cluster_client::ClusterClient, machines_client::MachinesClient,
    modules_client::ModulesClient, telegraft_client::TelegraftClient,
};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use super::failure::{Failure, Kind};

/// Longest wait for one address: beyond it the next is tried.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// Largest answer that is taken: a module's description carries its descriptors.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection to one host, and how long an answer may take.
pub struct Connection {
    /// The HTTP/2 connection; clones share it.
    pub channel: Channel,
    /// Deadline of each call.
    pub timeout: Duration,
}

impl Connection {
    /// Connects to one address.
    ///
    /// # Errors
    ///
    /// The reason in plain words, without the address.
    pub async fn to(address: &str, timeout: Duration) -> Result<Self, String> {
        let endpoint = endpoint(address)?.connect_timeout(timeout.min(CONNECT_TIMEOUT_MAX));
        let channel = endpoint.connect().await.map_err(|error| root_cause(&error))?;
        Ok(Self { channel, timeout })
    }

    /// Connects to the first of the addresses that takes the connection.
    ///
    /// # Errors
    ///
    /// Each address with what stood in the way.
    pub async fn to_any(addresses: &[String], timeout: Duration) -> Result<Self, Failure> {
        let mut tried = Vec::new();
        for address in addresses {
            match Self::to(address, timeout).await {
                Ok(connection) => return Ok(connection),
                Err(why) => tried.push(format!("{address}: {why}")),
            }
        }
        let mut message = format!("no host can be reached: {}", tried.join("; "));
        message.push_str("\n  what to do: start a cluster with `telegraft dev`, or name a host with --host ADDR");
        Err(Failure::new(Kind::Unreachable, message))
    }

    /// A request with this connection's deadline.
    pub fn request<T>(&self, message: T) -> Request<T> {
        self.request_within(message, self.timeout)
    }

    /// A request with a deadline of its own.
    pub fn request_within<T>(&self, message: T, timeout: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        request
    }

    /// Writes and reads by payload.
    pub fn telegraft(&self) -> TelegraftClient<Channel> {
        TelegraftClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Modules.
    pub fn modules(&self) -> ModulesClient<Channel> {
        ModulesClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Machines' budgets and past.
    pub fn machines(&self) -> MachinesClient<Channel> {
        MachinesClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// What the host knows of itself.
    ///
    /// # Errors
    ///
    /// The host's status.
    pub async fn status(&self, digest: bool) -> Result<HostStatus, Status> {
        let mut client = ClusterClient::new(self.channel.clone());
        Ok(client.status(self.request(GetStatus { digest })).await?.into_inner())
    }
}

/// The endpoint of `name:port`, with or without `http://`.
///
/// # Errors
///
/// What an address looks like.
pub fn endpoint(address: &str) -> Result<Endpoint, String> {
    let wrong = || format!("{address:?} is not an address: write it as 127.0.0.1:7400");
    let bare = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let (name, port) = bare.rsplit_once(':').ok_or_else(wrong)?;
    if name.is_empty() || port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err(wrong());
    }
    Ok(Endpoint::from_shared(format!("http://{bare}")).map_err(|_| wrong())?.tcp_nodelay(true))
}

/// The innermost cause alone: "Connection refused" says more than "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_name_and_a_port() {
        for address in ["", "localhost", ":7400", "a:0", "a:port", "a b:1"] {
            assert!(endpoint(address).unwrap_err().contains("127.0.0.1:7400"), "{address:?}");
        }
        for address in ["localhost:7400", "http://10.0.0.1:7400/", "[::1]:7400"] {
            assert!(endpoint(address).is_ok(), "{address:?}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_named_with_the_address() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let Err(failure) = Connection::to_any(std::slice::from_ref(&free), Duration::from_secs(1)).await else {
            panic!("somebody answers on {free}");
        };
        assert_eq!(failure.kind, Kind::Unreachable);
        assert!(failure.message.contains(&format!("{free}: connection refused")), "{}", failure.message);
    }
}
