//! Components to deploy: the seeds, one that misbehaves, and what is none.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use crate::folder::components;

/// A seed service as `make seeds` built it, its manifest in it.
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn seed(name: &str) -> Component {
    Component::read(&format!("{name}.wasm"))
}

/// The bytes of a component, or of what is to be taken for one.
#[derive(Clone, Debug)]
pub struct Component(pub Vec<u8>);

impl Component {
    /// The component that does on request whatever a host must survive
    /// (`tests/guests/misbehave`), as the service that a manifest describes.
    ///
    /// # Panics
    /// If it was not built.
    #[must_use]
    pub fn misbehave(manifest: &Manifest) -> Component {
        Component::read("guests/misbehave.wasm").with(&manifest.toml())
    }

    /// The component that counts events by key and publishes each new count
    /// (`tests/guests/count`), as the service that a manifest describes.
    ///
    /// # Panics
    /// If it was not built.
    #[must_use]
    pub fn count(manifest: &Manifest) -> Component {
        Component::read("guests/count.wasm").with(&manifest.toml())
    }

    /// The component that publishes each event as it came (`tests/guests/echo`), as
    /// the service that a manifest describes.
    ///
    /// # Panics
    /// If it was not built.
    #[must_use]
    pub fn echo(manifest: &Manifest) -> Component {
        Component::read("guests/echo.wasm").with(&manifest.toml())
    }

    /// A component, or a core module, from WebAssembly's text format.
    ///
    /// # Panics
    /// If it is not valid.
    #[must_use]
    pub fn wat(text: &str) -> Component {
        Component(wat::parse_str(text).unwrap())
    }

    /// The component with another manifest in it.
    #[must_use]
    pub fn with(&self, toml: &str) -> Component {
        Component(tidemill_manifest::embed(&self.0, toml))
    }

    /// The component with its manifest edited: each `from`, which must be in it,
    /// replaced.
    ///
    /// # Panics
    /// If there is no manifest, or `from` is not in it.
    #[must_use]
    pub fn edited(&self, edits: &[(&str, &str)]) -> Component {
        let mut toml = tidemill_manifest::embedded(&self.0).unwrap().unwrap();
        for (from, to) in edits {
            assert!(toml.contains(from), "{from:?} is not in {toml}");
            toml = toml.replace(from, to);
        }
        self.with(&toml)
    }

    fn read(file: &str) -> Component {
        let path = components().join(file);
        let bytes = fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "{}: {error}: run the tests by `make test`, which builds it",
                path.display()
            )
        });
        Component(bytes)
    }
}

/// A manifest for the misbehaving component: a route and a topic of its own,
/// both named after it, and state.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The service's name.
    pub name: String,
    /// Its route.
    pub route: String,
    /// The topics it consumes.
    pub topics: Vec<String>,
    /// The topics it may publish to.
    pub publish: Vec<String>,
    /// Whether it has state.
    pub state: bool,
    /// How its events' effects are made durable; none is the default.
    pub delivery: Option<String>,
    subscribe: String,
    retry: BTreeMap<String, String>,
    trial: BTreeMap<String, String>,
    limits: BTreeMap<String, String>,
    settings: BTreeMap<String, String>,
}

impl Manifest {
    /// The service `name`, at `/name`, which consumes the topic `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            route: format!("/{name}"),
            topics: vec![name.to_owned()],
            publish: Vec::new(),
            state: true,
            delivery: None,
            subscribe: String::new(),
            retry: BTreeMap::new(),
            trial: BTreeMap::new(),
            limits: BTreeMap::new(),
            settings: BTreeMap::new(),
        }
    }

    /// May publish to a topic too.
    #[must_use]
    pub fn publish(mut self, topic: &str) -> Self {
        self.publish.push(topic.to_owned());
        self
    }

    /// With a delivery other than the default.
    #[must_use]
    pub fn delivery(mut self, delivery: &str) -> Self {
        self.delivery = Some(delivery.to_owned());
        self
    }

    /// Consumes these topics instead of the one named after it.
    #[must_use]
    pub fn consumes(mut self, topics: &[&str]) -> Self {
        self.topics = topics.iter().map(|&topic| topic.to_owned()).collect();
        self
    }

    /// Consumes a topic too.
    #[must_use]
    pub fn subscribe(mut self, topic: &str) -> Self {
        self.topics.push(topic.to_owned());
        self
    }

    /// With a key of `[[subscribe]]` for all its topics, as TOML writes it.
    #[must_use]
    pub fn subscription(mut self, key: &str, value: &str) -> Self {
        let _ = writeln!(self.subscribe, "{key} = {value}");
        self
    }

    /// With a key of `[subscribe.retry]` for all its topics, as TOML writes it.
    #[must_use]
    pub fn retry(mut self, key: &str, value: &str) -> Self {
        self.retry.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With a key of `[trial]`, as TOML writes it.
    #[must_use]
    pub fn trial(mut self, key: &str, value: &str) -> Self {
        self.trial.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With a limit, as TOML writes it.
    #[must_use]
    pub fn limit(mut self, name: &str, value: &str) -> Self {
        self.limits.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With a setting.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// As TOML.
    #[must_use]
    pub fn toml(&self) -> String {
        let delivery = self.delivery.iter();
        let delivery: String = delivery.map(|d| format!("delivery = {d:?}\n")).collect();
        let mut toml = format!(
            "name = {:?}\n{delivery}[http]\nroutes = [{:?}]\n[grants]\nstate = {}\npublish = {:?}\n",
            self.name, self.route, self.state, self.publish
        );
        toml.push_str("[limits]\n");
        for (name, value) in &self.limits {
            let _ = writeln!(toml, "{name} = {value}");
        }
        toml.push_str("[trial]\n");
        for (name, value) in &self.trial {
            let _ = writeln!(toml, "{name} = {value}");
        }
        toml.push_str("[settings]\n");
        for (name, value) in &self.settings {
            let _ = writeln!(toml, "{name} = {value:?}");
        }
        for topic in &self.topics {
            let _ = writeln!(toml, "[[subscribe]]\ntopic = {topic:?}\n{}", self.subscribe);
            toml.push_str("[subscribe.retry]\n");
            for (name, value) in &self.retry {
                let _ = writeln!(toml, "{name} = {value}");
            }
        }
        toml
    }
}
