//! Builds modules written in JavaScript: npm fetches what `package.json` pins, esbuild makes one file of the sources and what
//! they import, and componentize-js puts it into a component with a JavaScript engine, all of whose system interfaces are off.
//!
//! Made are the project's `node_modules`, again where `package.json` or `package-lock.json` differ from what it was made from, and in
//! `.telegraft`: `description.js` with name, version and service, from the manifest and the `.proto`, and `bundle.js`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{BuildError, Manifest, generated::Generated, service, tool, wit_folder};

/// The oldest major version of Node.js that runs componentize-js.
const NODE_MIN: u32 = 20;

const GET_NODE: &str =
    "install Node.js 20 or later with npm: https://nodejs.org, or the distribution's packages nodejs and npm";

const GET_PACKAGES: &str =
    "npm (it must reach a package registry; `npm config set registry` names another than the usual one)";

const AGAIN: &str = "remove the project's folders .telegraft and node_modules, and build again";

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
    made.write("description.js", &description(&manifest.name, version, &service))?;

    say("Bundling the sources");
    let tools = project.join("node_modules").join(".bin");
    let bundle = made.path("bundle.js");
    let mut command = Command::new(tools.join("esbuild"));
    command.arg(project.join("telegraft").join("component.js"));
    command.args(["--bundle", "--format=esm", "--target=es2022", "--log-level=warning", "--external:telegraft:*"]);
    command.arg(format!("--alias:telegraft-module={}", main.display())).arg(format!("--outfile={}", bundle.display()));
    tool::run(&mut command, "esbuild", AGAIN, say)?;

    say("Putting the engine and the module into a component");
    let mut command = Command::new(tools.join("componentize-js"));
    command.arg(&bundle).arg("--wit").arg(wit_folder(project)).args(["--world-name", "state-machine"]);
    // What is not disabled is imported, and hosts offer none of it.
    command.args(["--disable", "stdio", "random", "clocks", "http", "fetch-event", "--out"]).arg(out);
    tool::run(&mut command, "componentize-js", AGAIN, say)
}

/// The manifest's `main`, `module.js` where it has none; absolute, as the bundler wants it.
fn main_of(project: &Path, manifest: &Manifest) -> Result<PathBuf, BuildError> {
    let file = project.join(manifest.main.clone().unwrap_or_else(|| PathBuf::from("module.js")));
    if !file.is_file() {
        let message = "there is no such file; `main` in telegraft.toml names the module's source".to_owned();
        return Err(BuildError::Project { file, message });
    }
    file.canonicalize().map_err(BuildError::at(file))
}

/// Fetches the packages, where what they are fetched by has changed.
fn prepare(project: &Path, made: &Generated, say: &mut dyn FnMut(&str)) -> Result<(), BuildError> {
    let package = project.join("package.json");
    let package = fs::read_to_string(&package).map_err(BuildError::at(package))?;
    // Without it npm chooses, and writes one.
    let lock = || fs::read_to_string(project.join("package-lock.json")).unwrap_or_default();
    let is_there = project.join("node_modules").join(".bin").is_dir();
    if is_there && made.is_made_from("node", &[&package, &lock()]) {
        return Ok(());
    }
    require_node()?;
    say("Fetching the project's packages into node_modules (once; some 100 MB)");
    let mut command = Command::new("npm");
    command.current_dir(project).arg(if lock().is_empty() { "install" } else { "ci" });
    command.args(["--no-audit", "--no-fund", "--loglevel=error"]);
    tool::run(&mut command, GET_PACKAGES, GET_NODE, say)?;
    made.made_from("node", &[&package, &lock()])
}

/// Looks before it is used: an old one fails in the middle, over its own syntax.
fn require_node() -> Result<(), BuildError> {
    let missing =
        |problem: String| BuildError::MissingTool { tool: "Node.js".to_owned(), problem, advice: GET_NODE.to_owned() };
    let printed = Command::new("node").arg("--version").stdin(Stdio::null()).output().map_err(|error| {
        missing(match error.kind() {
            std::io::ErrorKind::NotFound => "it is not installed".to_owned(),
            _ => format!("it cannot be run: {error}"),
        })
    })?;
    let text = String::from_utf8_lossy(&printed.stdout);
    let version = text.trim();
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < NODE_MIN) {
        return Err(missing(format!("it is version {version}")));
    }
    Ok(())
}

/// The generated source.
fn description(name: &str, version: &str, service: &[u8]) -> String {
    // A JSON text is a JavaScript expression.
    let (name, version) = (serde_json::Value::from(name), serde_json::Value::from(version));
    let service = serde_json::Value::from(service);
    format!(
        "// Written by `telegraft module build`, from telegraft.toml and the .proto file.\n\
         export const name = {name};\nexport const version = {version};\nexport const service = new Uint8Array({service});\n"
    )
}
