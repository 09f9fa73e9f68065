//! A scenario as it is run: steps with calls, expectations and events, read from a file and checked.

use std::{collections::BTreeMap, path::Path, time::Duration};

use bytes::Bytes;
use serde_json::Value;
use telegraft_node::ports::{Code, Rejection};

use crate::{
    event::{Chaos, Event, Host},
    failure::{Failure, code_name},
    file,
    matching::difference,
    service::Module,
};

/// A test of a module. See the crate's head for what a file may say.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The file's name, for messages.
    pub(crate) name: String,
    pub(crate) hosts: u64,
    pub(crate) reuse: bool,
    pub(crate) chaos: Chaos,
    pub(crate) module: Module,
    /// Those to upgrade to, by their names in the file.
    pub(crate) modules: BTreeMap<String, Module>,
    pub(crate) steps: Vec<Step>,
}

/// One step: what its branches do at the same time. The next begins when all of them are done.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub branches: Vec<Branch>,
}

/// What some clients do, each for itself, one thing after the other.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    /// How many clients.
    pub clients: u64,
    /// How often each.
    pub times: u64,
    /// How long after the step's beginning.
    pub after: Option<Duration>,
    pub actions: Vec<Action>,
}

impl Branch {
    /// Whether what it saves can be used afterwards: one client does it once.
    pub fn is_single(&self) -> bool {
        self.clients == 1 && self.times == 1
    }
}

/// One thing to do, and the line of the file that says so.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    pub line: usize,
    pub what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Call(Box<Asking>),
    Event(Event),
    Upgrade { module: String, expect: Expect },
    Wait(Duration),
}

/// A call or a read.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    pub method: String,
    pub request: Value,
    /// A read of what this host has; repeated until it is as expected.
    pub local: Option<Host>,
    pub expect: Expect,
    /// Variables and the paths in the reply that they are taken from.
    pub save: BTreeMap<String, String>,
}

/// What is to come of a call.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// A reply; with these fields, where any are named.
    Reply(Option<Value>),
    /// A rejection.
    Rejection { code: Option<Code>, message: Option<String> },
    /// A reply, or a rejection with one of these codes.
    ReplyOr(Vec<Code>, Option<Value>),
}

impl Expect {
    /// Why an answer is not as expected: what is wrong, what was expected, what came.
    pub fn judge(&self, answer: &Result<Value, Rejection>) -> Result<(), (String, String, String)> {
        let shown = match answer {
            Ok(reply) => reply.to_string(),
            Err(rejection) => format!("{}: {}", code_name(rejection.code), rejection.message),
        };
        match (self, answer) {
            (Expect::Reply(None) | Expect::ReplyOr(_, None), Ok(_)) => Ok(()),
            (Expect::Reply(Some(expected)) | Expect::ReplyOr(_, Some(expected)), Ok(reply)) => {
                match difference(expected, reply) {
                    None => Ok(()),
                    Some(what) => Err((what, expected.to_string(), shown)),
                }
            }
            (Expect::ReplyOr(codes, _), Err(rejection)) if codes.contains(&rejection.code) => Ok(()),
            (Expect::Reply(expected) | Expect::ReplyOr(_, expected), Err(_)) => {
                let expected = expected.as_ref().map_or_else(|| "a reply".to_owned(), Value::to_string);
                Err(("it was refused".to_owned(), expected, shown))
            }
            (Expect::Rejection { code, message }, answer) => {
                let code = code.map_or("any code", code_name);
                let message = message.as_deref().unwrap_or_default();
                let expected = if message.is_empty() { code.to_owned() } else { format!("{code}: …{message}…") };
                match answer {
                    Ok(_) => Err(("it was not refused".to_owned(), expected, shown)),
                    Err(rejection) => {
                        let fits = (code == "any code" || code == code_name(rejection.code))
                            && rejection.message.contains(message);
                        if fits { Ok(()) } else { Err(("it was refused otherwise".to_owned(), expected, shown)) }
                    }
                }
            }
        }
    }
}

/// A file that is no scenario: where it is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}", .line.map_or_else(String::new, |line| format!(":{line}")))]
pub struct Mistake {
    /// The file.
    pub file: String,
    /// The line, from 1, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Scenario {
    /// Reads a scenario for a module. Modules to upgrade to are files beside it.
    ///
    /// # Errors
    /// What is wrong in the file, by its line; modules that are none.
    pub fn from_file(path: impl AsRef<Path>, module: &Module) -> Result<Self, Mistake> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let wrong = |message: String| Mistake { file: name.clone(), line: None, message };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        file::read(&name, &text, module.clone(), &|file| {
            let path = folder.join(file);
            std::fs::read(&path).map(Bytes::from).map_err(|error| format!("{} cannot be read: {error}", path.display()))
        })
    }

    /// As [`Scenario::from_file`], of a text and modules at hand; `modules` gives the bytes of a file that the text names.
    ///
    /// # Errors
    /// As there.
    pub fn from_text(
        name: &str,
        text: &str,
        module: &Module,
        modules: &dyn Fn(&str) -> Result<Bytes, String>,
    ) -> Result<Self, Mistake> {
        file::read(name, text, module.clone(), modules)
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Why a step went wrong, in the terms of the file.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// The line, from 1; `None` where it is no step's doing.
    pub line: Option<usize>,
    /// The step, in words.
    pub step: String,
    /// What is wrong.
    pub what: String,
    /// What was expected, where something was.
    pub expected: Option<String>,
    /// What came instead.
    pub actual: Option<String>,
    /// The file is wrong and not the module: a request that cannot be built.
    pub mistake: bool,
}

impl Wrong {
    pub(crate) fn of(line: Option<usize>, step: &str, failure: &Failure) -> Self {
        let mistake = matches!(failure, Failure::BadCall(_));
        Wrong { line, step: step.to_owned(), what: failure.to_string(), expected: None, actual: None, mistake }
    }
}
