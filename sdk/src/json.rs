//! JSON kept as it was written.
//!
//! The services that Tidemill replaces read JSON with Python and write it
//! again, so their clients see what they sent: keys in their order, numbers
//! with all their digits. One reader does the same here, on text alone: it
//! checks the text, takes the insignificant whitespace out, and writes strings
//! the one way that `json.dumps(…, ensure_ascii=False, separators=(",", ":"))`
//! does. What is wrong with a text it says in Python's words, since that is what
//! clients of FastAPI read.

use std::ops::Range;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// How deep arrays and objects may be nested. Python gives up a little later.
const DEEPEST: usize = 900;

/// A JSON value as it was written, but for whitespace between its parts and for
/// escapes that need not be.
///
/// Use it for what a service hands on and does not look into. Numbers keep their
/// spelling (`1.0`, `1e3`, integers of any size), objects the order of their
/// keys; of two members with one name the last counts, in the place of the
/// first.
///
/// ```
/// use tidemill::RawJson;
///
/// let json = RawJson::parse(r#" { "id": 1.0, "name": "\u0041d\u00e8le" } "#)?;
/// assert_eq!(json.as_str(), r#"{"id":1.0,"name":"Adèle"}"#);
/// assert_eq!(json.get("id").unwrap().as_str(), "1.0");
/// # Ok::<(), tidemill::JsonError>(())
/// ```
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

/// Why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is not text in UTF-8.
    #[error("not UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// It is nested deeper than 900 levels.
    #[error("nested deeper than 900 levels")]
    TooDeep,
    /// It breaks the grammar.
    #[error("{message} at character {position}")]
    Syntax {
        /// What is wrong, as Python's `json` says it.
        message: &'static str,
        /// Where: counted in characters, from 0.
        position: usize,
    },
}

impl RawJson {
    /// Reads a JSON text. A byte order mark before it is ignored (RFC 8259,
    /// section 8.1).
    ///
    /// # Errors
    /// If it is not JSON. `NaN` and `Infinity` are not.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, JsonError> {
        Ok(Self::from_compact(compact(text.as_ref())?))
    }

    /// The JSON form of a value.
    ///
    /// # Errors
    /// If it has none, such as a map whose keys are not text.
    pub fn of(value: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// From text that is compact JSON already.
    pub(crate) fn from_compact(text: String) -> Self {
        Self(RawValue::from_string(text).expect("the reader gives only JSON"))
    }

    /// From bytes that this type's own JSON was stored as.
    pub(crate) fn from_stored(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes).map(Self)
    }

    /// JSON's `null`.
    pub(crate) fn null() -> Self {
        Self::from_compact("null".to_owned())
    }

    /// A JSON string of this text.
    pub(crate) fn string(text: &str) -> Self {
        let mut out = String::with_capacity(text.len() + 2);
        write_string(&mut out, text);
        Self::from_compact(out)
    }

    /// The JSON text, compact.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        self.as_str().starts_with('{')
    }

    /// A string's own text; of anything else the JSON.
    pub fn text(&self) -> String {
        serde_json::from_str(self.as_str()).unwrap_or_else(|_| self.as_str().to_owned())
    }

    /// The member of this name, if this is an object that has one.
    pub fn get(&self, name: &str) -> Option<Self> {
        member(self.as_str(), name).map(|value| Self::from_compact(value.to_owned()))
    }

    /// This value as a type.
    ///
    /// # Errors
    /// If the type takes other JSON.
    pub fn to<T: serde::de::DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.as_str())
    }
}

/// Two are equal if they are written the same: `1` and `1.0` are not.
impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for RawJson {}

impl std::fmt::Display for RawJson {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(raw.get()).map_err(D::Error::custom)
    }
}

impl utoipa::PartialSchema for RawJson {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::schema::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::AnyValue)
            .description(Some("Any JSON value"))
            .into()
    }
}

impl utoipa::ToSchema for RawJson {}

/// What a compact JSON text is, in words.
pub(crate) fn kind(compact: &str) -> &'static str {
    match compact.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// The value of a member of a compact object.
pub(crate) fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let mut wanted = String::with_capacity(name.len() + 2);
    write_string(&mut wanted, name);
    let mut at = 1;
    if !object.starts_with('{') {
        return None;
    }
    while object.as_bytes().get(at) == Some(&b'"') {
        let key = at..value_end(object.as_bytes(), at);
        let value = key.end + 1..value_end(object.as_bytes(), key.end + 1);
        if object[key] == wanted {
            return Some(&object[value]);
        }
        at = value.end + 1;
    }
    None
}

/// Where the value that begins at `at` ends, in compact JSON.
fn value_end(json: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    let mut quoted = false;
    while let Some(byte) = json.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => {
                quoted = !quoted;
                if !quoted && depth == 0 {
                    return at + 1;
                }
            }
            _ if quoted => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' | b'}' | b']' | b':' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

/// Reads a JSON text and gives it in compact form.
pub(crate) fn compact(text: &[u8]) -> Result<String, JsonError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text =
        std::str::from_utf8(text).map_err(|error| JsonError::NotUtf8(error.valid_up_to()))?;
    let mut reader = Reader {
        text,
        at: 0,
        out: String::with_capacity(text.len()),
        open: Vec::new(),
        members: Vec::new(),
    };
    match reader.document() {
        Ok(()) => Ok(reader.out),
        Err(Wrong::TooDeep) => Err(JsonError::TooDeep),
        Err(Wrong::Here(message, at)) => Err(JsonError::Syntax {
            message,
            position: text.as_bytes()[..at.min(text.len())]
                .iter()
                .filter(|byte| (**byte as i8) >= -0x40)
                .count(),
        }),
    }
}

/// What is wrong: the message, and where in bytes.
enum Wrong {
    TooDeep,
    Here(&'static str, usize),
}

const VALUE: &str = "Expecting value";
const NAME: &str = "Expecting property name enclosed in double quotes";
const COLON: &str = "Expecting ':' delimiter";
const COMMA: &str = "Expecting ',' delimiter";
const EXTRA: &str = "Extra data";
const UNTERMINATED: &str = "Unterminated string starting at";
const CONTROL: &str = "Invalid control character at";
const ESCAPE: &str = "Invalid \\escape";
const UNICODE: &str = "Invalid \\uXXXX escape";

struct Reader<'a> {
    text: &'a str,
    at: usize,
    out: String,
    open: Vec<Open>,
    /// Of all open objects, the outermost first.
    members: Vec<Member>,
}

/// An array or object that has not been closed yet.
enum Open {
    Array,
    Object {
        /// Where its first member starts in `out`.
        start: usize,
        /// Where its members start in `members`.
        members: usize,
    },
}

/// A member of an object, as ranges of `out`.
struct Member {
    key: Range<usize>,
    end: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn wrong<T>(&self, message: &'static str) -> Result<T, Wrong> {
        Err(Wrong::Here(message, self.at))
    }

    fn document(&mut self) -> Result<(), Wrong> {
        self.space();
        self.value()?;
        self.space();
        match self.peek() {
            None => Ok(()),
            Some(_) => self.wrong(EXTRA),
        }
    }

    /// One value with all that is in it. A loop and not a recursion: how deep a
    /// text is nested must not be how deep the stack is.
    fn value(&mut self) -> Result<(), Wrong> {
        loop {
            let opened = match self.peek() {
                Some(b'{') => self.open_object()?,
                Some(b'[') => self.open_array()?,
                Some(b'"') => {
                    self.string()?;
                    false
                }
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ => return self.wrong(VALUE),
            };
            if !opened && self.after_value()? {
                return Ok(());
            }
        }
    }

    /// What follows a value: true if it was the outermost one, else the next
    /// value follows.
    fn after_value(&mut self) -> Result<bool, Wrong> {
        loop {
            let Some(open) = self.open.last() else {
                return Ok(true);
            };
            let close = match open {
                Open::Array => b']',
                Open::Object { .. } => {
                    if let Some(member) = self.members.last_mut() {
                        member.end = self.out.len();
                    }
                    b'}'
                }
            };
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.out.push(',');
                    self.space();
                    if close == b'}' {
                        self.key()?;
                    }
                    return Ok(false);
                }
                Some(byte) if byte == close => self.close(),
                _ => return self.wrong(COMMA),
            }
        }
    }

    /// True if a value follows.
    fn open_array(&mut self) -> Result<bool, Wrong> {
        self.open(Open::Array, '[')?;
        if self.peek() == Some(b']') {
            self.close();
            return Ok(false);
        }
        Ok(true)
    }

    /// True if a value follows.
    fn open_object(&mut self) -> Result<bool, Wrong> {
        let object = Open::Object {
            start: self.out.len() + 1,
            members: self.members.len(),
        };
        self.open(object, '{')?;
        if self.peek() == Some(b'}') {
            self.close();
            return Ok(false);
        }
        self.key()?;
        Ok(true)
    }

    fn open(&mut self, open: Open, bracket: char) -> Result<(), Wrong> {
        if self.open.len() == DEEPEST {
            return Err(Wrong::TooDeep);
        }
        self.open.push(open);
        self.out.push(bracket);
        self.at += 1;
        self.space();
        Ok(())
    }

    fn close(&mut self) {
        self.at += 1;
        match self.open.pop() {
            Some(Open::Object { start, members }) => {
                self.merge_members(start, members);
                self.out.push('}');
            }
            _ => self.out.push(']'),
        }
    }

    /// A member's name and the colon.
    fn key(&mut self) -> Result<(), Wrong> {
        if self.peek() != Some(b'"') {
            return self.wrong(NAME);
        }
        let start = self.out.len();
        self.string()?;
        let key = start..self.out.len();
        self.space();
        if self.peek() != Some(b':') {
            return self.wrong(COLON);
        }
        self.at += 1;
        self.out.push(':');
        self.space();
        self.members.push(Member { key, end: 0 });
        Ok(())
    }

    /// Ends an object. Where names occur twice, writes it again with the last
    /// value of each, in the place of its first.
    fn merge_members(&mut self, start: usize, first: usize) {
        let members = self.members.split_off(first);
        let name = |index: usize| &self.out[members[index].key.clone()];
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by(|a, b| name(*a).cmp(name(*b)).then(a.cmp(b)));
        if order.windows(2).all(|pair| name(pair[0]) != name(pair[1])) {
            return;
        }
        let mut kept: Vec<(usize, usize)> = order
            .chunk_by(|a, b| name(*a) == name(*b))
            .map(|same| (same[0], same[same.len() - 1]))
            .collect();
        kept.sort_unstable();
        let merged = kept
            .iter()
            .map(|(_, last)| &self.out[members[*last].key.start..members[*last].end])
            .collect::<Vec<_>>()
            .join(",");
        self.out.truncate(start);
        self.out.push_str(&merged);
    }

    fn word(&mut self, word: &str) -> Result<bool, Wrong> {
        if !self.text[self.at..].starts_with(word) {
            return self.wrong(VALUE);
        }
        self.out.push_str(word);
        self.at += word.len();
        Ok(false)
    }

    fn number(&mut self) -> Result<bool, Wrong> {
        let bytes = self.text.as_bytes();
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        let whole = self.at + usize::from(bytes[self.at] == b'-');
        let mut end = match bytes.get(whole) {
            Some(b'0') => whole + 1,
            Some(b'1'..=b'9') => digits(whole),
            _ => return self.wrong(VALUE),
        };
        if bytes.get(end) == Some(&b'.') && digits(end + 1) > end + 1 {
            end = digits(end + 1);
        }
        if let Some(b'e' | b'E') = bytes.get(end) {
            let sign = matches!(bytes.get(end + 1), Some(b'+' | b'-'));
            let exponent = end + 1 + usize::from(sign);
            if digits(exponent) > exponent {
                end = digits(exponent);
            }
        }
        self.out.push_str(&self.text[self.at..end]);
        self.at = end;
        Ok(false)
    }

    fn string(&mut self) -> Result<(), Wrong> {
        let text = self.text;
        let bytes = text.as_bytes();
        let begin = self.at;
        self.out.push('"');
        self.at += 1;
        loop {
            let from = self.at;
            while let Some(0x20..) = self.peek().filter(|byte| !matches!(byte, b'"' | b'\\')) {
                self.at += 1;
            }
            self.out.push_str(&text[from..self.at]);
            match self.peek() {
                None => return Err(Wrong::Here(UNTERMINATED, begin)),
                Some(b'"') => {
                    self.out.push('"');
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {}
                Some(_) => return self.wrong(CONTROL),
            }
            let plain = match bytes.get(self.at + 1) {
                None => return Err(Wrong::Here(UNTERMINATED, begin)),
                Some(b'u') => {
                    let character = self.unicode()?;
                    write_char(&mut self.out, character);
                    continue;
                }
                Some(b'/') => '/',
                Some(b'"') => '"',
                Some(b'\\') => '\\',
                Some(b'b') => '\u{8}',
                Some(b'f') => '\u{c}',
                Some(b'n') => '\n',
                Some(b'r') => '\r',
                Some(b't') => '\t',
                Some(_) => return self.wrong(ESCAPE),
            };
            write_char(&mut self.out, plain);
            self.at += 2;
        }
    }

    /// `\uXXXX`, or two of them that are one character. Half of a pair is none.
    fn unicode(&mut self) -> Result<char, Wrong> {
        let bytes = self.text.as_bytes();
        let unit = |at: usize| {
            let digits = bytes.get(at + 2..at + 6)?;
            if bytes[at] != b'\\' || bytes[at + 1] != b'u' {
                return None;
            }
            digits.iter().try_fold(0u32, |sum, digit| {
                Some(sum * 16 + char::from(*digit).to_digit(16)?)
            })
        };
        let wrong = Err(Wrong::Here(UNICODE, self.at + 1));
        let Some(first) = unit(self.at) else {
            return wrong;
        };
        if let Some(character) = char::from_u32(first) {
            self.at += 6;
            return Ok(character);
        }
        let Some(second) = unit(self.at + 6) else {
            // Python blames the second escape, if there is one.
            return match bytes.get(self.at + 6..self.at + 8) {
                Some(b"\\u") => Err(Wrong::Here(UNICODE, self.at + 7)),
                _ => wrong,
            };
        };
        match char::decode_utf16([first as u16, second as u16]).next() {
            Some(Ok(character)) => {
                self.at += 12;
                Ok(character)
            }
            _ => wrong,
        }
    }
}

/// Writes a string as Python does with `ensure_ascii=False`.
fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        write_char(out, character);
    }
    out.push('"');
}

fn write_char(out: &mut String, character: char) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        control @ '\0'..='\x1f' => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.push_str("\\u00");
            out.push(char::from(HEX[control as usize >> 4]));
            out.push(char::from(HEX[control as usize & 15]));
        }
        plain => out.push(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::{JsonError, RawJson, compact};

    fn text(json: &str) -> String {
        RawJson::parse(json).unwrap().as_str().to_owned()
    }

    #[test]
    fn what_was_written_stays_but_for_whitespace() {
        assert_eq!(
            text(" [ 1 , 2.50 , -0 , 1E+2 , 123456789012345678901234567890 ] "),
            "[1,2.50,-0,1E+2,123456789012345678901234567890]"
        );
        assert_eq!(
            text("{\n\t\"b\" : null ,\r\n \"a\" : { } , \"\" : [ ] }"),
            r#"{"b":null,"a":{},"":[]}"#
        );
        assert_eq!(
            text(r#"{"$serde_json::private::Number":"1","$serde_json::private::RawValue":"2"}"#),
            r#"{"$serde_json::private::Number":"1","$serde_json::private::RawValue":"2"}"#
        );
        assert_eq!(text("\u{feff}{}"), "{}");
    }

    #[test]
    fn strings_are_written_as_python_writes_them() {
        assert_eq!(
            text(r#""\u00e9\/\u0001\ud83d\ude00\b\f\n\r\t\u007f\u2028\"\\\u0041\u000a""#),
            "\"é/\\u0001😀\\b\\f\\n\\r\\t\u{7f}\u{2028}\\\"\\\\A\\n\""
        );
    }

    #[test]
    fn of_members_with_one_name_the_last_counts_in_the_first_place() {
        assert_eq!(text(r#"{"a":1,"b":2,"\u0061":3}"#), r#"{"a":3,"b":2}"#);
        assert_eq!(
            text(r#"{"x":{"a":1,"a":[{"c":1,"c":2}]},"y":0,"x":{"d":4,"d":5}}"#),
            r#"{"x":{"d":5},"y":0}"#
        );
        assert_eq!(
            text(r#"[{"a":1,"a":[{"c":1,"c":2}]},{"y":0}]"#),
            r#"[{"a":[{"c":2}]},{"y":0}]"#
        );
    }

    #[test]
    fn members_are_found_by_name() {
        let json =
            RawJson::parse(r#"{"a":"}\",\\","b":[1,{"id":2}],"id":{"x":[]},"é\n":7}"#).unwrap();
        assert_eq!(json.get("id").unwrap().as_str(), r#"{"x":[]}"#);
        assert_eq!(json.get("a").unwrap().text(), "}\",\\");
        assert_eq!(json.get("b").unwrap().as_str(), r#"[1,{"id":2}]"#);
        assert_eq!(json.get("é\n").unwrap().text(), "7");
        assert_eq!(json.get("x"), None);
        assert_eq!(RawJson::parse("[1]").unwrap().get("a"), None);
        assert_eq!(RawJson::parse("{}").unwrap().get("a"), None);
    }

    #[test]
    fn nesting_has_a_bottom() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(text(&nested(900)), nested(900));
        assert_eq!(compact(nested(901).as_bytes()), Err(JsonError::TooDeep));
        assert_eq!(
            compact("[".repeat(1_000_000).as_bytes()),
            Err(JsonError::TooDeep)
        );
    }

    #[test]
    fn what_serde_takes_and_no_other_is_json() {
        for json in [
            "",
            " ",
            "tru",
            "nul",
            "01",
            "1.",
            "-",
            ".5",
            "+1",
            "NaN",
            "Infinity",
            "\"\u{1}\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "[1 2]",
            "{1:2}",
            "[,]",
            "{,}",
            "[1,]",
            "\u{a0}1",
            "1e",
            "\"\\u+123\"",
        ] {
            assert!(compact(json.as_bytes()).is_err(), "{json}");
            assert!(
                serde_json::from_str::<serde_json::Value>(json).is_err(),
                "{json}"
            );
        }
    }
}
