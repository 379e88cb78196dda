//! Components whose core module is written by hand, for what no compiler makes.

use std::fmt::Write as _;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::component::Component;
use crate::folder::root;

/// A service with an HTTP handler, by the text of its core module's parts.
#[derive(Clone, Debug, Default)]
pub struct CoreHttp {
    /// What `handle` does; it leaves the address of a response.
    pub handle: String,
    /// What else is in the module.
    pub more: String,
    /// Pages of memory at the start.
    pub pages: u32,
}

impl CoreHttp {
    /// A handler whose response has these five fields as they are in memory:
    /// status, then address and length of headers and of body.
    #[must_use]
    pub fn answering(response: [u32; 5]) -> CoreHttp {
        let mut bytes = String::new();
        for field in response {
            for byte in field.to_le_bytes() {
                let _ = write!(bytes, "\\{byte:02x}");
            }
        }
        CoreHttp {
            handle: "i32.const 16".to_owned(),
            more: format!("(data (i32.const 16) \"{bytes}\")"),
            pages: 1,
        }
    }

    /// The component, with its manifest.
    ///
    /// # Panics
    /// If it is not valid.
    #[must_use]
    pub fn component(&self, manifest: &str) -> Component {
        let wat = format!(
            r#"(module
                (memory (export "memory") {pages})
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 4096)
                (func (export "tidemill:service/http@0.1.0#handle")
                    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                    {handle})
                {more})"#,
            pages = self.pages.max(1),
            handle = self.handle,
            more = self.more,
        );
        let mut module = wat::parse_str(&wat).unwrap();
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(root().join("wit")).unwrap();
        let world = resolve
            .select_world(&[package], Some("http-handler"))
            .unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        let encoded = ComponentEncoder::default()
            .module(&module)
            .unwrap()
            .encode()
            .unwrap();
        Component(encoded).with(manifest)
    }
}
