//! A plain machine's state as bytes.
//!
//! `TGPLAIN1`, then integers as little-endian u64 and byte strings with their length before them: applied index; number
//! of pairs, and each as key, version, value; number of remembered answers, and each as index, client, request, hash of
//! the call, status code (0 for a reply), reply or message; at last the state's digest.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use telegraft_node::ports::{Code, Outcome, Rejection};

use super::{Pair, Remembered, State, parts};

const MAGIC: &[u8] = b"TGPLAIN1";

impl State {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64 * (1 + self.pairs.len() + self.remembered.len()));
        out.put_slice(MAGIC);
        out.put_u64_le(self.applied);
        out.put_u64_le(self.pairs.len() as u64);
        for (key, pair) in &self.pairs {
            put_bytes(&mut out, key.as_bytes());
            out.put_u64_le(pair.version);
            put_bytes(&mut out, &pair.value);
        }
        out.put_u64_le(self.remembered.len() as u64);
        for r in &self.remembered {
            out.put_u64_le(r.at);
            put_bytes(&mut out, r.client.as_bytes());
            out.put_u64_le(r.request);
            out.put_u64_le(r.call);
            let (code, text) = parts(&r.outcome);
            out.put_u64_le(code);
            put_bytes(&mut out, text);
        }
        out.put_u64_le(self.digest);
        out.into()
    }

    /// None where the bytes are no state, or not the one whose digest they carry.
    pub(super) fn decode(data: &Bytes) -> Option<State> {
        let mut data = data.clone();
        let mut state = State::default();
        if data.try_get_u64().ok()?.to_be_bytes() != MAGIC {
            return None;
        }
        state.applied = data.try_get_u64_le().ok()?;
        for _ in 0..data.try_get_u64_le().ok()? {
            let key = get_text(&mut data)?;
            let version = data.try_get_u64_le().ok()?;
            let pair = Pair::new(&key, version, get_bytes(&mut data)?);
            state.digest = state.digest.wrapping_add(pair.hash);
            state.pairs.insert(key, pair);
        }
        for _ in 0..data.try_get_u64_le().ok()? {
            let at = data.try_get_u64_le().ok()?;
            let client: Arc<str> = Arc::from(get_text(&mut data)?);
            let request = data.try_get_u64_le().ok()?;
            let call = data.try_get_u64_le().ok()?;
            let remembered = Remembered::new(at, Arc::clone(&client), request, call, get_outcome(&mut data)?);
            state.digest = state.digest.wrapping_add(remembered.hash);
            state.remembered.push_back(remembered);
            state.by_request.insert((client, request), at);
        }
        let digest = data.try_get_u64_le().ok()?;
        (data.is_empty() && digest == state.digest).then_some(state)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u64_le(bytes.len() as u64);
    out.put_slice(bytes);
}

fn get_bytes(data: &mut Bytes) -> Option<Bytes> {
    let len = usize::try_from(data.try_get_u64_le().ok()?).ok()?;
    // A copy, so that one small value does not keep a whole snapshot in memory.
    (len <= data.len()).then(|| Bytes::copy_from_slice(&data.split_to(len)))
}

fn get_text(data: &mut Bytes) -> Option<String> {
    String::from_utf8(get_bytes(data)?.into()).ok()
}

fn get_outcome(data: &mut Bytes) -> Option<Outcome> {
    let code = data.try_get_u64_le().ok()?;
    let text = get_bytes(data)?;
    if code == 0 {
        return Some(Ok(text));
    }
    // Those that a plain machine gives.
    let codes = [Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition, Code::Unimplemented];
    let code = codes.into_iter().find(|known| *known as u64 == code)?;
    Some(Err(Rejection { code, message: String::from_utf8(text.into()).ok()? }))
}
