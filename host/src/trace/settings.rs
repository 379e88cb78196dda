//! What the environment says of tracing: OpenTelemetry's own variables. The SDK
//! reads some of them itself; here is what it has no answer to.

use std::time::Duration;

/// What is wrong with them, or with what they say.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A protocol other than the one that the host speaks.
    #[error(
        "spans are exported by http/protobuf, which collectors take at port 4318; {variable} says \
         {value:?}"
    )]
    Protocol {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// Not one of the known values.
    #[error("{variable} says {value:?}; it is {expected}")]
    Value {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Nothing can be sent to it. What it is may be a secret.
    #[error(
        "nothing can be sent to the endpoint of OTEL_EXPORTER_OTLP_ENDPOINT or \
         OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: it is a URL, as http://127.0.0.1:4318"
    )]
    Endpoint,
    /// No certificates.
    #[error("spans cannot be sent by TLS: {0}")]
    Tls(String),
}

/// How spans are exported.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether what a producer or a client did not sample is never sampled.
    pub(super) parent_based: bool,
    /// Whether the collector is asked by TLS.
    pub(super) tls: bool,
    /// A file of certificates that sign the collector's.
    pub(super) certificates: Option<String>,
    /// How long a request to the collector may take.
    pub(super) timeout: Duration,
    /// How long a span waits for others.
    pub(super) delay: Duration,
    /// How many spans may wait.
    pub(super) queue: usize,
    /// How many are sent at a time.
    pub(super) batch: usize,
}

const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const CERTIFICATES: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
];
const TIMEOUTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
];
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";

impl Settings {
    /// None: nothing is to be exported.
    pub fn of_environment() -> Result<Option<Settings>, TraceError> {
        Settings::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Settings>, TraceError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let first = |names: [&'static str; 2]| {
            let mut names = names.into_iter();
            names.find_map(|name| Some((name, set(name)?)))
        };
        let disabled = set("OTEL_SDK_DISABLED");
        if disabled.is_some_and(|disabled| disabled.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let endpoint = first(ENDPOINTS);
        match (set(EXPORTER).as_deref(), &endpoint) {
            (Some("none"), _) | (None, None) => return Ok(None),
            (None | Some("otlp"), _) => {}
            (Some(other), _) => {
                return Err(TraceError::Value {
                    variable: EXPORTER,
                    value: other.to_owned(),
                    expected: "otlp or none",
                });
            }
        }
        if let Some((variable, value)) = first(PROTOCOLS)
            && value != "http/protobuf"
        {
            return Err(TraceError::Protocol { variable, value });
        }
        let number = |name: &'static str, default: u64| match set(name) {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| TraceError::Value {
                variable: name,
                value,
                expected: "a number",
            }),
        };
        let count = |name: &'static str, default: u64| {
            let count = number(name, default)?.clamp(1, 1 << 20);
            Ok::<_, TraceError>(usize::try_from(count).unwrap_or(1))
        };
        let timeout = match first(TIMEOUTS) {
            Some((name, _)) => number(name, 0)?,
            None => 10_000,
        };
        Ok(Some(Settings {
            parent_based: is_parent_based(set(SAMPLER), set(SAMPLER_ARGUMENT))?,
            tls: endpoint.is_some_and(|(_, endpoint)| endpoint.starts_with("https:")),
            certificates: first(CERTIFICATES).map(|(_, file)| file),
            timeout: Duration::from_millis(timeout),
            delay: Duration::from_millis(number("OTEL_BSP_SCHEDULE_DELAY", 1000)?),
            queue: count("OTEL_BSP_MAX_QUEUE_SIZE", 8192)?,
            batch: count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?,
        }))
    }
}

/// Holds that the SDK knows the sampler: it takes another one without a word if it
/// does not.
fn is_parent_based(sampler: Option<String>, ratio: Option<String>) -> Result<bool, TraceError> {
    let Some(sampler) = sampler else {
        return Ok(true);
    };
    let (parent_based, wants_ratio) = match sampler.as_str() {
        "always_on" | "always_off" => (false, false),
        "traceidratio" => (false, true),
        "parentbased_always_on" | "parentbased_always_off" => (true, false),
        "parentbased_traceidratio" => (true, true),
        _ => {
            return Err(TraceError::Value {
                variable: SAMPLER,
                value: sampler,
                expected: "always_on, always_off, traceidratio, or one of these with \
                           parentbased_ before it",
            });
        }
    };
    let ratio = ratio.unwrap_or_else(|| "1".to_owned());
    let known = ratio
        .parse::<f64>()
        .is_ok_and(|ratio| (0.0..=1.0).contains(&ratio));
    if wants_ratio && !known {
        return Err(TraceError::Value {
            variable: SAMPLER_ARGUMENT,
            value: ratio,
            expected: "a number from 0 to 1",
        });
    }
    Ok(parent_based)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");

    fn of(variables: &[(&str, &str)]) -> Result<Option<Settings>, TraceError> {
        Settings::of(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_is_exported_without_an_endpoint_or_when_it_is_switched_off() {
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[(ENDPOINT.0, "")]).unwrap(), None);
        assert_eq!(
            of(&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap(),
            None
        );
        assert_eq!(
            of(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]).unwrap(),
            None
        );
        assert!(of(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().is_some());
        assert!(of(&[ENDPOINT]).unwrap().is_some());
    }

    #[test]
    fn samplers_are_those_of_the_specification() {
        let sampler = |name, ratio| {
            let variables = [ENDPOINT, (SAMPLER, name), (SAMPLER_ARGUMENT, ratio)];
            of(&variables).map(|settings| settings.unwrap().parent_based)
        };
        assert!(of(&[ENDPOINT]).unwrap().unwrap().parent_based);
        assert!(sampler("parentbased_traceidratio", "0.01").unwrap());
        assert!(!sampler("traceidratio", "").unwrap());
        assert!(!sampler("always_on", "").unwrap());
        for (name, ratio) in [
            ("sometimes", ""),
            ("traceidratio", "1 %"),
            ("traceidratio", "2"),
        ] {
            assert!(sampler(name, ratio).is_err(), "{name} {ratio}");
        }
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_said_at_the_start() {
        let error = of(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap_err();
        assert!(error.to_string().contains("4318"), "{error}");
        assert!(of(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).is_ok());
    }
}
