//! What the seed's user service does with a request, without publishing: parse,
//! validate, answer. Its native counterpart is `bench/src/native.rs`.

use serde::Serialize;
use tidemill::{Json, JsonObject, Problem, RawJson};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

tidemill::service! { http: routes }

/// What the service answers.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(create_user))
        .routes(routes!(hello))
}

#[utoipa::path(get, path = "/hello", responses((status = 200)))]
async fn hello() -> &'static str {
    "hello"
}

#[utoipa::path(post, path = "/users", responses((status = 200, body = Created)))]
async fn create_user(user: JsonObject) -> Result<Json<Created>, Problem> {
    let id = match user.get("id") {
        Some(id) => id,
        None => RawJson::of(&Uuid::now_v7())?,
    };
    Ok(Json(Created {
        message: "User created and sent to Kafka",
        id,
    }))
}

#[derive(Serialize, ToSchema)]
struct Created {
    message: &'static str,
    id: RawJson,
}
