//! The routing table: a snapshot of what is deployed, from path to service.
//!
//! A deploy builds a new one and swaps it; a request takes the one that is
//! current when it comes and keeps what it found.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tidemill_manifest::{Manifest, Route};

use crate::service::Service;

/// All services and their routes at one time.
#[derive(Clone, Default)]
pub struct Routes {
    services: BTreeMap<String, Arc<Service>>,
    table: Table<Arc<Service>>,
}

impl Routes {
    /// Puts a service in, by the routes that it has now. Conflicts were refused
    /// before.
    pub fn put(&mut self, service: &Arc<Service>) {
        self.remove(service.name());
        let revision = service.current();
        for route in revision.manifest.http.iter().flat_map(|http| &http.routes) {
            self.table.insert(route, service.clone());
        }
        let name = service.name().to_owned();
        self.services.insert(name, service.clone());
    }

    /// Takes a service out.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Service>> {
        let service = self.services.remove(name)?;
        // It may have other routes by now than those that it was put in by.
        self.table.retain(|target| !Arc::ptr_eq(target, &service));
        Some(service)
    }

    /// The service that answers a path, on a host name.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Service>> {
        self.table.find(host, path)
    }

    /// A service by its name.
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// All services, by name.
    pub fn services(&self) -> &BTreeMap<String, Arc<Service>> {
        &self.services
    }

    /// A route of the manifest that another service has already, with that
    /// service's name.
    pub fn conflict(&self, manifest: &Manifest) -> Option<(String, String)> {
        let routes = manifest.http.iter().flat_map(|http| &http.routes);
        routes
            .filter_map(|route| Some((route, self.table.exact(route)?)))
            .find(|(_, service)| service.name() != manifest.name)
            .map(|(route, service)| (route.to_string(), service.name().to_owned()))
    }
}

/// Prefixes by host name; the longest one that matches wins, one with a host
/// name before one without.
#[derive(Clone)]
struct Table<T> {
    any: HashMap<String, T>,
    hosts: HashMap<String, HashMap<String, T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table {
            any: HashMap::new(),
            hosts: HashMap::new(),
        }
    }
}

impl<T> Table<T> {
    fn insert(&mut self, route: &Route, target: T) {
        let prefixes = match &route.host {
            Some(host) => self.hosts.entry(host.to_ascii_lowercase()).or_default(),
            None => &mut self.any,
        };
        prefixes.insert(route.prefix.clone(), target);
    }

    fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.any.retain(|_, target| keep(target));
        self.hosts.retain(|_, prefixes| {
            prefixes.retain(|_, target| keep(target));
            !prefixes.is_empty()
        });
    }

    fn exact(&self, route: &Route) -> Option<&T> {
        match &route.host {
            Some(host) => self
                .hosts
                .get(&host.to_ascii_lowercase())?
                .get(&route.prefix),
            None => self.any.get(&route.prefix),
        }
    }

    fn find(&self, host: &str, path: &str) -> Option<&T> {
        if !self.hosts.is_empty() {
            let name = host_name(host).to_ascii_lowercase();
            let found = self.hosts.get(&name).and_then(|own| longest(own, path));
            if found.is_some() {
                return found;
            }
        }
        longest(&self.any, path)
    }
}

/// The target of the longest prefix, by whole segments: `/a/b/c`, `/a/b`, `/a`,
/// then `/`.
fn longest<'a, T>(prefixes: &'a HashMap<String, T>, path: &str) -> Option<&'a T> {
    let mut prefix = path;
    loop {
        if let Some(target) = prefixes.get(prefix) {
            return Some(target);
        }
        match prefix.rfind('/') {
            Some(0) | None => return prefixes.get("/"),
            Some(slash) => prefix = &prefix[..slash],
        }
    }
}

/// The route of a service by which it answers a path, on a host name.
pub(crate) fn route<'a>(manifest: &'a Manifest, host: &str, path: &str) -> Option<&'a Route> {
    let mut table = Table::default();
    for route in manifest.http.iter().flat_map(|http| &http.routes) {
        table.insert(route, route);
    }
    table.find(host, path).copied()
}

/// The host name without its port; an IPv6 address keeps its brackets.
pub(crate) fn host_name(authority: &str) -> &str {
    let end = match authority.rfind(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    &authority[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[(&str, &'static str)]) -> Table<&'static str> {
        let mut table = Table::default();
        for (route, target) in routes {
            let (host, prefix) = route.split_at(route.find('/').unwrap());
            let route = Route {
                host: (!host.is_empty()).then(|| host.to_owned()),
                prefix: prefix.to_owned(),
            };
            table.insert(&route, *target);
        }
        table
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let table = table(&[("/users", "users"), ("/users/admin", "admin"), ("/a", "a")]);
        let find = |path| table.find("any", path).copied();
        assert_eq!(find("/users"), Some("users"));
        assert_eq!(find("/users/7"), Some("users"));
        assert_eq!(find("/users/"), Some("users"));
        assert_eq!(find("/users/admin/7"), Some("admin"));
        assert_eq!(find("/users/administrator"), Some("users"));
        assert_eq!(find("/usersx"), None);
        assert_eq!(find("/"), None);
        assert_eq!(find(""), None);
        assert_eq!(find("*"), None);
    }

    #[test]
    fn who_is_taken_out_answers_nothing_any_more() {
        let mut table = table(&[("/a", "a"), ("api.example.com/", "a"), ("/b", "b")]);
        table.retain(|target| *target != "a");
        assert_eq!(table.find("any", "/a"), None);
        assert_eq!(table.find("api.example.com", "/b"), Some(&"b"));
        assert!(table.hosts.is_empty());
    }

    #[test]
    fn a_route_with_a_host_name_goes_before_one_without() {
        let table = table(&[
            ("/", "all"),
            ("api.example.com/", "api"),
            ("/users", "users"),
        ]);
        assert_eq!(table.find("api.example.com:8080", "/users"), Some(&"api"));
        assert_eq!(table.find("API.Example.com", "/x"), Some(&"api"));
        assert_eq!(table.find("example.com", "/users/1"), Some(&"users"));
        assert_eq!(table.find("[::1]:8080", "/x"), Some(&"all"));
    }

    #[test]
    fn a_host_name_is_without_its_port() {
        assert_eq!(host_name("localhost:8080"), "localhost");
        assert_eq!(host_name("localhost"), "localhost");
        assert_eq!(host_name("[::1]:8080"), "[::1]");
        assert_eq!(host_name(""), "");
    }
}
