//! The operations of an OpenAPI document.

use serde::Serialize;
use serde_json::Value;

/// Members of a path that are operations, in the order in which they are shown.
const METHODS: [&str; 8] = [
    "get", "head", "post", "put", "patch", "delete", "options", "trace",
];

/// A method on a path.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Operation {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Empty if the document has none.
    pub(crate) summary: String,
}

pub(super) fn of(document: &str) -> Result<Vec<Operation>, serde_json::Error> {
    let document: Value = serde_json::from_str(document)?;
    let paths = document.get("paths").and_then(Value::as_object);
    let mut operations = Vec::new();
    for (path, item) in paths.into_iter().flatten() {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                operations.push(Operation {
                    method: method.to_ascii_uppercase(),
                    path: path.clone(),
                    summary: summary(operation).to_owned(),
                });
            }
        }
    }
    Ok(operations)
}

/// What it says of itself, in a line.
fn summary(operation: &Value) -> &str {
    let text = |name| operation.get(name).and_then(Value::as_str);
    let said = text("summary").or_else(|| text("description"));
    said.and_then(|said| said.lines().next())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_of_a_path_is_an_operation() {
        let document = r#"{"openapi": "3.1.0", "paths": {
            "/b": {"post": {"description": "Makes one.\nAnd more."}, "get": {"summary": "All of them"},
                   "parameters": []},
            "/a": {"get": {}}, "/odd": 7}}"#;
        let operations = of(document).expect("a document");
        let shown: Vec<String> = operations
            .iter()
            .map(|one| format!("{} {} {}", one.method, one.path, one.summary))
            .collect();
        assert_eq!(
            shown,
            ["GET /b All of them", "POST /b Makes one.", "GET /a "]
        );
        assert!(of("{}").expect("a document").is_empty());
        assert!(of("no JSON").is_err());
    }
}
