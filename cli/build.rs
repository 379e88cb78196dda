//! Packs what `tidemill new` unpacks: the SDK and the WIT contract, as they are
//! in this workspace, into a list of files that the command carries.
//!
//! The SDK inherits versions from the workspace; in a new project it stands
//! alone, so its `Cargo.toml` is written out with the real ones.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let root = here.parent().ok_or("the workspace's root")?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let workspace: Table = fs::read_to_string(root.join("Cargo.toml"))?.parse()?;
    let sdk: Table = fs::read_to_string(root.join("sdk/Cargo.toml"))?.parse()?;
    let workspace = table(&workspace, "workspace")?;
    let alone = stand_alone(sdk, workspace)?;
    fs::write(out.join("sdk.toml"), toml::to_string(&alone)?)?;

    let mut files = vec![("sdk/Cargo.toml".to_owned(), out.join("sdk.toml"))];
    collect(root, Path::new("sdk/src"), &mut files)?;
    collect(root, Path::new("wit"), &mut files)?;
    files.sort();

    let mut source = String::from("pub(crate) static FILES: &[(&str, &str)] = &[\n");
    for (name, path) in &files {
        let path = path.to_str().ok_or("a path that is UTF-8")?;
        writeln!(source, "    ({name:?}, include_str!({path:?})),")?;
    }
    source.push_str("];\n\npub(crate) static VERSIONS: &[(&str, &str)] = &[\n");
    for (name, dependency) in table(workspace, "dependencies")? {
        if let Some(version) = version(dependency) {
            writeln!(source, "    ({name:?}, {version:?}),")?;
        }
    }
    source.push_str("];\n");
    fs::write(out.join("bundle.rs"), source)?;

    for path in ["Cargo.toml", "sdk/Cargo.toml", "sdk/src", "wit"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    Ok(())
}

/// All files below a folder, by their path from the root.
fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, files)?;
        } else {
            let name = path.to_str().ok_or("a path that is UTF-8")?;
            files.push((name.replace('\\', "/"), entry.path()));
        }
    }
    Ok(())
}

/// The package with what it takes from the workspace written out.
fn stand_alone(mut package: Table, workspace: &Table) -> Result<Table> {
    package.remove("lints");
    package.remove("dev-dependencies");
    let inherited = table(workspace, "package")?;
    if let Some(Value::Table(fields)) = package.get_mut("package") {
        for (name, value) in fields.iter_mut() {
            if is_inherited(value) {
                *value = inherited.get(name).ok_or("a field to inherit")?.clone();
            }
        }
    }
    let versions = table(workspace, "dependencies")?;
    write_out(&mut package, versions)?;
    if let Some(Value::Table(targets)) = package.get_mut("target") {
        for (_, target) in targets.iter_mut() {
            if let Value::Table(target) = target {
                write_out(target, versions)?;
            }
        }
    }
    Ok(package)
}

/// Writes out the dependencies of a package, or of one of its targets.
fn write_out(package: &mut Table, versions: &Table) -> Result<()> {
    if let Some(Value::Table(dependencies)) = package.get_mut("dependencies") {
        for (name, dependency) in dependencies.iter_mut() {
            if is_inherited(dependency) {
                let base = versions.get(name).ok_or("a dependency to inherit")?;
                *dependency = merged(base, dependency);
            }
        }
    }
    Ok(())
}

/// A workspace's dependency with a member's features added.
fn merged(base: &Value, member: &Value) -> Value {
    let mut merged = match base {
        Value::Table(base) => base.clone(),
        version => Table::from_iter([("version".to_owned(), version.clone())]),
    };
    let features = |value: &Value| {
        value
            .get("features")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut all = features(base);
    all.extend(features(member));
    if !all.is_empty() {
        merged.insert("features".to_owned(), Value::Array(all));
    }
    if let Some(optional) = member.get("optional") {
        merged.insert("optional".to_owned(), optional.clone());
    }
    Value::Table(merged)
}

fn is_inherited(value: &Value) -> bool {
    value.get("workspace").and_then(Value::as_bool) == Some(true)
}

fn version(dependency: &Value) -> Option<&str> {
    dependency
        .as_str()
        .or_else(|| dependency.get("version")?.as_str())
}

fn table<'t>(parent: &'t Table, key: &str) -> Result<&'t Table> {
    parent
        .get(key)
        .and_then(Value::as_table)
        .ok_or_else(|| format!("a table called {key}").into())
}
