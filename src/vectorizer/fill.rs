//! Queues rows that are there already.

use std::ffi::CString;

use super::enqueue::{KEYS_PER_ROW, WRITING};
use super::queue;
use super::source::Source;
use crate::spi::{Connection, Value, as_user, at_latest_snapshot, joined, quoted, statement, under};

impl Source<'_> {
    /// Puts the keys of all rows into the queue of the vectorizer `id`, or of those for which `condition` is true, where the table
    /// is `t`. The table is locked against writers, or has the triggers already.
    pub fn queue_rows(&self, id: i32, condition: &[u8]) {
        let owner = self.table.owner;
        let columns = joined(", ", &self.key, |column| [b"t.".as_slice(), &quoted(&column.name)].concat());
        let parts = [("table", self.table.sql.as_slice()), ("columns", &columns), ("condition", condition)];
        let list = statement("SELECT {columns} FROM {table} AS t WHERE {condition}", &parts);
        // Also what others have committed while this one waited for the lock.
        let cursor = at_latest_snapshot(|| as_user(owner, || self.connection.cursor_to_look(&list, &[])));
        loop {
            let inner = Connection::open();
            let rows = as_user(owner, || under(&WRITING, || cursor.fetch(KEYS_PER_ROW)));
            if rows.is_empty() {
                break;
            }
            let keys: Vec<CString> = under(&WRITING, || {
                let all =
                    (0..rows.len()).flat_map(|row| (1..=self.key.len()).map(move |column| (row, column)));
                all.filter_map(|(row, column)| rows.text(row, column)).collect()
            });
            let arguments = [Value::int(id), Value::texts(&keys), Value::int(self.key.len() as i32)];
            self.home.run(&inner, queue::ADD, &arguments);
        }
        cursor.close();
    }
}

/// The condition that a row has text in one of these columns.
pub fn has_text(sources: &[CString]) -> Vec<u8> {
    let any = joined(" OR ", sources, |source| [b"t.", quoted(source).as_slice(), b" IS NOT NULL"].concat());
    [b"(".as_slice(), &any, b")"].concat()
}
