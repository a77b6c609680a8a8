//! What kubectl and helm make of `deploy/kubernetes` and `deploy/helm`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The objects of one overlay, or of the chart with one file of values.
pub struct Rendered {
    /// Its path from the root of the repository.
    pub name: String,
    pub objects: Vec<Value>,
}

/// A pod, as it is or as the template of a Deployment.
pub struct Pod<'r> {
    pub labels: BTreeMap<String, String>,
    pub spec: &'r Value,
}

impl Rendered {
    /// Every overlay, and the chart with every file of values.
    pub fn all() -> Vec<Self> {
        let overlays = entries("deploy/kubernetes/overlays");
        let values = entries("deploy/helm/tidegate/ci");
        assert!(overlays.len() >= 4 && values.len() >= 4, "they are there");
        let overlays = overlays.into_iter().map(|name| {
            let out = run("kubectl", &["kustomize", &name]);
            Self::read(name, &out)
        });
        let charts = values.into_iter().map(|name| {
            let out = helm(&["-f", &name]);
            Self::read(name, &out)
        });
        overlays.chain(charts).collect()
    }

    /// The chart with these arguments.
    pub fn chart(arguments: &[&str]) -> Self {
        Self::read(arguments.join(" "), &helm(arguments))
    }

    fn read(name: String, out: &Output) -> Self {
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{name}: {said}");
        let objects = from_yaml(&out.stdout);
        Self { name, objects }
    }

    /// The objects of one kind.
    pub fn kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let kind = kind.to_owned();
        self.objects.iter().filter(move |o| o["kind"] == *kind)
    }

    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.kind(kind).find(|o| o["metadata"]["name"] == *name)
    }

    /// The gate's own: the one pod of its Deployment.
    pub fn gate(&self) -> Pod<'_> {
        let mut deployments = self.kind("Deployment");
        let deployment = deployments.next().expect("a Deployment");
        assert!(deployments.next().is_none(), "{}: one gate", self.name);
        Pod::of(&deployment["spec"]["template"])
    }

    /// The gate's, and that of the chart's test.
    pub fn pods(&self) -> Vec<Pod<'_>> {
        let tests = self.kind("Pod").map(Pod::of);
        std::iter::once(self.gate()).chain(tests).collect()
    }
}

impl<'r> Pod<'r> {
    fn of(object: &'r Value) -> Self {
        Self {
            labels: words(&object["metadata"]["labels"]),
            spec: &object["spec"],
        }
    }

    pub fn containers(&self) -> impl Iterator<Item = &'r Value> {
        let lists = [&self.spec["initContainers"], &self.spec["containers"]];
        lists.into_iter().filter_map(Value::as_array).flatten()
    }

    /// The container that runs tidegate.
    pub fn tidegate(&self) -> &'r Value {
        &self.spec["containers"][0]
    }

    /// A volume, by its name.
    pub fn volume(&self, name: &str) -> &'r Value {
        let volumes = self.spec["volumes"].as_array().expect("volumes");
        let found = volumes.iter().find(|volume| volume["name"] == *name);
        found.unwrap_or_else(|| panic!("there is no volume {name}"))
    }
}

/// A table of texts; nothing is an empty one.
pub fn words(value: &Value) -> BTreeMap<String, String> {
    let Some(fields) = value.as_object() else {
        return BTreeMap::new();
    };
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    fields.iter().map(|(k, v)| (k.clone(), text(v))).collect()
}

/// Whether these labels are what a selector asks for.
pub fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let wanted = words(selector);
    !wanted.is_empty() && wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// `helm template` of the chart as the release `mqtt`, with these arguments.
pub fn helm(arguments: &[&str]) -> Output {
    let chart = ["template", "mqtt", "deploy/helm/tidegate", "-n", "mqtt"];
    run("helm", &[&chart, arguments].concat())
}

/// The files or folders of a folder, by their paths from the root of the repository.
fn entries(folder: &str) -> Vec<String> {
    let found = std::fs::read_dir(root().join(folder)).expect("a folder");
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = found
        .map(|entry| format!("{folder}/{}", name(entry.expect("an entry"))))
        .collect();
    names.sort();
    names
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("a folder");
    Command::new(tools().join("bin").join(program))
        .args(arguments)
        .current_dir(root())
        .env("HOME", home.path()) // whoever runs the tests may have plugins and contexts of their own
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}

/// YAML documents, by way of Python's reader.
fn from_yaml(text: &[u8]) -> Vec<Value> {
    const READ: &str = "import json, sys, yaml
print(json.dumps([thing for thing in yaml.safe_load_all(sys.stdin) if thing]))";
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let out = Command::new(tools().join("bin/python"))
        .args(["-c", READ])
        .stdin(std::fs::File::open(file.path()).expect("just written"))
        .output()
        .expect("Python runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    serde_json::from_slice(&out.stdout).expect("JSON")
}

/// The folder with `bin/kubectl`, `bin/helm`, and a Python that reads YAML.
///
/// # Panics
/// When it is not there.
fn tools() -> PathBuf {
    let folder = match std::env::var_os("TIDEGATE_KUBERNETES_TOOLS") {
        Some(folder) => folder.into(),
        None => root().join("target/kubernetes"),
    };
    assert!(
        folder.join("bin/helm").is_file(),
        "helm and kubectl are not there: run ./check, which puts them into {}",
        folder.display()
    );
    folder
}
