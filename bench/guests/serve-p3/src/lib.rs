//! The same work as a component of wasi:http 0.3, for `wasmtime serve`.

// The names of its exports are none that a native linker takes, and `cargo test`
// links it.
#![cfg(target_arch = "wasm32")]

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Serve;

wasip3::http::service::export!(Serve);

impl Guest for Serve {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let (method, body) = match request.get_method() {
            Method::Get => ("GET", Vec::new()),
            Method::Post => ("POST", read(request).await),
            _ => ("", Vec::new()),
        };
        let answer = bench_work::answer(method, &path, body);

        // With a length, so that it need not be sent in chunks.
        let length = answer.body.len().to_string().into_bytes();
        let fields = [
            (
                "content-type".to_owned(),
                answer.content_type.as_bytes().to_vec(),
            ),
            ("content-length".to_owned(), length),
        ];
        let fields = Fields::from_list(&fields).expect("these are header fields");
        let (mut writer, body) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(fields, Some(body), trailers);
        response
            .set_status_code(answer.status)
            .expect("it is a status");
        // The body is read when the response has been returned.
        wit_bindgen::spawn_local(async move {
            writer.write_all(answer.body.into_owned()).await;
        });
        Ok(response)
    }
}

async fn read(request: Request) -> Vec<u8> {
    let (_, done) = wit_future::new(|| Ok(()));
    let (body, _trailers) = Request::consume_body(request, done);
    body.collect().await
}
