//! Which of the known operations are placed in the order and which are open, and what may come next.

use super::Moment;

/// The calls and returns of the known operations that are not placed yet, in the order of time: a doubly linked list
/// over their indices. Entry `i` is the call of operation `i`, entry `n + i` its return, entry `2n` the end.
pub(super) struct OpenList {
    next: Vec<u32>,
    prev: Vec<u32>,
}

impl OpenList {
    pub(super) fn new(calls: &[Moment], returns: &[Moment]) -> Self {
        let n = calls.len();
        let end = 2 * n;
        let mut entries: Vec<usize> = (0..end).collect();
        // A call comes before a return of the same moment: neither precedes the other, so they are concurrent.
        entries.sort_by_key(|&entry| if entry < n { (calls[entry], false) } else { (returns[entry - n], true) });
        let mut list = Self { next: vec![0; end + 1], prev: vec![0; end + 1] };
        let mut last = end;
        for entry in entries.into_iter().chain([end]) {
            list.next[last] = entry as u32;
            list.prev[entry] = last as u32;
            last = entry;
        }
        list
    }

    fn len(&self) -> usize {
        self.next.len() / 2
    }

    pub(super) fn first(&self) -> usize {
        self.after(self.next.len() - 1)
    }

    pub(super) fn after(&self, entry: usize) -> usize {
        self.next[entry] as usize
    }

    /// The operation whose call this is.
    pub(super) fn call(&self, entry: usize) -> Option<usize> {
        (entry < self.len()).then_some(entry)
    }

    /// The operations that may come next: those called before the first return.
    pub(super) fn calls(&self) -> impl Iterator<Item = usize> {
        let mut entry = self.first();
        std::iter::from_fn(move || {
            let index = self.call(entry)?;
            entry = self.after(entry);
            Some(index)
        })
    }

    /// The operation that returns first.
    pub(super) fn first_return(&self) -> Option<usize> {
        let mut entry = self.first();
        while entry < self.len() {
            entry = self.after(entry);
        }
        (entry < 2 * self.len()).then(|| entry - self.len())
    }

    pub(super) fn is_return_of(&self, entry: usize, index: usize) -> bool {
        entry == self.len() + index
    }

    pub(super) fn lift(&mut self, index: usize) {
        self.unlink(index);
        self.unlink(self.len() + index);
    }

    /// Undoes the last lift that is not undone.
    pub(super) fn unlift(&mut self, index: usize) {
        self.relink(self.len() + index);
        self.relink(index);
    }

    fn unlink(&mut self, entry: usize) {
        let (prev, next) = (self.prev[entry], self.next[entry]);
        self.next[prev as usize] = next;
        self.prev[next as usize] = prev;
    }

    fn relink(&mut self, entry: usize) {
        let (prev, next) = (self.prev[entry], self.next[entry]);
        self.next[prev as usize] = entry as u32;
        self.prev[next as usize] = entry as u32;
    }
}

/// The set of known operations that are placed. They are numbered by their calls, so that all before `first_open` are
/// in it and none from `top` on: a short piece of bits between tells the set.
pub(super) struct PlacedSet {
    bits: Vec<u64>,
    pub(super) len: usize,
    pub(super) first_open: usize,
    pub(super) top: usize,
}

impl PlacedSet {
    pub(super) fn new(operations: usize) -> Self {
        Self { bits: vec![0; operations / 64 + 1], len: 0, first_open: 0, top: 0 }
    }

    fn contains(&self, index: usize) -> bool {
        self.bits[index / 64] & (1 << (index % 64)) != 0
    }

    pub(super) fn insert(&mut self, index: usize) {
        self.bits[index / 64] |= 1 << (index % 64);
        self.len += 1;
        self.top = self.top.max(index + 1);
        while self.first_open < self.top && self.contains(self.first_open) {
            self.first_open += 1;
        }
    }

    /// Takes one out; whoever undoes sets `first_open` and `top` back.
    pub(super) fn remove(&mut self, index: usize) {
        self.bits[index / 64] &= !(1 << (index % 64));
        self.len -= 1;
    }

    pub(super) fn key(&self) -> Box<[u64]> {
        let start = self.first_open / 64;
        let end = self.top.div_ceil(64).max(start);
        std::iter::once(start as u64).chain(self.bits[start..end].iter().copied()).collect()
    }
}
