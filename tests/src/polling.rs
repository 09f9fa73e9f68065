//! Waiting for something to become true, with a deadline. Nothing in the tests sleeps and hopes.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How long a cluster gets for what it should do in well under a second. Generous, because a busy two-core machine is slow
/// at times; a test that is about speed states its own bound.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two looks.
pub const INTERVAL: Duration = Duration::from_millis(20);

/// Tries `attempt` until it succeeds or `within` is over. An attempt's error says what was missing.
///
/// # Errors
///
/// The last attempt's error, under a message that names `what` was waited for.
pub async fn until<T>(what: &str, within: Duration, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        let missing = match attempt().await {
            Ok(value) => return Ok(value),
            Err(missing) => missing,
        };
        if begun.elapsed() >= within {
            return Err(anyhow!("{what}: not within {within:?}: {missing:#}"));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
