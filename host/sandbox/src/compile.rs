//! Compiled modules in memory, and who compiles them at what cost to others: a module of 20 MB takes the compiler ten
//! seconds of both cores, and the entries of those seconds are not to wait for it. So modules are compiled ahead, by threads
//! that the scheduler runs only where nothing else wants the core, and the machine's own thread, which needs a module at
//! its entry, finds it done.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::module::Digest;

/// Modules kept in memory.
const KEPT_MAX: usize = 8;

/// How long a module may be compiled by idle threads before one of usual priority does it too, and for each byte of it: on
/// a host whose cores are never idle it would not come to an end. One MiB takes half a second of a core.
const IDLE_MAX: Duration = Duration::from_millis(300);
const IDLE_MAX_PER_BYTE: Duration = Duration::from_micros(3);

/// How long whoever needs a module now waits for another thread that is compiling it, before it does so itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// The modules that were needed last. `T` is what a module came to: that it can be instantiated, or why not.
pub(crate) struct Modules<T> {
    /// The newest last.
    slots: Mutex<VecDeque<(Digest, Arc<Slot<T>>)>>,
}

impl<T> Default for Modules<T> {
    fn default() -> Self {
        Modules { slots: Mutex::default() }
    }
}

impl<T: Clone> Modules<T> {
    /// The place of a module, made where there is none.
    pub(crate) fn slot(&self, digest: &Digest) -> Arc<Slot<T>> {
        let mut slots = locked(&self.slots);
        let slot = match slots.iter().position(|(d, _)| d == digest).and_then(|i| slots.remove(i)) {
            Some((_, slot)) => slot,
            None => Arc::new(Slot { state: Mutex::new(State::Claimed(0)), changed: Condvar::new() }),
        };
        slots.push_back((*digest, Arc::clone(&slot)));
        if slots.len() > KEPT_MAX
            && let Some(oldest) = slots.iter().take(KEPT_MAX).position(|(_, slot)| !slot.is_claimed())
        {
            slots.remove(oldest);
        }
        slot
    }

    /// Whether some thread is at this module.
    pub(crate) fn is_compiling(&self, digest: &Digest) -> bool {
        let slots = locked(&self.slots);
        slots.iter().any(|(d, slot)| d == digest && slot.is_claimed())
    }
}

/// The place of one module.
pub(crate) struct Slot<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

enum State<T> {
    /// So many threads are at it.
    Claimed(u32),
    Done(T),
}

/// The module, or the task of making it.
pub(crate) enum Turn<T: Clone> {
    Done(T),
    Yours(Claim<T>),
}

impl<T: Clone> Slot<T> {
    /// The task of making the module, where it is not done and no other thread is at it.
    pub(crate) fn claim_if_free(self: &Arc<Self>) -> Option<Claim<T>> {
        let mut state = locked(&self.state);
        matches!(*state, State::Claimed(0)).then(|| {
            *state = State::Claimed(1);
            Claim(Arc::clone(self))
        })
    }

    fn is_claimed(&self) -> bool {
        matches!(*locked(&self.state), State::Claimed(1..))
    }

    /// The module where it is done; where another thread is at it, waits for it so long; then it is the caller's.
    pub(crate) fn claim(self: &Arc<Self>, patience: Duration) -> Turn<T> {
        let since = Instant::now();
        let mut state = locked(&self.state);
        loop {
            match &mut *state {
                State::Done(outcome) => return Turn::Done(outcome.clone()),
                State::Claimed(1..) if since.elapsed() < patience => {
                    let left = patience.saturating_sub(since.elapsed());
                    state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                State::Claimed(threads) => {
                    *threads += 1;
                    return Turn::Yours(Claim(Arc::clone(self)));
                }
            }
        }
    }
}

/// The task of making a module; dropped without, it is given back.
pub(crate) struct Claim<T: Clone>(Arc<Slot<T>>);

impl<T: Clone> Claim<T> {
    /// Says what the module came to. The first who does is the one that counts.
    pub(crate) fn fill(self, outcome: T) -> T {
        let mut state = locked(&self.0.state);
        if let State::Done(first) = &*state {
            return first.clone();
        }
        *state = State::Done(outcome.clone());
        outcome
    }
}

impl<T: Clone> Claim<T> {
    /// What another thread made of the module meanwhile.
    pub(crate) fn made_by_another(&self) -> Option<T> {
        match &*locked(&self.0.state) {
            State::Done(outcome) => Some(outcome.clone()),
            State::Claimed(_) => None,
        }
    }
}

impl<T: Clone> Drop for Claim<T> {
    fn drop(&mut self) {
        let mut state = locked(&self.0.state);
        if let State::Claimed(threads) = &mut *state {
            *threads = threads.saturating_sub(1);
        }
        drop(state);
        self.0.changed.notify_all();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` upon a module of so many bytes, and what it spreads over threads of rayon's, where nothing else wants the
/// core, and waits for it; after [a while](IDLE_MAX) runs it at usual priority too. Gives nothing where it panicked.
pub(crate) fn when_idle<T: Send + 'static>(bytes: usize, work: impl Fn() -> T + Send + Sync + 'static) -> Option<T> {
    let work = Arc::new(work);
    let (to, done) = channel();
    let idle = Arc::clone(&work);
    let started = thread::Builder::new().name("tg-compile".to_owned()).spawn(move || {
        become_idle();
        // Its threads inherit this one's place with the scheduler; the pool that everyone shares has the usual one.
        let pool = rayon::ThreadPoolBuilder::new().thread_name(|n| format!("tg-compile-{n}")).build();
        let made = match pool {
            Ok(pool) => pool.install(|| idle()),
            Err(_) => idle(),
        };
        let _ = to.send(made);
    });
    if started.is_ok() {
        let per_byte = IDLE_MAX_PER_BYTE.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX));
        match done.recv_timeout(IDLE_MAX + per_byte) {
            Ok(made) => return Some(made),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {
                tracing::info!("this host's cores are never idle: a module is now compiled beside other work");
            }
        }
    }
    catch_unwind(AssertUnwindSafe(|| work())).ok()
}

/// Gives up the calling thread's place with the scheduler: from now on it runs where nothing else wants the core, and makes
/// way at once. (A low priority alone does not help: whoever wakes up still waits for the end of the running thread's slice.)
#[cfg(target_os = "linux")]
fn become_idle() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one structure, which is whole and lives on this stack; 0 is the calling thread. It needs no
    // privilege and cannot be taken back without one, so it is made only for threads that end with their work.
    #[allow(unsafe_code, reason = "the scheduler's interface has no safe form in the libraries at hand")]
    let failed = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } != 0;
    if failed {
        tracing::warn!(error = %std::io::Error::last_os_error(), "a module is compiled at usual priority");
    }
}

#[cfg(not(target_os = "linux"))]
fn become_idle() {}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(turn: Turn<u32>) -> Claim<u32> {
        match turn {
            Turn::Yours(claim) => claim,
            Turn::Done(_) => panic!("it is not done"),
        }
    }

    fn done(turn: Turn<u32>) -> u32 {
        match turn {
            Turn::Done(outcome) => outcome,
            Turn::Yours(_) => panic!("it is done"),
        }
    }

    #[test]
    fn a_module_is_made_once_and_others_wait_for_it() {
        let modules = Arc::new(Modules::default());
        let digest = Digest([7; 32]);
        let claim = taken(modules.slot(&digest).claim(PATIENCE));
        assert!(modules.is_compiling(&digest));
        let other = Arc::clone(&modules);
        let waiting = thread::spawn(move || done(other.slot(&digest).claim(Duration::from_secs(60))));
        let _ = claim.fill(1);
        assert_eq!(waiting.join().unwrap(), 1);
        assert!(!modules.is_compiling(&digest));
    }

    #[test]
    fn a_task_that_was_dropped_is_there_for_the_next() {
        let modules = Modules::<u32>::default();
        let digest = Digest([7; 32]);
        drop(taken(modules.slot(&digest).claim(PATIENCE)));
        assert!(!modules.is_compiling(&digest), "nobody is at it");
        let (first, second) =
            (taken(modules.slot(&digest).claim(PATIENCE)), modules.slot(&digest).claim(Duration::ZERO));
        drop(first);
        assert!(modules.is_compiling(&digest), "the other is still at it");
        drop(second);
        let again = modules.slot(&digest).claim_if_free();
        assert!(again.is_some());
        assert!(modules.slot(&digest).claim_if_free().is_none(), "another is at it");
    }

    #[test]
    fn who_has_waited_long_enough_makes_it_too_and_the_first_counts() {
        let modules = Modules::default();
        let digest = Digest([7; 32]);
        let slow = taken(modules.slot(&digest).claim(PATIENCE));
        let urgent = taken(modules.slot(&digest).claim(Duration::ZERO));
        assert_eq!(urgent.fill(1), 1);
        assert!(!modules.is_compiling(&digest));
        assert_eq!(slow.fill(2), 1);
        assert_eq!(done(modules.slot(&digest).claim(PATIENCE)), 1);
    }

    #[test]
    fn work_on_idle_threads_comes_to_its_end_and_a_panic_does_not_spread() {
        assert_eq!(when_idle(1, || rayon::join(|| 1, || 2)), Some((1, 2)));
        assert_eq!(when_idle(1, || -> u32 { panic!("as a compiler with a defect would") }), None);
    }

    #[test]
    fn a_module_that_is_being_made_is_not_forgotten_for_others() {
        let modules = Modules::<u32>::default();
        let first = modules.slot(&Digest([0; 32])).claim_if_free();
        for other in 1..=2 * u8::try_from(KEPT_MAX).unwrap() {
            let _ = taken(modules.slot(&Digest([other; 32])).claim(PATIENCE)).fill(0);
        }
        assert!(modules.is_compiling(&Digest([0; 32])));
        drop(first);
        assert_eq!(locked(&modules.slots).len(), KEPT_MAX);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_that_compile_make_way_for_all_others() {
        // The policy of the thread that asks, as the kernel tells it: field 41 of its stat (proc(5)).
        fn policy() -> String {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            stat.rsplit(')').next().unwrap().split_whitespace().nth(38).unwrap().to_owned()
        }
        let idle = libc::SCHED_IDLE.to_string();
        let seen = when_idle(1, || rayon::broadcast(|_| policy())).unwrap();
        assert!(!seen.is_empty() && seen.iter().all(|policy| *policy == idle), "{seen:?}");
        assert_ne!(policy(), idle, "the caller keeps its place");
    }
}
