//! The content of revisions in `tidemill.components`: in chunks that a broker
//! takes, by digest, so that a host fetches only what it needs.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::record::Content;
use crate::effects::Message;
use crate::kafka::{Cluster, KafkaError, Publisher, Source};
use crate::runtime::hex;

/// A broker takes about 1 MB at a time by default.
const CHUNK: usize = 512 << 10;

/// Why content is not here.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Kafka cannot be asked.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// Kafka did not take it.
    #[error("the component was not written to {topic}: {cause}")]
    NotWritten {
        /// The topic.
        topic: String,
        /// Why.
        cause: String,
    },
    /// What is there is something else.
    #[error("the component {digest} is not in {topic} any more: deploy the service again")]
    Missing {
        /// What was looked for.
        digest: String,
        /// The topic.
        topic: String,
    },
}

fn key(digest: &str, index: usize) -> Bytes {
    format!("{digest}/{index}").into()
}

/// Writes a component, and returns where it is.
pub(super) async fn write(
    publisher: &Publisher,
    topic: &Arc<str>,
    digest: &str,
    bytes: &Bytes,
) -> Result<Content, ContentError> {
    let not_written = |cause: String| ContentError::NotWritten {
        topic: topic.to_string(),
        cause,
    };
    let chunks: Vec<Message> = (0..bytes.len().div_ceil(CHUNK))
        .map(|index| Message {
            topic: topic.clone(),
            partition: Some(0),
            key: Some(key(digest, index)),
            value: Some(bytes.slice(index * CHUNK..bytes.len().min((index + 1) * CHUNK))),
            headers: Vec::new(),
        })
        .collect();
    let published = publisher.publish(chunks.iter()).await;
    if let Some((_, error)) = published.failed.first() {
        return Err(not_written(error.to_string()));
    }
    let chunks: Vec<i64> = published
        .placed
        .iter()
        .map(|placed| placed.offset)
        .collect();
    if chunks.iter().any(|offset| *offset < 0) {
        return Err(not_written(
            "where it is was not told, try again".to_owned(),
        ));
    }
    Ok(Content {
        size: bytes.len() as u64,
        chunks,
    })
}

/// Records by which Kafka forgets content.
pub(super) fn forget(topic: &Arc<str>, digest: &str, content: &Content) -> Vec<Message> {
    let chunks = 0..content.chunks.len();
    chunks
        .map(|index| Message {
            topic: topic.clone(),
            partition: Some(0),
            key: Some(key(digest, index)),
            value: None,
            headers: Vec::new(),
        })
        .collect()
}

/// Reads a component from where it is; where it was written again meanwhile, from
/// the whole topic. Blocks.
pub(super) fn read(
    cluster: &Cluster,
    topic: &Arc<str>,
    digest: &str,
    content: &Content,
) -> Result<Vec<u8>, ContentError> {
    let first = content.chunks.iter().min().copied().unwrap_or(0);
    let last = content.chunks.iter().max().copied().unwrap_or(-1);
    let source: Source = (topic.clone(), 0);
    let exact = collect(cluster, &source, digest, content, (first, last + 1))?;
    if let Some(bytes) = exact {
        return Ok(bytes);
    }
    let span = cluster.watermarks(topic, 0)?;
    let found = collect(cluster, &source, digest, content, span)?;
    found.ok_or_else(|| ContentError::Missing {
        digest: digest.to_owned(),
        topic: topic.to_string(),
    })
}

fn collect(
    cluster: &Cluster,
    source: &Source,
    digest: &str,
    content: &Content,
    (from, to): (i64, i64),
) -> Result<Option<Vec<u8>>, ContentError> {
    let keys: Vec<Bytes> = (0..content.chunks.len())
        .map(|index| key(digest, index))
        .collect();
    let mut chunks: Vec<Option<Bytes>> = vec![None; keys.len()];
    cluster.read_past(source, from, to, |event| {
        let index = keys.iter().position(|key| event.key.as_ref() == Some(key));
        if let Some(chunk) = index.and_then(|index| chunks.get_mut(index)) {
            *chunk = event.value;
        }
    })?;
    let Some(chunks) = chunks.into_iter().collect::<Option<Vec<Bytes>>>() else {
        return Ok(None);
    };
    let bytes = chunks.concat();
    Ok((hex(&Sha256::digest(&bytes)) == digest).then_some(bytes))
}
