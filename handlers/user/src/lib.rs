//! The user service: takes users and publishes them to `user_topic`.

use serde::Serialize;
use tidemill::{Invalid, Json, JsonObject, Message, Problem, RawJson};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

tidemill::service! { http: routes }

/// What the service answers.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(create_user))
}

/// Creates a user
///
/// Takes any JSON object. Its `id`, or a new UUID if it has none, is the key
/// that it is published under. Answered when Kafka has it.
#[utoipa::path(
    post, path = "/users",
    request_body(content = JsonObject, example = json!({"id": 7, "name": "Ada"})),
    responses((status = 200, body = Created), (status = 422, body = Invalid, description = "Not a JSON object")),
)]
async fn create_user(user: JsonObject) -> Result<Json<Created>, Problem> {
    let id = match user.get("id").filter(|id| !is_blank(id)) {
        Some(id) => id,
        None => RawJson::of(&Uuid::now_v7())?,
    };
    let key = id.text();
    if key.len() > LONGEST_ID {
        return Err(Problem::unprocessable("`id` is longer than 1024 bytes"));
    }
    Message::new("user_topic")
        .key(key)
        .bytes(user.into_raw())
        .publish()?;
    Ok(Json(Created {
        message: "User created and sent to Kafka",
        id,
    }))
}

/// In bytes. Whoever keeps users by id has to keep it, too.
const LONGEST_ID: usize = 1024;

/// Whether this is as good as no id.
fn is_blank(id: &RawJson) -> bool {
    id.is_null() || id.text().is_empty()
}

/// The answer to a user.
#[derive(Serialize, ToSchema)]
struct Created {
    #[schema(example = "User created and sent to Kafka")]
    message: &'static str,
    /// The user's own id, or the one made for it.
    #[schema(example = 7)]
    id: RawJson,
}
