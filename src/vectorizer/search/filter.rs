//! The conditions of a search: a jsonb of columns and the values that rows must have in them.

use std::ffi::CString;

use pgrx::pg_sys;

use crate::error::{Error, PipelineError, quotable};
use crate::spi::{Connection, SAFE_PATH, Value, under};
use crate::vectorizer::source::KeyColumn;
use crate::vectorizer::table::{Table, owned_list};

/// Values are arguments of the statement: none is ever a part of its text.
#[derive(Default)]
pub struct Filter {
    /// ` AND ...` for each condition.
    pub sql: Vec<u8>,
    /// Whether a column is in the table of the texts, where that is not the one of the vectors.
    pub needs_texts: bool,
    values: Vec<Operand>,
}

enum Operand {
    One(CString),
    AnyOf(Vec<CString>),
}

impl Filter {
    /// `filter`: a jsonb, such as `{"tenant": 7, "lang": ["en", "de"], "deleted_at": null}`. `before`: how many arguments the
    /// statement has before those of the filter.
    ///
    /// # Errors
    /// [`PipelineError::NoColumn`], [`PipelineError::NoEquality`], [`PipelineError::FilterValue`].
    pub fn read(
        connection: &Connection,
        filter: Option<pg_sys::Datum>,
        vectors: Option<&Table>,
        texts: &Table,
        before: usize,
    ) -> Result<Filter, Error> {
        let list = c"SELECT f.key, jsonb_typeof(f.value), f.value #>> '{}',
                CASE jsonb_typeof(f.value) WHEN 'array' THEN ARRAY(SELECT jsonb_array_elements_text(f.value)) END,
                CASE jsonb_typeof(f.value) WHEN 'array' THEN
                    (SELECT string_agg(DISTINCT jsonb_typeof(e), ' ') FROM jsonb_array_elements(f.value) AS e) END
            FROM jsonb_each($1) AS f";
        let rows = under(&[SAFE_PATH], || connection.look(list, &[Value::jsonb(filter)]));
        let mut read = Filter::default();
        for row in 0..rows.len() {
            let name = rows.text(row, 1).unwrap_or_default();
            // The table of the vectors has the columns of the key, too, and its index may.
            let of_vectors = vectors.filter(|vectors| vectors.has_column(&name));
            let (alias, table) = match (of_vectors, vectors) {
                (Some(vectors), _) => ("c", vectors),
                (None, None) => ("c", texts),
                (None, Some(_)) => ("s", texts),
            };
            read.needs_texts |= alias == "s";
            let column = KeyColumn::to_compare(table, &name)?;
            let argument = format!("${}", before + read.values.len() + 1);
            let refused = |found| Error::from(PipelineError::FilterValue { column: quotable(&name), found });
            read.sql.extend(b" AND ");
            match rows.text(row, 2).unwrap_or_default().to_bytes() {
                b"null" => read.sql.extend(column.is_null(alias)),
                b"array" => {
                    let kinds = rows.text(row, 5).unwrap_or_default();
                    let kinds = quotable(&kinds);
                    if kinds.contains("object") || kinds.contains("array") {
                        return Err(refused("a list with more in it than values"));
                    }
                    if column.has_arrays() {
                        return Err(refused("a list, and its own values are arrays"));
                    }
                    // SAFETY: a text[] where the value is an array; NULLs are left out.
                    let values =
                        rows.datum(row, 4).map(|values| unsafe { owned_list(values) }).unwrap_or_default();
                    let any_of = column.any_of(alias, &argument);
                    let condition = match kinds.contains("null") {
                        true => [b"(".as_slice(), &any_of, b" OR ", &column.is_null(alias), b")"].concat(),
                        false => any_of,
                    };
                    read.sql.extend(condition);
                    read.values.push(Operand::AnyOf(values));
                }
                b"object" => return Err(refused("an object")),
                _ => {
                    read.sql.extend(column.condition(alias, &argument));
                    read.values.push(Operand::One(rows.text(row, 3).unwrap_or_default()));
                }
            }
        }
        Ok(read)
    }

    pub fn arguments(&self) -> impl Iterator<Item = Value> {
        self.values.iter().map(|value| match value {
            Operand::One(value) => Value::text(value),
            Operand::AnyOf(values) => Value::texts(values),
        })
    }
}
