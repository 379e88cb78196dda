//! `/docs` and `/openapi.json`: what is served here, from the documents that
//! the services give of themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use utoipa_swagger_ui::Config;

use super::answer::Answer;
use crate::host::Host;
use crate::problem::Problem;

/// The page of a path, if it is one of ours.
pub(super) fn page(host: &Host, method: &Method, path: &str) -> Result<Option<Answer>, Problem> {
    let rest = match path {
        "/openapi.json" => None,
        // Kept for a document to come, so that no service gets it meanwhile.
        "/asyncapi.json" => return Err(Problem::no_route(path)),
        "/docs" => Some(""),
        _ => match path.strip_prefix("/docs/") {
            Some(rest) => Some(rest),
            None => return Ok(None),
        },
    };
    if method != Method::GET && method != Method::HEAD {
        return Err(Problem::method("GET, HEAD"));
    }
    match rest {
        None => {
            let document = openapi(host).to_string();
            Ok(Some(found("application/json", document.into())))
        }
        // Its files are beside it, so the page is a folder.
        Some("") if path == "/docs" => {
            let mut response = http::Response::new(Full::default());
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            let headers = response.headers_mut();
            headers.insert(LOCATION, HeaderValue::from_static("/docs/"));
            Ok(Some(response))
        }
        Some(file) => swagger(file, path),
    }
}

fn swagger(file: &str, path: &str) -> Result<Option<Answer>, Problem> {
    static CONFIG: OnceLock<Arc<Config<'static>>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        Arc::new(
            Config::from("/openapi.json")
                .try_it_out_enabled(true)
                .display_request_duration(true),
        )
    });
    match utoipa_swagger_ui::serve(file, config.clone()) {
        Ok(Some(file)) => {
            let content_type = file.content_type;
            Ok(Some(found(&content_type, file.bytes.into_owned().into())))
        }
        Ok(None) | Err(_) => Err(Problem::no_route(path)),
    }
}

fn found(content_type: &str, body: Bytes) -> Answer {
    let mut response = http::Response::new(Full::new(body));
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(content_type) {
        headers.insert(CONTENT_TYPE, content_type);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// One document of all services.
fn openapi(host: &Host) -> Value {
    let routes = host.routes();
    let documents = routes.services().iter().map(|(name, service)| {
        let revision = service.current();
        (
            name.as_str(),
            revision.manifest.description.clone(),
            revision.known.document().unwrap_or_default(),
        )
    });
    merge(documents.collect())
}

/// Merges documents: paths side by side, each tagged with its service; two
/// schemas of one name that are not the same are kept apart by the service's.
fn merge(documents: Vec<(&str, String, Value)>) -> Value {
    let (mut paths, mut tags) = (Map::new(), Vec::new());
    let mut components: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (service, description, mut document) in documents {
        let own = document.get("components").cloned().unwrap_or_default();
        let own = own.as_object().cloned().unwrap_or_default();
        for (kind, entries) in &own {
            let Some(entries) = entries.as_object() else {
                continue;
            };
            for (name, entry) in entries {
                let there = components.get(kind).and_then(|there| there.get(name));
                if there.is_some_and(|there| there != entry) {
                    let from = format!("#/components/{kind}/{name}");
                    let to = format!("#/components/{kind}/{service}_{name}");
                    rename(&mut document, &from, &to);
                }
            }
        }
        // Again: what refers to a renamed entry has changed.
        let own = document.get("components").cloned().unwrap_or_default();
        for (kind, entries) in own.as_object().into_iter().flatten() {
            let into = components.entry(kind.clone()).or_default();
            for (name, entry) in entries.as_object().into_iter().flatten() {
                let taken = into.get(name).is_some_and(|there| there != entry);
                let name = if taken {
                    format!("{service}_{name}")
                } else {
                    name.clone()
                };
                into.insert(name, entry.clone());
            }
        }
        let own = document.get("paths").and_then(Value::as_object);
        for (path, item) in own.into_iter().flatten() {
            let mut item = item.clone();
            for operation in item.as_object_mut().into_iter().flatten() {
                if let Some(operation) = operation.1.as_object_mut() {
                    operation.insert("tags".to_owned(), json!([service]));
                }
            }
            paths.insert(path.clone(), item);
        }
        tags.push(json!({ "name": service, "description": description }));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemill",
            "description": "The services that this host runs.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "tags": tags,
        "paths": paths,
        "components": components,
    })
}

fn rename(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "$ref" && text == from => to.clone_into(text),
                    value => rename(value, from, to),
                }
            }
        }
        Value::Array(array) => {
            for value in array {
                rename(value, from, to);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(path: &str, schema: Value) -> Value {
        json!({
            "paths": { path: { "get": {
                "tags": ["x"],
                "schema": { "$ref": "#/components/schemas/Created" },
            } } },
            "components": { "schemas": { "Created": schema } },
        })
    }

    #[test]
    fn schemas_of_one_name_are_kept_apart_where_they_differ() {
        let merged = merge(vec![
            (
                "a",
                "A.".to_owned(),
                document("/a", json!({"type": "object"})),
            ),
            (
                "b",
                "B.".to_owned(),
                document("/b", json!({"type": "string"})),
            ),
            (
                "c",
                "C.".to_owned(),
                document("/c", json!({"type": "object"})),
            ),
        ]);
        let reference = |path: &str| merged["paths"][path]["get"]["schema"]["$ref"].clone();
        assert_eq!(reference("/a"), "#/components/schemas/Created");
        assert_eq!(reference("/b"), "#/components/schemas/b_Created");
        assert_eq!(reference("/c"), "#/components/schemas/Created");
        let schemas = &merged["components"]["schemas"];
        assert_eq!(schemas["Created"]["type"], "object");
        assert_eq!(schemas["b_Created"]["type"], "string");
        assert_eq!(merged["paths"]["/b"]["get"]["tags"], json!(["b"]));
        assert_eq!(merged["tags"][1]["description"], "B.");
    }

    #[test]
    fn a_service_without_a_document_is_there_by_name() {
        let merged = merge(vec![("quiet", "Says little.".to_owned(), Value::Null)]);
        assert_eq!(merged["tags"][0]["name"], "quiet");
        assert_eq!(merged["paths"], json!({}));
    }
}
