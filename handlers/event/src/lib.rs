//! The event service: publishes what is posted to it, and shows what has come
//! back through Kafka.

use serde::Serialize;
use tidemill::{
    Cursor, Event, Failure, Invalid, Json, JsonObject, Log, Message, Paging, Problem, RawJson,
    Topics,
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

static EVENTS: Log<RawJson> = Log::new("events");

tidemill::service! { http: routes, events: topics }

/// What the service answers.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(create_event, list_events))
}

/// What the service consumes.
pub fn topics() -> Topics {
    Topics::new().on("event_topic", keep_event)
}

/// Publishes an event
///
/// Takes any JSON object. Answered when Kafka has it.
#[utoipa::path(
    post, path = "/events",
    request_body(content = JsonObject, example = json!({"type": "signed-up", "user": 7})),
    responses((status = 200, body = Created), (status = 422, body = Invalid, description = "Not a JSON object")),
)]
async fn create_event(event: JsonObject) -> Result<Json<Created>, Problem> {
    Message::new("event_topic")
        .bytes(event.into_raw())
        .publish()?;
    Ok(Json(Created {
        message: "Event created and sent to Kafka",
    }))
}

/// Lists the events
///
/// What has been consumed, oldest first, as it was posted.
#[utoipa::path(
    get, path = "/events", params(Paging),
    responses((status = 200, body = Events), (status = 422, body = Invalid, description = "Not a page")),
)]
async fn list_events(page: Paging) -> Result<Json<Events>, Problem> {
    let page = EVENTS.page(page.after, page.limit)?;
    Ok(Json(Events {
        next: page.next.clone(),
        events: page.into_values(),
    }))
}

/// Keeps an event, to be listed.
async fn keep_event(event: Event<RawJson>) -> Result<(), Failure> {
    EVENTS.append(&event, &event.value)?;
    Ok(())
}

/// The answer to an event.
#[derive(Serialize, ToSchema)]
struct Created {
    #[schema(example = "Event created and sent to Kafka")]
    message: &'static str,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
struct Events {
    #[schema(example = json!([{"type": "signed-up", "user": 7}]))]
    events: Vec<RawJson>,
    /// Where the next page begins, if there is one: pass it as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cursor>,
}
