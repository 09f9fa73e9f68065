//! As much of an HTTP/1.1 client as it takes to ask a host for its health and its metrics.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, anyhow};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// An answer to a GET.
#[derive(Clone, Debug)]
pub struct Page {
    /// HTTP status, as 200.
    pub status: u16,
    /// The body; a chunked one keeps its chunk sizes.
    pub body: String,
}

/// Asks for `path`, for at most five seconds.
///
/// # Errors
///
/// Where there is no answer, or none that begins as HTTP does.
pub async fn get(address: SocketAddr, path: &str) -> Result<Page> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(Duration::from_secs(5), exchange).await.context("no answer within 5 s")??;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| anyhow!("not HTTP: {answer:?}"))?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok(Page { status: status.ok_or_else(|| anyhow!("no status in {head:?}"))?, body: body.to_owned() })
}
