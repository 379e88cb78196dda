//! What wit-bindgen makes of `wit/`, one module a world: a component takes on
//! only the worlds whose `export!` it expands, and of the imports only those
//! that it calls.
#![allow(missing_docs, unreachable_pub, clippy::all)]

pub mod imports {
    wit_bindgen::generate!({
        path: "../wit",
        world: "tidemill:service/imports",
        generate_all,
    });
}

pub mod http {
    wit_bindgen::generate!({
        path: "../wit",
        world: "tidemill:service/http-handler",
        runtime_path: "::tidemill::__private::wit_bindgen::rt",
        default_bindings_module: "::tidemill::__private::bindings::http",
        export_macro_name: "export_http",
        pub_export_macro: true,
    });
}

pub mod events {
    wit_bindgen::generate!({
        path: "../wit",
        world: "tidemill:service/event-puller",
        runtime_path: "::tidemill::__private::wit_bindgen::rt",
        default_bindings_module: "::tidemill::__private::bindings::events",
        export_macro_name: "export_events",
        pub_export_macro: true,
    });
}

pub mod describe {
    wit_bindgen::generate!({
        path: "../wit",
        world: "tidemill:service/described",
        runtime_path: "::tidemill::__private::wit_bindgen::rt",
        default_bindings_module: "::tidemill::__private::bindings::describe",
        export_macro_name: "export_describe",
        pub_export_macro: true,
    });
}
