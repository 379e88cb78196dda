//! A service: its routes and topics, and the macro that makes a component of
//! them.

use std::cell::RefCell;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use tower::Service;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::problem::Problem;

/// Makes the crate a service: `http` names a function that gives the routes,
/// `events` one that gives the topics. Either may be left out.
///
/// ```
/// # use tidemill::Topics;
/// # use utoipa_axum::router::OpenApiRouter;
/// tidemill::service! { http: routes, events: topics }
///
/// pub fn routes() -> OpenApiRouter {
///     OpenApiRouter::new()
/// }
///
/// pub fn topics() -> Topics {
///     Topics::new()
/// }
/// ```
///
/// `routes` returns a `utoipa_axum::router::OpenApiRouter`, or an
/// `axum::Router` if it is not to be documented. In a component the macro
/// expands to the exports of the contract; natively it only checks the types.
/// Both functions are called once for each instance of the component, not for
/// each call.
#[macro_export]
macro_rules! service {
    (http: $routes:path, events: $topics:path $(,)?) => {
        $crate::__http!($routes);
        $crate::__events!($topics);
    };
    (events: $topics:path, http: $routes:path $(,)?) => {
        $crate::service! { http: $routes, events: $topics }
    };
    (http: $routes:path $(,)?) => {
        $crate::__http!($routes);
    };
    (events: $topics:path $(,)?) => {
        $crate::__events!($topics);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __http {
    ($routes:path) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() -> $crate::__private::Routes = || $crate::__private::Routes::new($routes());

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::__private::bindings;
            use bindings::http::exports::tidemill::service::http;

            ::std::thread_local! {
                static ROUTES: &'static $crate::__private::Routes =
                    ::std::boxed::Box::leak(::std::boxed::Box::new($crate::__private::Routes::new($routes())));
            }

            struct Component;

            impl http::Guest for Component {
                async fn handle(request: http::Request) -> http::Response {
                    $crate::__private::answer(ROUTES.with(|routes| *routes), request).await
                }
            }

            impl bindings::describe::exports::tidemill::service::describe::Guest for Component {
                fn openapi() -> ::std::string::String {
                    ROUTES.with(|routes| {
                        routes.openapi(&$crate::__private::About {
                            name: ::core::env!("CARGO_PKG_NAME"),
                            version: ::core::env!("CARGO_PKG_VERSION"),
                            description: ::core::env!("CARGO_PKG_DESCRIPTION"),
                        })
                    })
                }
            }

            bindings::http::export_http!(Component with_types_in bindings::http);
            bindings::describe::export_describe!(Component with_types_in bindings::describe);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __events {
    ($topics:path) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() -> $crate::Topics = $topics;

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use bindings::events::exports::tidemill::service::events;
            use $crate::__private::bindings;

            ::std::thread_local! {
                static TOPICS: &'static $crate::Topics =
                    ::std::boxed::Box::leak(::std::boxed::Box::new($topics()));
            }

            struct Component;

            impl events::Guest for Component {
                async fn handle(
                    event: events::Event,
                ) -> ::core::result::Result<(), events::Failure> {
                    $crate::__private::consume(TOPICS.with(|topics| *topics), event).await
                }
            }

            impl bindings::events::exports::tidemill::service::event_loop::Guest for Component {
                async fn run() {
                    $crate::__private::pull(TOPICS.with(|topics| *topics)).await;
                }
            }

    bindings::events::export_events!(Component with_types_in bindings::events);
        };
    };
}

/// What can be a service's routes.
pub trait HttpService {
    /// The router, and its OpenAPI document.
    fn into_parts(self) -> (Router, OpenApi);
}

impl HttpService for OpenApiRouter {
    fn into_parts(self) -> (Router, OpenApi) {
        self.split_for_parts()
    }
}

impl HttpService for Router {
    fn into_parts(self) -> (Router, OpenApi) {
        OpenApiRouter::from(self).split_for_parts()
    }
}

/// Name, version and description of the crate that is the service.
pub struct About {
    /// `CARGO_PKG_NAME`.
    pub name: &'static str,
    /// `CARGO_PKG_VERSION`.
    pub version: &'static str,
    /// `CARGO_PKG_DESCRIPTION`; empty if there is none.
    pub description: &'static str,
}

/// A router, ready to answer, with the document that goes with it.
pub struct Routes {
    router: RefCell<Router>,
    openapi: OpenApi,
}

impl Routes {
    /// Adds the answers for unknown paths and methods.
    pub fn new(service: impl HttpService) -> Self {
        let (router, openapi) = service.into_parts();
        let router = router
            .fallback(async || Problem::plain(StatusCode::NOT_FOUND))
            .method_not_allowed_fallback(async || Problem::plain(StatusCode::METHOD_NOT_ALLOWED));
        Self {
            router: RefCell::new(router),
            openapi,
        }
    }

    /// The OpenAPI document as JSON. Its title, version and description are the
    /// crate's, unless the service has given it a title of its own.
    pub fn openapi(&self, about: &About) -> String {
        let mut document = self.openapi.clone();
        let info = &mut document.info;
        // What utoipa-axum gives a document that nobody named: nothing, or its
        // own crate.
        if matches!(info.title.as_str(), "" | "utoipa-axum") {
            about.name.clone_into(&mut info.title);
            about.version.clone_into(&mut info.version);
            info.description = Some(about.description.to_owned()).filter(|text| !text.is_empty());
            info.license = None;
            info.contact = None;
        }
        serde_json::to_string(&document).unwrap_or_default()
    }
}

/// A request as the contract has it.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) authority: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Bytes,
}

/// A response as the contract has it.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Bytes,
}

/// Answers one request.
pub(crate) async fn answer(routes: &Routes, request: Request) -> Response {
    let response = match http::Request::<Body>::try_from(request) {
        Ok(request) => {
            // The borrow ends with this statement: the future owns what it needs.
            let answer = routes.router.borrow_mut().call(request);
            match answer.await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        Err(error) => {
            Problem::bad_request(format!("Not a request that HTTP allows: {error}")).into()
        }
    };
    let (parts, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => Response {
            status: parts.status.as_u16(),
            headers: parts
                .headers
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
                .collect(),
            body: body.to_bytes(),
        },
        Err(error) => {
            eprintln!("the response's body could not be read: {error}");
            Response {
                status: 500,
                headers: vec![(CONTENT_TYPE.to_string(), Problem::CONTENT_TYPE.into())],
                body: Problem::plain(StatusCode::INTERNAL_SERVER_ERROR)
                    .to_json()
                    .into(),
            }
        }
    }
}

impl TryFrom<Request> for http::Request<Body> {
    type Error = http::Error;

    fn try_from(request: Request) -> http::Result<Self> {
        let mut made = http::Request::builder()
            .method(request.method.as_str())
            .uri(request.target)
            .body(Body::from(request.body))?;
        let headers = made.headers_mut();
        headers.reserve(request.headers.len() + 1);
        for (name, value) in request.headers {
            headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        // HTTP/2 has the host name elsewhere; handlers look for it here.
        if !request.authority.is_empty() && !headers.contains_key(HOST) {
            headers.insert(HOST, HeaderValue::try_from(request.authority)?);
        }
        Ok(made)
    }
}
