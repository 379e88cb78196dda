//! Rows of a shard that were written but are not committed yet.
//!
//! While one group of invocations is being committed, the next ones already
//! run: they must see what those before them wrote. Each row keeps its pending
//! values by the number of the invocation that wrote it, so that a commit can
//! take away the oldest and a failure the newest.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::rows::RowKey;

/// Pending rows of one shard. Numbers grow from one invocation to the next.
#[derive(Debug, Default)]
pub struct Overlay {
    rows: BTreeMap<RowKey, Vec<(u64, Option<Bytes>)>>,
}

impl Overlay {
    /// Notes what an invocation wrote.
    pub fn write(&mut self, number: u64, rows: &BTreeMap<RowKey, Option<Bytes>>) {
        for (row, value) in rows {
            self.rows
                .entry(row.clone())
                .or_default()
                .push((number, value.clone()));
        }
    }

    /// Forgets what invocations up to and including `number` wrote: it has been
    /// committed, the store has it.
    pub fn committed(&mut self, number: u64) {
        self.keep(|writer| writer > number);
    }

    /// Takes back what `number` and the invocations after it wrote.
    pub fn take_back(&mut self, number: u64) {
        self.keep(|writer| writer < number);
    }

    fn keep(&mut self, keep: impl Fn(u64) -> bool) {
        self.rows.retain(|_, values| {
            values.retain(|(writer, _)| keep(*writer));
            !values.is_empty()
        });
    }

    /// The latest pending value of a row, by its name within the shard:
    /// `Some(None)` if it was deleted, none if nothing is pending.
    pub fn get(&self, row: &[u8]) -> Option<Option<Bytes>> {
        let (_, value) = self.rows.get(row)?.last()?;
        Some(value.clone())
    }

    /// The latest pending values of a table's rows with keys in a range.
    pub fn range(
        &self,
        table: &str,
        start: Option<&[u8]>,
        end: Option<&[u8]>,
    ) -> BTreeMap<Bytes, Option<Bytes>> {
        range(&self.rows, table, start, end)
            .filter_map(|(key, values)| Some((key, values.last()?.1.clone())))
            .collect()
    }
}

/// The entries of a table whose keys are in a range.
pub(super) fn range<'a, V>(
    rows: &'a BTreeMap<RowKey, V>,
    table: &str,
    start: Option<&[u8]>,
    end: Option<&[u8]>,
) -> impl Iterator<Item = (Bytes, &'a V)> + use<'a, V> {
    let from = RowKey::new(table, start.unwrap_or_default());
    let to = match end {
        Some(end) => RowKey::new(table, end),
        None => RowKey::after(table),
    };
    rows.range(from..)
        .take_while(move |(row, _)| **row < to)
        .map(|(row, value)| (row.key(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str) -> RowKey {
        RowKey::new("t", key.as_bytes())
    }

    fn pending(overlay: &Overlay, row: &str) -> Option<Option<Bytes>> {
        overlay.get(key(row).record())
    }

    fn write(overlay: &mut Overlay, number: u64, row: &str, value: Option<&'static str>) {
        let value = value.map(|value| Bytes::from_static(value.as_bytes()));
        overlay.write(number, &BTreeMap::from([(key(row), value)]));
    }

    #[test]
    fn the_last_write_is_seen() {
        let mut overlay = Overlay::default();
        write(&mut overlay, 1, "a", Some("1"));
        write(&mut overlay, 2, "a", None);
        assert_eq!(pending(&overlay, "a"), Some(None));
        assert_eq!(pending(&overlay, "b"), None);
    }

    #[test]
    fn a_commit_leaves_what_was_written_after_it() {
        let mut overlay = Overlay::default();
        write(&mut overlay, 1, "a", Some("1"));
        write(&mut overlay, 1, "b", Some("1"));
        write(&mut overlay, 2, "a", Some("2"));
        overlay.committed(1);
        assert_eq!(pending(&overlay, "a"), Some(Some("2".into())));
        assert_eq!(pending(&overlay, "b"), None);
        overlay.committed(2);
        assert!(overlay.rows.is_empty());
    }

    #[test]
    fn what_is_taken_back_uncovers_what_was_before() {
        let mut overlay = Overlay::default();
        write(&mut overlay, 1, "a", Some("1"));
        write(&mut overlay, 2, "a", Some("2"));
        write(&mut overlay, 3, "b", Some("3"));
        overlay.take_back(2);
        assert_eq!(pending(&overlay, "a"), Some(Some("1".into())));
        assert_eq!(pending(&overlay, "b"), None);
    }

    #[test]
    fn a_range_is_of_one_table_and_ends_before_its_end() {
        let mut overlay = Overlay::default();
        for row in ["a", "b", "c"] {
            write(&mut overlay, 1, row, Some(row));
        }
        overlay.write(1, &BTreeMap::from([(RowKey::new("u", b"b"), None)]));
        let keys: Vec<_> = overlay
            .range("t", Some(b"b"), Some(b"c"))
            .into_keys()
            .collect();
        assert_eq!(keys, ["b"]);
        assert_eq!(overlay.range("t", None, None).len(), 3);
    }
}
