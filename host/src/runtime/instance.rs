//! An instance: a component's memory and code, running one invocation at a
//! time.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Lower, TypedFunc,
};
use wasmtime::{Store, Trap, UpdateDeadline};

use super::bindings::events::exports::tidemill::service::events as events_wit;
use super::bindings::http::exports::tidemill::service::http as http_wit;
use super::component::{self, Component, Exports};
use super::context::Context;
use crate::effects::Effects;
use crate::invocation::{Event, Failure, Request, Response};
use crate::state::View;

/// One instance of a component.
///
/// A call that ends well, or with a failure of the handler's own, leaves it fit
/// for the next one. After a trap or a deadline it must be dropped: the calls
/// take it by value and give it back only where it may be used again.
pub struct Instance {
    store: Store<Context>,
    http: Option<TypedFunc<(http_wit::Request,), (http_wit::Response,)>>,
    events: Option<TypedFunc<(events_wit::Event,), (Handled,)>>,
    describe: Option<TypedFunc<(), (String,)>>,
    calls: u32,
}

/// What an event handler says of an event.
type Handled = Result<(), events_wit::Failure>;

/// What a call came to, and the instance if it may be used again.
pub(crate) type Called<T> = (Result<(T, Effects), Failure>, Option<Instance>);

impl Instance {
    pub(super) async fn new(
        component: &Component,
        pre: &InstancePre<Context>,
        exports: Exports,
    ) -> Result<Instance, Failure> {
        let mut store = Store::new(pre.engine(), Context::new(component));
        store.limiter(|context| &mut context.memory);
        // Every tick the guest steps aside for other tasks; its deadline is a
        // timer around the whole call.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        let limit = component.manifest.limits.time;
        let made = tokio::time::timeout(limit, pre.instantiate_async(&mut store)).await;
        let instance = match made {
            Ok(Ok(instance)) => instance,
            Ok(Err(error)) if store.data().memory.hit => return Err(trapped(&store, &error)),
            Ok(Err(error)) => return Err(Failure::Instantiate(format!("{error:#}"))),
            Err(_) => return Err(Failure::Timeout { limit }),
        };
        let http = typed(&mut store, &instance, component::HTTP, exports.http)?;
        let events = typed(&mut store, &instance, component::EVENTS, exports.events)?;
        let describe = typed(&mut store, &instance, component::DESCRIBE, exports.describe)?;
        Ok(Instance {
            store,
            http,
            events,
            describe,
            calls: 0,
        })
    }

    /// How many calls it has taken.
    pub fn calls(&self) -> u32 {
        self.calls
    }

    fn begin(&mut self, view: View) {
        self.calls = self.calls.saturating_add(1);
        self.store.set_epoch_deadline(1);
        let context = self.store.data_mut();
        context.view = view;
        context.effects = Effects::default();
    }

    fn end(&mut self) -> Effects {
        let context = self.store.data_mut();
        context.view = View::NotGranted;
        std::mem::take(&mut context.effects)
    }

    /// Calls the HTTP handler.
    pub async fn request(
        mut self,
        request: Request,
        view: View,
        time: Duration,
        max_response: u64,
    ) -> Called<Response> {
        self.begin(view);
        let Some(handler) = &self.http else {
            return (Err(no_handler("requests")), Some(self));
        };
        let request = http_wit::Request {
            method: request.method,
            target: request.target,
            scheme: "http".to_owned(),
            authority: request.authority,
            headers: request.headers,
            body: request.body,
        };
        let call = handler.call_async(&mut self.store, (request,));
        let called = tokio::time::timeout(time, call).await;
        match self.finished(called, time) {
            Ok((response,)) => {
                let effects = self.end();
                let checked = check_response(response, max_response);
                (checked.map(|response| (response, effects)), Some(self))
            }
            Err(failure) => (Err(failure), None),
        }
    }

    /// Calls the event handler.
    pub async fn event(
        mut self,
        event: &Event,
        attempt: u32,
        view: View,
        time: Duration,
    ) -> Called<()> {
        self.begin(view);
        let Some(handler) = &self.events else {
            return (Err(no_handler("events")), Some(self));
        };
        let event = events_wit::Event {
            topic: event.topic.to_string(),
            partition: event.partition.try_into().unwrap_or_default(),
            offset: event.offset.try_into().unwrap_or_default(),
            timestamp: event.timestamp.and_then(|time| time.try_into().ok()),
            key: event.key.as_deref().map(<[u8]>::to_vec),
            value: event.value.as_deref().map(<[u8]>::to_vec),
            headers: event
                .headers
                .iter()
                .map(|(name, value)| events_wit::Header {
                    name: name.clone(),
                    value: value.as_deref().map(<[u8]>::to_vec),
                })
                .collect(),
            attempt,
        };
        let call = handler.call_async(&mut self.store, (event,));
        let called = tokio::time::timeout(time, call).await;
        match self.finished(called, time) {
            Ok((result,)) => {
                let effects = self.end();
                let result = match result {
                    Ok(()) => Ok(((), effects)),
                    Err(events_wit::Failure::Retry(why)) => Err(Failure::Retry(why)),
                    Err(events_wit::Failure::RetryAfter(later)) => Err(Failure::RetryAfter(
                        later.reason,
                        Duration::from_millis(later.after),
                    )),
                    Err(events_wit::Failure::Reject(why)) => Err(Failure::Reject(why)),
                };
                (result, Some(self))
            }
            Err(failure) => (Err(failure), None),
        }
    }

    /// Asks for the OpenAPI document.
    pub(super) async fn describe(&mut self, time: Duration) -> Result<String, Failure> {
        self.begin(View::NotGranted);
        let Some(describe) = &self.describe else {
            return Err(no_handler("describe"));
        };
        let call = describe.call_async(&mut self.store, ());
        let called = tokio::time::timeout(time, call).await;
        let (document,) = self.finished(called, time)?;
        self.end();
        Ok(document)
    }

    fn finished<T>(
        &self,
        called: Result<wasmtime::Result<T>, tokio::time::error::Elapsed>,
        limit: Duration,
    ) -> Result<T, Failure> {
        match called {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(trapped(&self.store, &error)),
            Err(_) => Err(Failure::Timeout { limit }),
        }
    }
}

/// An export as a function of the types that wit/ gives it.
fn typed<P, R>(
    store: &mut Store<Context>,
    instance: &wasmtime::component::Instance,
    name: &str,
    export: Option<ComponentExportIndex>,
) -> Result<Option<TypedFunc<P, R>>, Failure>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    let function = export.map(|export| instance.get_typed_func(store, export));
    function.transpose().map_err(|cause| {
        Failure::Instantiate(format!(
            "the export {name} has other types than wit/ says: {cause:#}"
        ))
    })
}

fn no_handler(kind: &str) -> Failure {
    Failure::Instantiate(format!("the component has no handler for {kind}"))
}

/// What a trap means. Its backtrace is for the log of whoever wrote the
/// handler; clients never see it.
fn trapped(store: &Store<Context>, error: &wasmtime::Error) -> Failure {
    let memory = &store.data().memory;
    // A guest that is refused memory ends itself, one way or another.
    if memory.hit {
        return Failure::Memory {
            limit: memory.limit,
        };
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) => Failure::Trap(match backtrace(error) {
            Some(backtrace) => format!("{trap}\n{backtrace}"),
            None => trap.to_string(),
        }),
        None => Failure::Trap(format!("{error:#}")),
    }
}

fn backtrace(error: &wasmtime::Error) -> Option<String> {
    error
        .downcast_ref::<wasmtime::WasmBacktrace>()
        .map(|backtrace| backtrace.to_string().trim_end().to_owned())
}

/// Header fields that are the host's: the body's framing and the connection.
const OURS: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn check_response(response: http_wit::Response, max: u64) -> Result<Response, Failure> {
    let size = response.body.len();
    if size as u64 > max {
        return Err(Failure::ResponseTooLarge { size, limit: max });
    }
    let status = StatusCode::from_u16(response.status)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| {
            Failure::Invalid(format!(
                "the status {} is not one of 200 to 599",
                response.status
            ))
        })?;
    let mut headers = HeaderMap::with_capacity(response.headers.len() + 2);
    for (name, value) in response.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Failure::Invalid(format!("{name:?} is not a name that HTTP allows")))?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| {
            Failure::Invalid(format!("the value of {name} has bytes that HTTP forbids"))
        })?;
        if !OURS.contains(&name) && !is_hop_by_hop(name.as_str()) {
            headers.append(name, value);
        }
    }
    Ok(Response {
        status,
        headers,
        body: Bytes::from(response.body),
    })
}

/// Fields that mean one connection and not the message (RFC 9110, section
/// 7.6.1), in lower case.
pub(crate) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}
