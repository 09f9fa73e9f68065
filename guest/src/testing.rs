//! A machine for a module's tests: natively, over SQLite in memory, entry by entry as a host would.

use std::{marker::PhantomData, time::Duration};

use prost::Message;

use crate::{Command, Context, Downgrade, Failure, MemoryStore, Module, Query, random::mix};

/// 2023-11-14 22:13:20 UTC.
const START_US: u64 = 1_700_000_000_000_000;
/// Between an entry and the next, where a test does not say otherwise.
const STEP_US: u64 = 1_000;

/// A machine with a module: it counts entries, lets time go by, makes entropy, undoes what a refused command wrote, and
/// refuses writes in queries. Two machines that are asked the same answer the same.
///
/// ```
/// use telegraft_guest::{Context, Failure, FailureCode, Module, Store, TestMachine, answer, unknown_method};
///
/// /// Counts; the messages are protobuf's plain `UInt64Value`. With a service of its own, a module is made by
/// /// `telegraft_guest::module!` and needs none of the plumbing.
/// struct Counter;
///
/// impl Module for Counter {
///     const NAME: &'static str = "counter";
///     const VERSION: &'static str = "1.0.0";
///     const SCHEMA: u32 = 1;
///     const SERVICE: &'static [u8] = &[];
///
///     fn init(store: &dyn Store, _: &Context, _: Option<u32>) -> Result<(), Failure> {
///         store.execute("CREATE TABLE count (n INTEGER NOT NULL) STRICT", &[])?;
///         store.execute("INSERT INTO count VALUES (0)", &[])?;
///         Ok(())
///     }
///
///     fn apply(store: &dyn Store, _: &Context, method: &str, command: &[u8]) -> Result<Vec<u8>, Failure> {
///         match method {
///             "count.v1.Counter/Add" => answer(command, |more: u64| {
///                 store.execute("UPDATE count SET n = n + ?1", &[more.into()])?;
///                 if more == 0 {
///                     return Err(Failure::invalid_argument("nothing to add"));
///                 }
///                 Ok(more)
///             }),
///             _ => Err(unknown_method(Self::NAME, "commands", method)),
///         }
///     }
///
///     fn query(store: &dyn Store, _: &Context, method: &str, request: &[u8]) -> Result<Vec<u8>, Failure> {
///         match method {
///             "count.v1.Counter/Get" => answer(request, |(): ()| {
///                 Ok(store.first::<(u64,)>("SELECT n FROM count", &[])?.map_or(0, |(n,)| n))
///             }),
///             _ => Err(unknown_method(Self::NAME, "queries", method)),
///         }
///     }
/// }
///
/// let mut machine = TestMachine::<Counter>::new();
/// let added: u64 = machine.apply("count.v1.Counter/Add", &5_u64)?;
/// assert_eq!(added, 5);
/// let refused = machine.apply::<u64>("count.v1.Counter/Add", &0_u64).unwrap_err();
/// assert_eq!(refused.code, FailureCode::InvalidArgument);
/// assert_eq!(machine.query::<u64>("count.v1.Counter/Get", &())?, 5);
/// # Ok::<(), Failure>(())
/// ```
pub struct TestMachine<M> {
    store: MemoryStore,
    /// The newest entry.
    context: Context,
    /// The next entry's time.
    next_us: u64,
    module: PhantomData<M>,
}

impl<M: Module> TestMachine<M> {
    /// A machine with the module's tables. The activation is entry 1.
    ///
    /// # Panics
    ///
    /// Where the module refuses an empty store: there is nothing to test then.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        let store = match MemoryStore::open() {
            Ok(store) => store,
            Err(error) => panic!("no store in memory: {error:?}"),
        };
        let context = Context { index: 0, time_us: START_US, entropy: (0, 0) };
        let mut machine = Self { store, context, next_us: START_US, module: PhantomData };
        if let Err(failure) = machine.entry(|store, context| M::init(store, context, None)) {
            panic!("the module {} does not begin on an empty store: {failure:?}", M::NAME);
        }
        machine
    }

    /// Applies a command, named as clients name it ("poll.v1.Polls/Vote"), through the module's own dispatch and encoding.
    ///
    /// # Errors
    ///
    /// What the module says, and INTERNAL for a reply that is no `Reply`.
    pub fn apply<Reply: Message + Default>(&mut self, method: &str, request: &impl Message) -> Result<Reply, Failure> {
        decode(method, &self.apply_bytes(method, &request.encode_to_vec())?)
    }

    /// As [`TestMachine::apply`], with bytes that may be no message at all.
    ///
    /// # Errors
    ///
    /// What the module says.
    pub fn apply_bytes(&mut self, method: &str, request: &[u8]) -> Result<Vec<u8>, Failure> {
        self.entry(|store, context| M::apply(store, context, method, request))
    }

    /// Asks a query, named as clients name it.
    ///
    /// # Errors
    ///
    /// What the module says, and INTERNAL for a reply that is no `Reply`.
    pub fn query<Reply: Message + Default>(&self, method: &str, request: &impl Message) -> Result<Reply, Failure> {
        decode(method, &self.query_bytes(method, &request.encode_to_vec())?)
    }

    /// As [`TestMachine::query`], with bytes that may be no message at all.
    ///
    /// # Errors
    ///
    /// What the module says.
    pub fn query_bytes(&self, method: &str, request: &[u8]) -> Result<Vec<u8>, Failure> {
        self.store.begin(&self.context);
        self.store.read(|store| M::query(store, &self.context, method, request))
    }

    /// Runs one method as a command of its own: `machine.command(|cx| Poll::vote(cx, request))`.
    ///
    /// # Errors
    ///
    /// What it says.
    pub fn command<T>(&mut self, run: impl FnOnce(&Command<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        self.entry(|store, context| run(&Command::new(store, context)))
    }

    /// Runs one method as a query of its own: `machine.read(|cx| Poll::get_poll(cx, request))`. Also the way to look into the
    /// tables.
    ///
    /// # Errors
    ///
    /// What it says.
    pub fn read<T>(&self, run: impl FnOnce(&Query<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        self.store.begin(&self.context);
        self.store.read(|store| run(&Query::new(store, &self.context)))
    }

    /// Puts a newer version of the module in place, as an activation does.
    ///
    /// # Errors
    ///
    /// What its `init` says; the machine is lost then (on a host it would go on with the old version).
    pub fn upgrade<Newer: Module>(self) -> Result<TestMachine<Newer>, Failure> {
        let mut machine = self.with_module::<Newer>();
        if Newer::SCHEMA != M::SCHEMA {
            machine.entry(|store, context| Newer::init(store, context, Some(M::SCHEMA)))?;
        }
        Ok(machine)
    }

    /// Puts an older version of the module in place, as a rollback does.
    ///
    /// # Errors
    ///
    /// What the newer one's `downgrade` says; the machine is lost then.
    pub fn downgrade<Older: Module>(mut self) -> Result<TestMachine<Older>, Failure>
    where
        M: Downgrade,
    {
        if Older::SCHEMA != M::SCHEMA {
            self.entry(|store, context| M::downgrade(store, context, Older::SCHEMA))?;
        }
        Ok(self.with_module())
    }

    /// Lets time go by before the next entry.
    pub fn advance(&mut self, time: Duration) {
        self.next_us = self.next_us.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// The newest entry: its index, time and entropy.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The tables.
    #[must_use]
    pub fn store(&self) -> &MemoryStore {
        &self.store
    }

    fn entry<T>(&mut self, run: impl FnOnce(&dyn crate::Store, &Context) -> Result<T, Failure>) -> Result<T, Failure> {
        let index = self.context.index + 1;
        // Neighbours share no pattern, as on a cluster.
        self.context = Context { index, time_us: self.next_us, entropy: (mix(index), mix(!index)) };
        self.next_us = self.next_us.saturating_add(STEP_US);
        self.store.begin(&self.context);
        self.store.entry(|store| run(store, &self.context))
    }

    fn with_module<Other>(self) -> TestMachine<Other> {
        let Self { store, context, next_us, module: PhantomData } = self;
        TestMachine { store, context, next_us, module: PhantomData }
    }
}

impl<M: Module> Default for TestMachine<M> {
    fn default() -> Self {
        Self::new()
    }
}

fn decode<Reply: Message + Default>(method: &str, reply: &[u8]) -> Result<Reply, Failure> {
    Reply::decode(reply)
        .map_err(|error| Failure::internal(format!("the reply of {method} is another message: {error}")))
}
