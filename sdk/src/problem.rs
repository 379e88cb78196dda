//! What is answered when a request can't be served: problem documents, and the
//! validation errors of FastAPI, which clients of this shape expect.

use std::any::Any;
use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::json::RawJson;
use crate::publish::PublishError;
use crate::state::StateError;

/// A problem document (RFC 9457): what a handler answers a request with that it
/// can't serve.
///
/// ```
/// use tidemill::Problem;
///
/// async fn parcel() -> Result<String, Problem> {
///     Err(Problem::not_found("There is no parcel 7"))
/// }
/// ```
///
/// `?` makes one of any error. Those of this SDK say what happened; any other
/// becomes a 500 that tells the client nothing, and a line in the log that
/// does.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(example = json!({
    "type": "about:blank", "title": "Not Found", "status": 404, "detail": "There is no order 7"
}))]
pub struct Problem {
    /// A URI that names the kind of problem; `about:blank` if the status says it
    /// all.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: Cow<'static, str>,
    /// What the kind of problem is, in short.
    #[schema(value_type = String)]
    title: Cow<'static, str>,
    /// The HTTP status.
    status: u16,
    /// What happened this time.
    #[schema(value_type = String)]
    detail: Cow<'static, str>,
}

impl Problem {
    pub(crate) const CONTENT_TYPE: &'static str = "application/problem+json";

    /// A problem with this status, 400 to 599 (anything else becomes 500), and
    /// this detail.
    pub fn new(status: u16, detail: impl Into<Cow<'static, str>>) -> Self {
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|status| status.is_client_error() || status.is_server_error())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Problem").into(),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    /// 400: the request is malformed.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, detail)
    }

    /// 404: there is no such thing.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, detail)
    }

    /// 409: the request doesn't go with how things are.
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(409, detail)
    }

    /// 422: the request is well formed, but what it says can't be.
    pub fn unprocessable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(422, detail)
    }

    /// Names the kind of problem by a URI, and says in short what that kind is.
    #[must_use]
    pub fn kind(
        mut self,
        uri: impl Into<Cow<'static, str>>,
        title: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.kind = uri.into();
        self.title = title.into();
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What happened.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The plain problem of a status: title and detail are its reason phrase.
    pub(crate) fn plain(status: StatusCode) -> Self {
        Self::new(
            status.as_u16(),
            status.canonical_reason().unwrap_or("Problem"),
        )
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl<E: std::error::Error + 'static> From<E> for Problem {
    fn from(error: E) -> Self {
        let any: &dyn Any = &error;
        if let Some(error) = any.downcast_ref::<PublishError>() {
            return match error {
                PublishError::TooLarge(text) => Self::new(413, text.clone()),
                other => Self::logged(&error, Some(other.to_string())),
            };
        }
        if let Some(state) = any.downcast_ref::<StateError>() {
            return match state {
                StateError::Unavailable(_) => {
                    eprintln!("{state}");
                    Self::new(503, state.to_string())
                }
                other => Self::logged(&error, Some(other.to_string())),
            };
        }
        Self::logged(&error, None)
    }
}

impl Problem {
    /// A 500, with the error in the log.
    fn logged(error: &dyn std::error::Error, detail: Option<String>) -> Self {
        let mut line = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            line = format!("{line}: {cause}");
            source = cause.source();
        }
        eprintln!("request failed: {line}");
        let problem = Self::plain(StatusCode::INTERNAL_SERVER_ERROR);
        match detail {
            Some(detail) => Self {
                detail: detail.into(),
                ..problem
            },
            None => problem,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        json_response(
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            Self::CONTENT_TYPE,
            self.to_json(),
        )
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        problem.into_response()
    }
}

/// A response with a body of the given type.
pub(crate) fn json_response(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response {
    (
        status,
        [(CONTENT_TYPE, HeaderValue::from_static(kind))],
        body,
    )
        .into_response()
}

/// A request whose body or query is not what the handler takes, answered in the
/// shape that FastAPI gives it: `{"detail":[{"type":…,"loc":[…],"msg":…,"input":…}]}`
/// with status 422. Extractors of this SDK reject with it.
#[derive(Debug)]
pub struct Invalid(Detail);

#[derive(Debug)]
enum Detail {
    /// 400, as FastAPI answers a body that is not text.
    Unreadable,
    /// 422.
    Errors(Vec<Error>),
}

#[derive(Debug, Serialize)]
struct Error {
    r#type: &'static str,
    loc: Vec<Loc>,
    msg: Cow<'static, str>,
    input: RawJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctx: Option<serde_json::Value>,
}

/// One step of the way to what is wrong.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Loc {
    Name(Cow<'static, str>),
    Index(usize),
}

impl From<&'static str> for Loc {
    fn from(name: &'static str) -> Self {
        Self::Name(name.into())
    }
}

/// The largest body that an answer quotes, in bytes of JSON: the answer must
/// keep within the limits of a response.
const LARGEST_INPUT: usize = 256 * 1024;

impl Invalid {
    /// A body that is not UTF-8, or nested deeper than anyone means.
    pub(crate) fn unreadable() -> Self {
        Self(Detail::Unreadable)
    }

    pub(crate) fn new(
        kind: &'static str,
        loc: impl IntoIterator<Item = Loc>,
        msg: impl Into<Cow<'static, str>>,
        input: RawJson,
        ctx: Option<serde_json::Value>,
    ) -> Self {
        let input = if input.as_str().len() > LARGEST_INPUT {
            RawJson::null()
        } else {
            input
        };
        Self(Detail::Errors(vec![Error {
            r#type: kind,
            loc: loc.into_iter().collect(),
            msg: msg.into(),
            input,
            ctx,
        }]))
    }

    /// The same with what is wrong with another part of the request.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Detail::Errors(mut all), Detail::Errors(more)) => {
                all.extend(more);
                Self(Detail::Errors(all))
            }
            (unreadable, _) => Self(unreadable),
        }
    }
}

impl IntoResponse for Invalid {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            detail: Vec<Error>,
        }
        match self.0 {
            Detail::Unreadable => json_response(
                StatusCode::BAD_REQUEST,
                "application/json",
                br#"{"detail":"There was an error parsing the body"}"#.to_vec(),
            ),
            Detail::Errors(detail) => json_response(
                StatusCode::UNPROCESSABLE_ENTITY,
                "application/json",
                serde_json::to_vec(&Body { detail }).unwrap_or_default(),
            ),
        }
    }
}

/// As FastAPI documents it.
impl utoipa::PartialSchema for Invalid {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let error = ObjectBuilder::new()
            .property("type", text().description(Some("What kind of error it is")))
            .property(
                "loc",
                ArrayBuilder::new()
                    .items(RawJson::schema())
                    .description(Some("Where: names and indexes, from the outside in")),
            )
            .property("msg", text().description(Some("What is wrong, for people")))
            .property("input", RawJson::schema())
            .property("ctx", ObjectBuilder::new())
            .required("type")
            .required("loc")
            .required("msg")
            .required("input");
        ObjectBuilder::new()
            .description(Some("What is wrong with a request"))
            .property("detail", ArrayBuilder::new().items(error))
            .required("detail")
            .examples([serde_json::json!({"detail": [{
                "type": "missing", "loc": ["body"], "msg": "Field required", "input": null
            }]})])
            .into()
    }
}

impl utoipa::ToSchema for Invalid {}
