//! The order service: makes an order of each user on `user_topic`, and shows
//! them. It never talks to the user service.

use axum::extract::Path;
use serde::Serialize;
use tidemill::{
    Cursor, Event, Failure, Invalid, Json, JsonObject, Log, Paging, Position, Problem, RawJson,
    Table, Topics,
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Orders in the order in which they first came.
static ORDERS: Log<RawJson> = Log::new("orders");
/// Where the order of an id is.
static BY_ID: Table<Position> = Table::new("by-id");

tidemill::service! { http: routes, events: topics }

/// What the service answers.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list_orders))
        .routes(routes!(get_order))
}

/// What the service consumes.
pub fn topics() -> Topics {
    Topics::new().on("user_topic", make_order)
}

/// Keeps the order of a user: a new one, a newer one in the place of the one
/// before, or none if the user is gone.
async fn make_order(user: Event<Option<JsonObject>>) -> Result<(), Failure> {
    let id = id_of(&user)?;
    let known = BY_ID.get(&id)?;
    match (&user.value, known) {
        (Some(order), Some(place)) => {
            ORDERS.replace(&place, &order.to_json())?;
        }
        (Some(order), None) => BY_ID.put(&id, &ORDERS.append(&user, &order.to_json())?)?,
        (None, Some(place)) => {
            ORDERS.remove(&place)?;
            BY_ID.delete(&id)?;
        }
        (None, None) => {}
    }
    Ok(())
}

/// The user's id: the record's key, or else what the user has as its `id`.
fn id_of(user: &Event<Option<JsonObject>>) -> Result<Vec<u8>, Failure> {
    let own = || user.value.as_ref()?.get("id").filter(|id| !id.is_null());
    let key = user.key.clone().filter(|key| !key.is_empty());
    key.or_else(|| own().map(|id| id.text().into_bytes()))
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Failure::reject("a user without an id: no key, and no `id` in its value"))
}

/// Lists the orders
///
/// Oldest first; the user of each as it was posted last.
#[utoipa::path(
    get, path = "/orders", params(Paging),
    responses((status = 200, body = Orders), (status = 422, body = Invalid, description = "Not a page")),
)]
async fn list_orders(page: Paging) -> Result<Json<Orders>, Problem> {
    let page = ORDERS.page(page.after, page.limit)?;
    Ok(Json(Orders {
        next: page.next.clone(),
        orders: page.into_values(),
    }))
}

/// Gets one order
#[utoipa::path(
    get, path = "/orders/{id}", params(("id" = String, Path, description = "The user's id", example = "7")),
    responses((status = 200, body = JsonObject), (status = 404, body = Problem, content_type = "application/problem+json")),
)]
async fn get_order(Path(id): Path<String>) -> Result<Json<RawJson>, Problem> {
    // Producers that don't partition by key spread an id over shards: any of its
    // orders will do.
    let place = BY_ID.get_all(&id)?.pop();
    let order = match place {
        Some(place) => ORDERS.get(&place.value)?,
        None => None,
    };
    let order = order.ok_or_else(|| Problem::not_found(format!("There is no order {id}")))?;
    Ok(Json(order.value))
}

/// A page of orders.
#[derive(Serialize, ToSchema)]
struct Orders {
    #[schema(example = json!([{"id": 7, "name": "Ada"}]))]
    orders: Vec<RawJson>,
    /// Where the next page begins, if there is one: pass it as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cursor>,
}
