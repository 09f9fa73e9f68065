//! Puts flags, variables, file and defaults together, and names every mistake at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::PathBuf,
};

use super::{
    HostAddress, Settings, check,
    keys::{Input, KEYS, Key},
};

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TOML file, if any.
    pub file: Option<PathBuf>,
    /// The process's environment; only names that begin with `TELEGRAFT_` are looked at. An empty value counts as unset.
    pub variables: Vec<(String, String)>,
    /// Key path (as [`Key::path`]) and value of each flag given.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The given file and this process's environment.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
            .filter(|(name, _)| name.starts_with("TELEGRAFT_"))
            .collect();
        Self { file, variables, flags: Vec::new() }
    }
}

/// Where one value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said otherwise.
    Default,
    /// The file.
    File,
    /// The variable of this name.
    Variable(String),
    /// The flag of this name, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("file"),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Checked settings, and where they came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective settings.
    pub settings: Settings,
    /// Origin of each key that is not a default.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What is odd but no mistake: variables that look like a misspelled setting.
    pub warnings: Vec<String>,
}

/// One thing wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Key path, as `raft.tick`; the file's name where the file itself is the trouble.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Everything wrong, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a mistake:")?,
            count => write!(f, "the configuration has {count} mistakes:")?,
        }
        for Mistake { key, message } in &self.0 {
            write!(f, "\n  {key}: {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Reads and checks the settings.
///
/// # Errors
///
/// Every mistake that could be found, each with its key.
pub fn load(sources: &Sources) -> Result<Loaded, Mistakes> {
    let mut mistakes = Vec::new();
    let mut merge = Merge::default();

    if let Some(table) = read_file(sources, &mut mistakes) {
        merge.table(&table, "", &mut mistakes);
    }
    for key in KEYS {
        let variable = key.variable();
        if let Some((_, value)) = sources.variables.iter().find(|(name, value)| *name == variable && !value.is_empty())
        {
            merge.value(key, &Input::Text(value), Origin::Variable(variable), &mut mistakes);
        }
    }
    for (path, value) in &sources.flags {
        match KEYS.iter().find(|key| key.path == path) {
            Some(key) => {
                merge.value(key, &Input::Text(value), Origin::Flag(format!("--{}", key.flag())), &mut mistakes);
            }
            None => mistakes.push(unknown(path)),
        }
    }

    let Merge { mut settings, origins, refused } = merge;
    if !origins.contains_key("hosts") && !refused.contains("hosts") {
        // Nobody named the hosts: a cluster of this one, reachable where it listens.
        settings.hosts = vec![HostAddress {
            id: settings.host_id,
            client: settings.client_listen.to_string(),
            peer: settings.peer_listen.to_string(),
        }];
    }
    // A value that could not be read leaves the default in its place: what is then said about it would mislead.
    mistakes.extend(
        check::check(&settings).into_iter().filter(|found| !found.keys.iter().any(|key| refused.contains(key))).map(
            |found| Mistake {
                key: found.keys.first().copied().unwrap_or("settings").to_owned(),
                message: found.message,
            },
        ),
    );
    if mistakes.is_empty() {
        Ok(Loaded { settings, origins, warnings: odd_variables(&sources.variables) })
    } else {
        Err(Mistakes(mistakes))
    }
}

fn read_file(sources: &Sources, mistakes: &mut Vec<Mistake>) -> Option<toml::Table> {
    let path = sources.file.as_ref()?;
    let mut wrong = |message| {
        mistakes.push(Mistake { key: path.display().to_string(), message });
        None
    };
    match fs::read_to_string(path) {
        Err(error) => wrong(format!("cannot be read: {error}")),
        Ok(text) => match text.parse::<toml::Table>() {
            Ok(table) => Some(table),
            Err(error) => wrong(format!("is not TOML: {}", error.to_string().trim_end().replace('\n', "\n    "))),
        },
    }
}

#[derive(Default)]
struct Merge {
    settings: Settings,
    origins: BTreeMap<&'static str, Origin>,
    /// Keys whose value could not be read.
    refused: BTreeSet<&'static str>,
}

impl Merge {
    fn value(&mut self, key: &'static Key, input: &Input<'_>, origin: Origin, mistakes: &mut Vec<Mistake>) {
        match (key.set)(&mut self.settings, input) {
            Ok(()) => {
                self.origins.insert(key.path, origin);
            }
            Err(message) => {
                self.refused.insert(key.path);
                let message = match origin {
                    Origin::Variable(name) | Origin::Flag(name) => format!("{message} (from {name})"),
                    Origin::Default | Origin::File => message,
                };
                mistakes.push(Mistake { key: key.path.to_owned(), message });
            }
        }
    }

    fn table(&mut self, table: &toml::Table, prefix: &str, mistakes: &mut Vec<Mistake>) {
        for (name, value) in table {
            let path = format!("{prefix}{name}");
            if let Some(key) = KEYS.iter().find(|key| key.path == path) {
                self.value(key, &Input::Toml(value), Origin::File, mistakes);
            } else if is_section(&path) {
                match value {
                    toml::Value::Table(inner) => self.table(inner, &format!("{path}."), mistakes),
                    _ => mistakes.push(Mistake {
                        message: format!("is a section: write [{path}] and its keys below"),
                        key: path,
                    }),
                }
            } else {
                mistakes.push(unknown(&path));
            }
        }
    }
}

/// Whether keys stand below this path.
fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

fn unknown(path: &str) -> Mistake {
    let message = match nearest(path) {
        Some(key) => format!("unknown key; did you mean {key}?"),
        None => "unknown key; `telegraft config` prints all there are".to_owned(),
    };
    Mistake { key: path.to_owned(), message }
}

/// The key or section that the writer may have meant: few letters away, or of the same name in another section.
fn nearest(path: &str) -> Option<&'static str> {
    let name = path.rsplit('.').next().unwrap_or(path);
    let sections = KEYS.iter().filter_map(|key| Some(key.path.split_once('.')?.0));
    KEYS.iter()
        .map(|key| key.path)
        .chain(sections)
        .map(|known| {
            let elsewhere = if known.rsplit('.').next() == Some(name) { 1 } else { usize::MAX };
            (distance(path, known).min(elsewhere), known)
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .map(|(_, known)| known)
}

/// Levenshtein's distance: how many letters must be added, removed or exchanged.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, letter) in from.chars().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        for (cell, other) in row.iter_mut().skip(1).zip(&to) {
            let next = (diagonal + usize::from(letter != *other)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, next);
            left = next;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Variables that are no setting but nearly are. Only a warning: an orchestrator may put `TELEGRAFT_PORT` and the like into
/// the environment by itself.
fn odd_variables(variables: &[(String, String)]) -> Vec<String> {
    variables
        .iter()
        .filter(|(name, _)| KEYS.iter().all(|key| key.variable() != *name))
        .filter_map(|(name, _)| {
            let known = KEYS.iter().map(Key::variable).min_by_key(|known| distance(name, known))?;
            (distance(name, &known) <= 2)
                .then(|| format!("the variable {name} is not a setting; did you mean {known}?"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{io::Write, time::Duration};

    use super::*;

    fn from(text: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, Mistakes> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        load(&Sources { file: Some(file.path().to_owned()), variables: own(variables), flags: own(flags) })
    }

    fn mistakes(text: &str) -> Vec<(String, String)> {
        from(text, &[], &[]).unwrap_err().0.into_iter().map(|mistake| (mistake.key, mistake.message)).collect()
    }

    fn only_mistake(text: &str) -> (String, String) {
        let found = mistakes(text);
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    }

    #[test]
    fn without_sources_the_defaults_hold() {
        let loaded = load(&Sources::default()).unwrap();
        assert_eq!(loaded.settings, Settings::default());
        assert!(loaded.origins.is_empty() && loaded.warnings.is_empty());
    }

    #[test]
    fn a_flag_beats_a_variable_beats_the_file() {
        let file = "[raft]\ntick = \"5ms\"\nheartbeat = \"45ms\"\n[machine]\nfuel = 7";
        let loaded = from(
            file,
            &[("TELEGRAFT_RAFT_TICK", "15ms"), ("TELEGRAFT_RAFT_HEARTBEAT", "60ms"), ("TELEGRAFT_CLUSTER", "")],
            &[("raft.tick", "30ms")],
        )
        .unwrap();
        assert_eq!(loaded.settings.raft.tick, Duration::from_millis(30));
        assert_eq!(loaded.settings.raft.heartbeat, Duration::from_millis(60));
        assert_eq!(loaded.settings.machine.fuel, 7);
        assert_eq!(loaded.settings.cluster, "telegraft", "an empty variable counts as unset");
        assert_eq!(loaded.origins["raft.tick"], Origin::Flag("--raft-tick".into()));
        assert_eq!(loaded.origins["raft.heartbeat"], Origin::Variable("TELEGRAFT_RAFT_HEARTBEAT".into()));
        assert_eq!(loaded.origins["machine.fuel"], Origin::File);
        assert_eq!(loaded.origins.len(), 3);
    }

    #[test]
    fn every_key_can_be_set_from_everywhere() {
        // What the printed settings say is read back, key by key, from a file and as text.
        let whole = toml::Value::try_from(Settings::default()).unwrap();
        for key in KEYS {
            let value = key.path.split('.').try_fold(&whole, |table, name| table.get(name));
            let value = value.unwrap_or_else(|| panic!("{} is not printed", key.path));
            let mut settings = Settings::default();
            assert_eq!((key.set)(&mut settings, &Input::Toml(value)), Ok(()), "{}", key.path);
            let text = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Array(_) => "1=127.0.0.1:7400/127.0.0.1:7401".to_owned(),
                other => other.to_string(),
            };
            assert_eq!((key.set)(&mut settings, &Input::Text(&text)), Ok(()), "{}", key.path);
            assert_eq!(settings, Settings::default(), "{}", key.path);
        }
    }

    #[test]
    fn printed_settings_load_as_what_they_were() {
        let mut settings = Settings::default();
        settings.raft.message_bytes_max = 1_000_001;
        settings.requests.timeout = Duration::from_millis(1500);
        settings.hosts.push(HostAddress { id: 2, client: "b.example:7400".into(), peer: "[::1]:9".into() });
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(from(&text, &[], &[]).unwrap().settings, settings, "{text}");
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let found = mistakes(
            "clutser = \"x\"\nhost_id = \"one\"\nlog = \"sled\"\n[raft]\ntick = 10\npre_vote = \"yes\"\n[telemetry]\nlog_format = \"xml\"\n[machine]\nfuel = -1",
        );
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        for key in ["clutser", "host_id", "log", "raft.tick", "raft.pre_vote", "telemetry.log_format", "machine.fuel"] {
            assert!(keys.contains(&key), "{key} is not named in {found:?}");
        }
        assert_eq!(found.len(), 7, "{found:?}");
    }

    #[test]
    fn an_unknown_key_comes_with_the_nearest() {
        assert_eq!(only_mistake("clutser = \"x\"").1, "unknown key; did you mean cluster?");
        assert_eq!(only_mistake("[raft]\nelection_mim = \"1s\"").1, "unknown key; did you mean raft.election_min?");
        assert_eq!(only_mistake("fuel = 3").1, "unknown key; did you mean machine.fuel?");
        assert_eq!(only_mistake("[telemetri]\nlog_level = \"info\"").1, "unknown key; did you mean telemetry?");
        assert!(only_mistake("zzzzzzzzzz = 1").1.contains("`telegraft config`"));
    }

    #[test]
    fn a_wrong_type_says_what_is_wanted() {
        assert_eq!(only_mistake("[raft]\ntick = 10").1, "needs a unit: write \"10ms\" or \"10s\", in quotes");
        assert_eq!(only_mistake("[raft]\nread = \"fast\"").1, "must be read-index or lease, not \"fast\"");
        assert!(only_mistake("raft = 3").1.contains("[raft]"));
        assert!(only_mistake("hosts = 3").1.contains("[[hosts]]"));
        assert!(only_mistake("[[hosts]]\nid = 1\nclient = \"a:1\"\nport = 3").1.contains("peer is missing"));
        assert!(only_mistake("client_listen = \"localhost\"").1.contains("127.0.0.1:7400"));
    }

    #[test]
    fn a_file_that_is_not_there_or_not_toml_is_said() {
        let missing = load(&Sources { file: Some("/nowhere/host.toml".into()), ..Sources::default() }).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/host.toml: cannot be read"), "{missing}");
        assert!(only_mistake("cluster = ").1.starts_with("is not TOML"));
    }

    #[test]
    fn a_mistake_from_a_variable_or_flag_names_it() {
        let found = from("", &[("TELEGRAFT_MACHINE_ROWS", "many")], &[("raft.tick", "soon")]).unwrap_err().to_string();
        assert!(found.contains("TELEGRAFT_MACHINE_ROWS") && found.contains("--raft-tick"), "{found}");
    }

    #[test]
    fn a_variable_that_is_nearly_a_setting_is_warned_of() {
        let loaded =
            from("", &[("TELEGRAFT_RAFT_TIK", "1ms"), ("TELEGRAFT_PORT", "tcp://10.0.0.1:7400")], &[]).unwrap();
        assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
        assert!(loaded.warnings[0].contains("TELEGRAFT_RAFT_TICK"));
    }

    #[test]
    fn hosts_can_come_as_text() {
        let loaded = from("", &[], &[("hosts", "1=a:1/a:2, 2=b:1/b:2")]).unwrap();
        assert_eq!(loaded.settings.hosts[1], HostAddress { id: 2, client: "b:1".into(), peer: "b:2".into() });
        assert!(from("", &[], &[("hosts", "1=a:1")]).unwrap_err().to_string().contains("ID=CLIENT/PEER"));
    }

    #[test]
    fn unnamed_hosts_are_this_host_where_it_listens() {
        let loaded = from("host_id = 4\nclient_listen = \"127.0.0.1:9000\"", &[], &[]).unwrap();
        assert_eq!(
            loaded.settings.hosts,
            [HostAddress { id: 4, client: "127.0.0.1:9000".into(), peer: "127.0.0.1:7401".into() }]
        );
    }
}
