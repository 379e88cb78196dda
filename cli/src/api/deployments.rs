//! Deployments: what ran, what runs, and where.

use serde::{Deserialize, Serialize};

use super::{Deployed, Problem};

/// What was done to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A revision was deployed for all.
    Deploy,
    /// A revision was given a share.
    Canary,
    /// A canary was made what runs for all.
    Promote,
    /// A canary was taken back; by the hosts themselves where it says why.
    Withdraw,
    /// Somebody went back to this revision.
    Rollback,
    /// The hosts went back to this revision by themselves.
    Automatic,
}

/// One deployment in a service's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Rises with each deployment of the service.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// What was done.
    pub action: Action,
    /// With which revision: the digest.
    pub revision: String,
    /// The id of the host that was asked for it.
    pub host: String,
    /// Why, if it happened by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A revision that gets a share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// Its digest.
    pub revision: String,
    /// Its share of the requests, in percent: 0 to 100.
    pub weight: f64,
    /// What makes requests stick to one revision; by chance without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// The partitions whose events it handles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<i32>,
}

// A weight comes from text and is never NaN.
impl Eq for Canary {}

/// What makes requests stick to a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sticky {
    /// The value of this header field.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
}

impl std::str::FromStr for Sticky {
    type Err = String;

    fn from_str(text: &str) -> Result<Sticky, String> {
        match text.split_once(':') {
            Some(("header", name)) if !name.is_empty() => Ok(Sticky::Header(name.to_owned())),
            Some(("cookie", name)) if !name.is_empty() => Ok(Sticky::Cookie(name.to_owned())),
            _ => Err(format!(
                "{text:?} is neither `header:NAME` nor `cookie:NAME`"
            )),
        }
    }
}

impl std::fmt::Display for Sticky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sticky::Header(name) => write!(f, "header:{name}"),
            Sticky::Cookie(name) => write!(f, "cookie:{name}"),
        }
    }
}

/// `GET /v1/services/{name}/history`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    /// The service.
    pub name: String,
    /// The digest of the revision that runs.
    pub live: String,
    /// The revision that has a share, if any.
    pub canary: Option<Canary>,
    /// Until when the one that runs is on trial, in milliseconds since the Unix
    /// epoch; none if it is not.
    pub trial_until: Option<u64>,
    /// The revision that `rollback` would lead to, if any.
    pub before: Option<String>,
    /// The latest last, at most 20.
    pub entries: Vec<Entry>,
}

/// `POST /v1/services/{name}/rollback`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The beginning of a digest in the history; the one before if there is none.
    #[serde(default)]
    pub revision: Option<String>,
}

/// The answer to a rollback and to a promotion.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// The service.
    pub name: String,
    /// The digest of the revision that runs now.
    pub revision: String,
    /// The one that ran before, or the canary that was taken back.
    pub previous: String,
    /// What was done.
    pub action: Action,
    /// The hosts, and whether they run it.
    pub hosts: Vec<HostStatus>,
}

/// A host, and what it makes of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its id.
    pub host: String,
    /// Where its public listener is, as it says itself.
    pub address: String,
    /// Whether it runs the deployment.
    pub runs: bool,
    /// Why not, if it has tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `GET /v1/hosts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hosts {
    /// The id of the host that answers.
    pub host: String,
    /// All live hosts of the cluster.
    pub hosts: Vec<HostStatus>,
}

/// How far a deploy is: the lines of `POST /v1/services` for who accepts
/// `application/x-ndjson`. The last is `done` or `refused`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// The component is compiled, or taken from the cache.
    Compiling,
    /// It is held against the manifest, what runs, and Kafka; smoke calls are made.
    Checking,
    /// Its topics are made.
    Topics {
        /// Their names.
        created: Vec<String>,
    },
    /// The component is written to Kafka, for all hosts.
    Storing {
        /// Its size in bytes.
        bytes: usize,
    },
    /// It is deployed, and hosts take it up.
    Following {
        /// The live hosts, and whether they run it.
        hosts: Vec<HostStatus>,
    },
    /// It is done.
    Done {
        /// What the answer would be without the lines.
        deployed: Box<Deployed>,
    },
    /// It is refused or has failed, and what ran goes on.
    Refused {
        /// What the answer would be without the lines.
        problem: Problem,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sticks_is_named_by_its_kind() {
        for text in ["header:x-user", "cookie:session"] {
            assert_eq!(text.parse::<Sticky>().unwrap().to_string(), text);
        }
        for bad in ["x-user", "header:", "query:x", ""] {
            assert!(bad.parse::<Sticky>().is_err(), "{bad}");
        }
    }
}
