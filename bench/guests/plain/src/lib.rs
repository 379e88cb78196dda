//! Answers requests with nothing between it and the contract: what a call of a
//! handler costs.

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        world: "tidemill:service/http-handler",
    });
}

use bindings::exports::tidemill::service::http::{Guest, Request, Response};

struct Plain;

bindings::export!(Plain with_types_in bindings);

impl Guest for Plain {
    async fn handle(request: Request) -> Response {
        let answer = bench_work::answer(&request.method, &request.target, request.body);
        let content_type = answer.content_type.as_bytes().to_vec();
        Response {
            status: answer.status,
            headers: vec![("content-type".to_owned(), content_type)],
            body: answer.body.into_owned(),
        }
    }
}
