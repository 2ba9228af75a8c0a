//! The triggers of a vectorizer. They know its number; what it embeds they look up.

use super::catalog::Vectorizer;
use super::home::Home;
use super::table::Table;
use crate::spi::{Connection, SAFE_PATH, as_user, statement, under};

/// Makes the triggers of the vectorizer `id`: for a statement where they see all that happens; those of a partition, of a child, or of
/// what replication writes must be for each row. `always`: also for what replication writes.
pub fn make(home: &Home, connection: &Connection, table: &Table, id: i32, always: bool) {
    let mut triggers = vec![("truncate", "AFTER TRUNCATE ON {table} FOR EACH STATEMENT")];
    if always || !table.is_plain() {
        triggers.push(("write", "AFTER INSERT OR UPDATE ON {table} FOR EACH ROW"));
    } else {
        triggers
            .push(("insert", "AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT"));
        triggers.push((
            "update",
            "AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT",
        ));
    }
    let number = id.to_string();
    let parts = [("id", number.as_bytes())];
    for (event, when) in triggers {
        let create = format!(
            "CREATE TRIGGER vectorizer_{{id}}_{event} {when} EXECUTE FUNCTION {{home}}.vectorizer_enqueue({{id}})"
        );
        home.ddl(connection, table, &create, &parts);
        if always {
            let enable = format!("ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER vectorizer_{{id}}_{event}");
            home.ddl(connection, table, &enable, &parts);
        }
    }
}

pub fn drop(connection: &Connection, table: &Table, vectorizer: &Vectorizer) {
    let id = vectorizer.id.to_string();
    let parts = [("table", table.sql.as_slice()), ("id", id.as_bytes())];
    as_user(table.owner, || {
        under(&[SAFE_PATH, (c"client_min_messages", c"warning")], || {
            for event in ["truncate", "write", "insert", "update"] {
                let sql = format!("DROP TRIGGER IF EXISTS vectorizer_{{id}}_{event} ON {{table}}");
                connection.run(&statement(&sql, &parts), &[]);
            }
        });
    });
}
