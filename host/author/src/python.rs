//! Builds modules written in Python: a virtual environment in the project holds componentize-py, which puts CPython, the sources
//! and the packages they import into one component, and stubs what CPython would want of an operating system.
//!
//! All that is made lies in the project's `.telegraft`:
//!
//! | | |
//! |---|---|
//! | `venv/` | for this machine: componentize-py as `requirements-build.txt` pins it, and a Python that runs the native tests |
//! | `guest/lib/site-packages/` | for the component: packages as `requirements.txt` pins them, pure Python |
//! | `generated/telegraft_description.py` | name, version and service, from the manifest and the `.proto` |
//! | `sources/` | a copy of the project, without what tools leave in it |

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{BuildError, Manifest, generated::Generated, service, tool, wit_folder};

/// The oldest Python that runs componentize-py.
const PYTHON_MIN: (u32, u32) = (3, 10);

/// The Python inside the component, for packages that look at it.
const GUEST_PYTHON: &str = "3.14";

const GET_PYTHON: &str = "install Python 3.10 or later with its module venv (on Debian: apt-get install python3 python3-venv), \
                          or name it in the variable TELEGRAFT_PYTHON";

const GET_PACKAGES: &str = "pip (it must reach a package index; PIP_INDEX_URL names another than the usual one)";

/// The packages of the component, in [`Generated`].
const GUEST_PACKAGES: &str = "guest/lib/site-packages";

/// Builds the project's component into the file `out`; what happens is told to `say`, a line at a time.
///
/// # Errors
///
/// A missing tool, or what the tools say of the sources.
pub fn build(project: &Path, manifest: &Manifest, out: &Path, say: &mut dyn FnMut(&str)) -> Result<(), BuildError> {
    let made = Generated::of(project)?;
    let main = main_of(project, manifest)?;
    let service = service::file_descriptor_set(project, manifest)?;
    prepare(project, &made, say)?;
    let version = manifest.version.as_deref().unwrap_or("0.0.0");
    made.write("generated/telegraft_description.py", &description(&manifest.name, version, &main, &service))?;
    made.copy_sources(project, "sources")?;

    say("Putting Python and the module into a component");
    let packages = made.path(GUEST_PACKAGES);
    let compiled = compiled_in(&packages)?;
    componentize(project, &made, out, say)?;
    if compiled_in(&packages)? > compiled {
        // The component holds Python's memory as the imports left it, and compiling packages leaves megabytes of garbage there.
        // They are compiled now, so that the next time they are read alone.
        say("The packages were compiled; putting them into a smaller component (not the next time)");
        componentize(project, &made, out, say)?;
    }
    Ok(())
}

/// Runs componentize-py over what has been made.
fn componentize(project: &Path, made: &Generated, out: &Path, say: &mut dyn FnMut(&str)) -> Result<(), BuildError> {
    let mut command = Command::new(made.path("venv/bin/componentize-py"));
    // Relative to where we are, not to a folder of our choice: `out` and the WIT are as the caller names them.
    command.arg("--wit-path").arg(wit_folder(project));
    command.args(["--world", "state-machine", "--quiet", "componentize", "--stub-wasi"]);
    for folder in ["sources", "generated"] {
        command.arg("--python-path").arg(made.path(folder));
    }
    command.arg("--output").arg(out).arg("telegraft.component");
    // It takes the packages of the environment with this name, and nothing from elsewhere.
    command.env("VIRTUAL_ENV", made.path("guest")).env_remove("PYTHONPATH").env_remove("PYTHONHOME");
    // Its own stack would bury the module's.
    command.env("RUST_BACKTRACE", "0");
    tool::run(&mut command, "componentize-py", "remove the project's folder .telegraft, and build again", say)
}

/// How many sources in a folder Python has compiled.
fn compiled_in(folder: &Path) -> Result<usize, BuildError> {
    let mut compiled = 0;
    for entry in fs::read_dir(folder).map_err(BuildError::at(folder))? {
        let entry = entry.map_err(BuildError::at(folder))?;
        let path = entry.path();
        if entry.file_type().map_err(BuildError::at(&path))?.is_dir() {
            compiled += compiled_in(&path)?;
        } else if path.extension().is_some_and(|ending| ending == "pyc") {
            compiled += 1;
        }
    }
    Ok(compiled)
}

/// The name by which Python imports the manifest's `main`, `module.py` where it has none.
fn main_of(project: &Path, manifest: &Manifest) -> Result<String, BuildError> {
    let main = manifest.main.clone().unwrap_or_else(|| PathBuf::from("module.py"));
    let file = project.join(&main);
    let wrong = |message: &str| BuildError::Project { file: file.clone(), message: message.to_owned() };
    if !file.is_file() {
        return Err(wrong("there is no such file; `main` in telegraft.toml names the module's source"));
    }
    let stem = main.with_extension("");
    let parts: Vec<_> = stem.iter().map(|part| part.to_string_lossy()).filter(|part| part != ".").collect();
    let is_name = |part: &str| {
        !part.starts_with(|first: char| first.is_ascii_digit())
            && part.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
    };
    if main.extension().is_none_or(|ending| ending != "py") || !parts.iter().all(|part| is_name(part)) {
        return Err(wrong("Python imports no file of this name; `main` in telegraft.toml names the module's source"));
    }
    Ok(parts.join("."))
}

/// Makes the environments, where what they are made from has changed.
fn prepare(project: &Path, made: &Generated, say: &mut dyn FnMut(&str)) -> Result<(), BuildError> {
    let requirements = |name: &str| {
        let file = project.join(name);
        fs::read_to_string(&file).map(|text| (file.clone(), text)).map_err(BuildError::at(file))
    };
    let (build_file, build) = requirements("requirements-build.txt")?;
    let (guest_file, guest) = requirements("requirements.txt")?;
    let interpreter = interpreter();
    let texts = [&*interpreter.to_string_lossy(), &build, &guest];
    let python = made.path("venv/bin/python");
    if made.is_made_from("python", &texts) && python.exists() {
        return Ok(());
    }
    require(&interpreter)?;

    say("Making the project's Python environment in .telegraft (once; it fetches some 30 MB)");
    let mut command = Command::new(&interpreter);
    command.args(["-m", "venv", "--clear"]).arg(made.path("venv"));
    tool::run(&mut command, "python -m venv", GET_PYTHON, say)?;
    tool::run(pip(&python).arg("--requirement").arg(build_file), GET_PACKAGES, GET_PYTHON, say)?;
    let packages = made.clear(GUEST_PACKAGES)?;
    fs::create_dir_all(&packages).map_err(BuildError::at(&packages))?;
    let mut command = pip(&python);
    command.args(["--only-binary=:all:", "--implementation=py", "--platform=any", "--python-version", GUEST_PYTHON]);
    command.arg("--target").arg(&packages).arg("--requirement").arg(guest_file);
    tool::run(&mut command, GET_PACKAGES, GET_PYTHON, say)?;

    // So that the native tests find them too.
    let site = site_packages(&python)?.join("telegraft.pth");
    let paths = format!("{}\n{}\n", packages.display(), made.path("generated").display());
    fs::write(&site, paths).map_err(BuildError::at(&site))?;
    made.made_from("python", &texts)
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    command
}

/// The Python that makes the environment.
fn interpreter() -> OsString {
    env::var_os("TELEGRAFT_PYTHON").filter(|name| !name.is_empty()).unwrap_or_else(|| "python3".into())
}

/// Looks before it is used: what Python says of a missing part is easily misread.
fn require(interpreter: &OsString) -> Result<(), BuildError> {
    let missing = |problem: String| BuildError::MissingTool {
        tool: format!("Python ({})", interpreter.to_string_lossy()),
        problem,
        advice: GET_PYTHON.to_owned(),
    };
    let mut command = Command::new(interpreter);
    command.args(["-c", "import sys; print(*sys.version_info[:2]); import venv, ensurepip"]).stdin(Stdio::null());
    let printed = command.output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing("it is not installed".to_owned()),
        _ => missing(format!("it cannot be run: {error}")),
    })?;
    let text = String::from_utf8_lossy(&printed.stdout);
    if text.is_empty() {
        return Err(missing(format!("it does not work: {}", String::from_utf8_lossy(&printed.stderr).trim())));
    }
    let mut numbers = text.split_whitespace().map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < PYTHON_MIN {
        return Err(missing(format!("it is version {}.{}", version.0, version.1)));
    }
    if !printed.status.success() {
        return Err(missing("its module venv is not installed".to_owned()));
    }
    Ok(())
}

/// Where the environment's Python looks for packages.
fn site_packages(python: &Path) -> Result<PathBuf, BuildError> {
    let mut command = Command::new(python);
    command.args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdin(Stdio::null());
    let printed = command.output().map_err(BuildError::at(python))?;
    Ok(PathBuf::from(String::from_utf8_lossy(&printed.stdout).trim()))
}

/// The generated source.
fn description(name: &str, version: &str, main: &str, service: &[u8]) -> String {
    let mut text =
        "\"\"\"Written by `telegraft module build`, from telegraft.toml and the .proto file.\"\"\"\n\n".to_owned();
    for (constant, value) in [("NAME", name), ("VERSION", version), ("MAIN", main)] {
        // A JSON string is a Python string.
        let _ = writeln!(text, "{constant} = {}", serde_json::Value::from(value));
    }
    text.push_str("SERVICE = b\"");
    for byte in service {
        let _ = write!(text, "\\x{byte:02x}");
    }
    text.push_str("\"\n");
    text
}
