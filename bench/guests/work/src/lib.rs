//! What every system that is measured does with a request, whatever it got it
//! through: native hyper, Tidemill's own world, wasi:http 0.2 and 0.3. So all do
//! the same work. The SDK's router and FastAPI do it in their own ways.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hint::black_box;

use serde_json::value::RawValue;
use uuid::Uuid;

/// What a request is answered with.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The whole body.
    pub body: Cow<'static, [u8]>,
}

impl Answer {
    const fn new(status: u16, content_type: &'static str, body: Cow<'static, [u8]>) -> Self {
        Self {
            status,
            content_type,
            body,
        }
    }
}

/// Answers a request: `GET /hello` with text, `POST /users` with JSON after it
/// has read JSON, `POST /echo` with its body. `GET /spin` never ends.
#[must_use]
pub fn answer(method: &str, path: &str, body: Vec<u8>) -> Answer {
    match (method, path) {
        ("GET", "/hello") => Answer::new(200, "text/plain", Cow::Borrowed(b"hello")),
        ("POST", "/users") => match user(&body) {
            Some(user) => user.answer(),
            None => Answer::new(422, "application/json", Cow::Borrowed(b"")),
        },
        ("POST", "/echo") => Answer::new(200, "application/octet-stream", Cow::Owned(body)),
        ("GET", "/spin") => loop {
            black_box(());
        },
        _ => Answer::new(404, "text/plain", Cow::Borrowed(b"")),
    }
}

/// A user that was read.
#[derive(Debug)]
pub struct User {
    id: Box<RawValue>,
}

/// Reads a user, which is any JSON object; none if it is something else. One
/// without an id gets one.
#[must_use]
pub fn user(body: &[u8]) -> Option<User> {
    let mut user: BTreeMap<String, &RawValue> = serde_json::from_slice(body).ok()?;
    let id = match user.remove("id") {
        Some(id) => id.to_owned(),
        None => RawValue::from_string(format!("\"{}\"", Uuid::now_v7())).ok()?,
    };
    Some(User { id })
}

impl User {
    /// What it is published under.
    #[must_use]
    pub fn key(&self) -> String {
        let id = self.id.get();
        serde_json::from_str(id).unwrap_or_else(|_| id.to_owned())
    }

    /// What its client is told.
    #[must_use]
    pub fn answer(&self) -> Answer {
        #[derive(serde::Serialize)]
        struct Created<'a> {
            message: &'static str,
            id: &'a RawValue,
        }
        let created = Created {
            message: "User created and sent to Kafka",
            id: &self.id,
        };
        let body = serde_json::to_vec(&created).unwrap_or_default();
        Answer::new(200, "application/json", Cow::Owned(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_answered_with_its_id() {
        let answer = answer("POST", "/users", br#"{"name":"Ada","id":7}"#.to_vec());
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.body.as_ref(),
            br#"{"message":"User created and sent to Kafka","id":7}"#
        );
        assert_eq!(user(br#"{"id":"a"}"#).unwrap().key(), "a");
        assert_eq!(user(br#"{"id":7}"#).unwrap().key(), "7");
    }

    #[test]
    fn what_is_no_object_is_no_user() {
        assert_eq!(answer("POST", "/users", b"[]".to_vec()).status, 422);
        assert!(user(b"{").is_none());
    }
}
