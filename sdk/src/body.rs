//! Bodies of requests and responses as JSON.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;
use serde_json::value::RawValue;
use serde_path_to_error::Segment;

use crate::json::{self, JsonError, RawJson};
use crate::problem::{Invalid, Loc, Problem, json_response};

/// JSON of a type, as a request's body or as a response.
///
/// What comes is read as JSON whatever its `content-type` says. What is not
/// JSON, or not of the type, is answered with 422 in FastAPI's shape; the
/// handler isn't called then.
///
/// ```
/// use tidemill::Json;
///
/// #[derive(serde::Deserialize, serde::Serialize)]
/// struct Parcel {
///     weight: u32,
/// }
///
/// async fn weigh(Json(parcel): Json<Parcel>) -> Json<u32> {
///     Json(parcel.weight)
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Invalid;

    async fn from_request(request: Request, _: &S) -> Result<Self, Invalid> {
        let body = read(request.into_body()).await?;
        let text = json::compact(&body).map_err(not_json)?;
        let mut reader = serde_json::Deserializer::from_str(&text);
        serde_path_to_error::deserialize(&mut reader)
            .map(Self)
            .map_err(|error| not_of_type(&text, &error))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => json_response(StatusCode::OK, "application/json", body),
            Err(error) => Problem::from(error).into_response(),
        }
    }
}

/// A JSON object of any kind, as it was posted: to hand on a body byte for byte,
/// having looked into it.
///
/// A body is read as JSON whatever its `content-type` says; anything but an
/// object is answered with 422 in FastAPI's shape. An event's value can be one,
/// too.
///
/// ```
/// use tidemill::{JsonObject, Message, Problem};
///
/// async fn post(parcel: JsonObject) -> Result<(), Problem> {
///     let id = parcel.get("id").map(|id| id.text());
///     Message::new("parcels").key(id).bytes(parcel.into_raw()).publish()?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct JsonObject {
    raw: Bytes,
    compact: String,
}

impl JsonObject {
    /// Reads an object; gives none if the text is other JSON.
    ///
    /// # Errors
    /// If it is not JSON.
    pub fn parse(raw: impl Into<Bytes>) -> Result<Option<Self>, JsonError> {
        let raw = raw.into();
        let raw = raw
            .strip_prefix(b"\xef\xbb\xbf")
            .map_or_else(|| raw.clone(), |rest| raw.slice_ref(rest));
        let compact = json::compact(&raw)?;
        Ok(compact.starts_with('{').then_some(Self { raw, compact }))
    }

    /// The bytes as they came (but for a byte order mark, which JSON must not
    /// be sent with).
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The bytes as they came.
    pub fn into_raw(self) -> Vec<u8> {
        self.raw.into()
    }

    /// The object without insignificant whitespace.
    pub fn to_json(&self) -> RawJson {
        RawJson::from_compact(self.compact.clone())
    }

    /// The member of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<RawJson> {
        json::member(&self.compact, name).map(|value| RawJson::from_compact(value.to_owned()))
    }
}

impl<S: Sync> FromRequest<S> for JsonObject {
    type Rejection = Invalid;

    async fn from_request(request: Request, _: &S) -> Result<Self, Invalid> {
        let raw = read(request.into_body()).await?;
        match Self::parse(raw.clone()) {
            Ok(Some(object)) => Ok(object),
            Ok(None) => Err(Invalid::new(
                "dict_type",
                ["body".into()],
                "Input should be a valid dictionary",
                RawJson::parse(&raw).map_err(not_json)?,
                None,
            )),
            Err(error) => Err(not_json(error)),
        }
    }
}

impl<'de> Deserialize<'de> for JsonObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: Box<str> = Box::<RawValue>::deserialize(deserializer)?.into();
        let compact = json::compact(raw.as_bytes()).map_err(D::Error::custom)?;
        match json::kind(&compact) {
            "an object" => Ok(Self {
                raw: raw.into_boxed_bytes().into_vec().into(),
                compact,
            }),
            other => Err(D::Error::custom(format_args!(
                "expected an object, found {other}"
            ))),
        }
    }
}

impl Serialize for JsonObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl utoipa::PartialSchema for JsonObject {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder};
        ObjectBuilder::new()
            .description(Some("Any JSON object"))
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .into()
    }
}

impl utoipa::ToSchema for JsonObject {}

/// The whole body. The host has limited its size already.
async fn read(body: Body) -> Result<Bytes, Invalid> {
    let body = body
        .collect()
        .await
        .map_err(|_| Invalid::unreadable())?
        .to_bytes();
    if body.is_empty() {
        return Err(Invalid::new(
            "missing",
            ["body".into()],
            "Field required",
            RawJson::null(),
            None,
        ));
    }
    Ok(body)
}

fn not_json(error: JsonError) -> Invalid {
    match error {
        JsonError::NotUtf8(_) | JsonError::TooDeep => Invalid::unreadable(),
        JsonError::Syntax { message, position } => Invalid::new(
            "json_invalid",
            ["body".into(), Loc::Index(position)],
            "JSON decode error",
            RawJson::from_compact("{}".to_owned()),
            Some(json!({ "error": message })),
        ),
    }
}

/// JSON, but not of the handler's type: where, and what serde says.
fn not_of_type(text: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> Invalid {
    let mut message = error.inner().to_string();
    // Serde counts lines and columns of the compact text, which nobody saw.
    if let Some(at) = message.rfind(" at line ") {
        message.truncate(at);
    }
    let mut input = RawJson::from_compact(text.to_owned());
    let mut loc = vec![Loc::from("body")];
    for segment in error.path() {
        match segment {
            Segment::Map { key } => {
                input = input.get(key).unwrap_or_else(RawJson::null);
                loc.push(Loc::Name(key.clone().into()));
            }
            Segment::Seq { index } => {
                input = input
                    .to::<Vec<RawJson>>()
                    .ok()
                    .and_then(|items| items.into_iter().nth(*index))
                    .unwrap_or_else(RawJson::null);
                loc.push(Loc::Index(*index));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    // Serde's way of saying it; FastAPI's names the member where it should be.
    let missing = message
        .strip_prefix("missing field `")
        .and_then(|rest| rest.strip_suffix('`'));
    if let Some(name) = missing {
        loc.push(Loc::Name(name.to_owned().into()));
        return Invalid::new("missing", loc, "Field required", input, None);
    }
    Invalid::new(
        "value_error",
        loc,
        format!("Value error, {message}"),
        input,
        Some(json!({ "error": {} })),
    )
}
