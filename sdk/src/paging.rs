//! Pages of a long list, as query parameters.

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde_json::json;
use utoipa::IntoParams;

use crate::json::RawJson;
use crate::problem::Invalid;
use crate::state::Cursor;

/// Which page of a list a request asks for, by `?limit=` and `?after=`. Bad
/// values are answered with 422 in FastAPI's shape.
///
/// ```
/// use tidemill::{Json, Log, Paging, Problem, RawJson};
///
/// static PARCELS: Log<RawJson> = Log::new("parcels");
///
/// async fn list(page: Paging) -> Result<Json<Vec<RawJson>>, Problem> {
///     let page = PARCELS.page(page.after, page.limit)?;
///     Ok(Json(page.into_values()))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// The most items to return.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    pub limit: u32,
    /// Where to go on: the `next` of the page before.
    #[param(value_type = Option<String>)]
    pub after: Option<Cursor>,
}

impl Default for Paging {
    fn default() -> Self {
        Self {
            limit: 100,
            after: None,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Paging {
    type Rejection = Invalid;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Invalid> {
        let mut limit = Ok(100);
        let mut after = Ok(None);
        // Of parameters with one name the last counts.
        let query = parts.uri.query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "limit" => limit = read_limit(&value),
                "after" => after = read_after(&value),
                _ => {}
            }
        }
        match (limit, after) {
            (Ok(limit), Ok(after)) => Ok(Self { limit, after }),
            (Err(limit), Err(after)) => Err(limit.and(after)),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }
}

fn read_after(text: &str) -> Result<Option<Cursor>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| {
        Invalid::new(
            "value_error",
            ["query".into(), "after".into()],
            format!("Value error, {error}"),
            RawJson::string(text),
            Some(json!({ "error": {} })),
        )
    })
}

fn read_limit(text: &str) -> Result<u32, Invalid> {
    let invalid = |kind, msg: &'static str, ctx| {
        let loc = ["query".into(), "limit".into()];
        Err(Invalid::new(kind, loc, msg, RawJson::string(text), ctx))
    };
    match integer(text) {
        Integer::NotOne => invalid(
            "int_parsing",
            "Input should be a valid integer, unable to parse string as an integer",
            None,
        ),
        Integer::TooLong => invalid(
            "int_parsing_size",
            "Unable to parse input string as an integer, exceeded maximum size",
            None,
        ),
        Integer::Is(..1) => invalid(
            "greater_than_equal",
            "Input should be greater than or equal to 1",
            Some(json!({ "ge": 1 })),
        ),
        Integer::Is(1001..) => invalid(
            "less_than_equal",
            "Input should be less than or equal to 1000",
            Some(json!({ "le": 1000 })),
        ),
        Integer::Is(limit) => Ok(limit as u32),
    }
}

enum Integer {
    NotOne,
    TooLong,
    /// Held to what an `i64` holds.
    Is(i64),
}

/// An integer as FastAPI (pydantic) takes it: spaces around it, a sign, digits
/// with single underscores between them, and `.0` behind.
fn integer(text: &str) -> Integer {
    let text = text.trim();
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = match digits.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => {
            whole
        }
        Some(_) => return Integer::NotOne,
        None => digits,
    };
    if !digits
        .split('_')
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Integer::NotOne;
    }
    if digits.len() > 4300 {
        return Integer::TooLong;
    }
    let value = digits
        .bytes()
        .filter(u8::is_ascii_digit)
        .fold(0i64, |sum, digit| {
            sum.saturating_mul(10)
                .saturating_add(i64::from(digit - b'0'))
        });
    Integer::Is(if negative { -value } else { value })
}
