//! What `tidemill build` asks of a component: its OpenAPI document. No host runs
//! for it, and nothing is kept.

use std::sync::Arc;

use serde_json::Value;
use tidemill_cli::api::Level;
use tidemill_manifest::Manifest;
use tracing_subscriber::layer::SubscriberExt;

use crate::invocation::Failure;
use crate::logs::{Keeper, books};
use crate::runtime::{LoadError, Runtime};

/// Lines of the component that are told with its failure.
const LINES: usize = 20;

/// Why a component did not describe itself.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// No host would take it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It failed; with what it said meanwhile.
    #[error("{failure}{said}")]
    Failed {
        /// How.
        failure: Failure,
        /// What it wrote to its output, a line each.
        said: String,
    },
    /// It gave something else than JSON.
    #[error("its OpenAPI document is not JSON: {0}")]
    NotJson(serde_json::Error),
    /// This machine has no thread for it.
    #[error("the component cannot be run: {0}")]
    Start(std::io::Error),
}

/// The OpenAPI document of a component, if it has one. The component is held
/// against its manifest first, as a host does it.
///
/// # Errors
/// No host would take the component, or it failed to describe itself.
pub fn openapi(bytes: &[u8], manifest: Manifest) -> Result<Option<String>, DescribeError> {
    let name = manifest.name.clone();
    let runtime = Runtime::brief()?;
    let component = runtime.load_once(bytes, Arc::new(manifest))?;
    // A component that runs for long holds up this thread; the other one has the
    // timer that ends it.
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .map_err(DescribeError::Start)?;
    // What it writes is kept, to be told if it fails.
    let log = tracing_subscriber::registry().with(Keeper);
    let described = tracing::subscriber::with_default(log, || {
        executor.block_on(async {
            component.warm().await?;
            component.describe().await
        })
    });
    let document = described.map_err(|failure| DescribeError::Failed {
        failure,
        said: said(&name),
    })?;
    if let Some(document) = &document {
        serde_json::from_str::<Value>(document).map_err(DescribeError::NotJson)?;
    }
    Ok(document)
}

/// The latest lines of a service, each on a line of its own.
fn said(service: &str) -> String {
    let lines = books().book(service).tail(LINES, Level::Trace).lines;
    let messages = lines.iter().filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        Some(format!("\n{}", line.get("message")?.as_str()?))
    });
    messages.collect()
}
