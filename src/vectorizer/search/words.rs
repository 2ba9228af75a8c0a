//! The words of a search text: which rows they choose, and how much each of them tells.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::error::{Error, PipelineError, quotable};
use crate::spi::{Connection, SAFE_PATH, Value, quoted, under};
use crate::vectorizer::home::Home;
use crate::vectorizer::table::{Table, owned_list};

/// A column of type `tsvector`.
pub struct Column {
    /// With the alias of its table.
    pub sql: Vec<u8>,
    name: CString,
    table: pg_sys::Oid,
    /// Whether it is in the table of the texts, where that is not the one of the vectors.
    pub is_of_texts: bool,
}

impl Column {
    /// The column of that name, or else the only one there is: in the table of the vectors, if there is such a table, or in that of the
    /// texts.
    ///
    /// # Errors
    /// [`PipelineError::NoWords`], [`PipelineError::SeveralWords`].
    pub fn find(
        connection: &Connection,
        name: Option<&CStr>,
        vectors: Option<&Table>,
        texts: &Table,
    ) -> Result<Column, Error> {
        let find = c"SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
            AND a.atttypid = 'tsvector'::regtype AND a.attname = coalesce($2, a.attname)";
        for table in vectors.into_iter().chain([texts]) {
            let arguments = [Value::oid(table.oid), Value::optional_text(name)];
            let found = under(&[SAFE_PATH], || connection.look(find, &arguments));
            match (found.len(), name) {
                (0, _) => continue,
                (1, _) => {
                    let name = found.text(0, 1).unwrap_or_default();
                    let is_of_texts = vectors.is_some() && table.oid == texts.oid;
                    let alias = if is_of_texts { b"s.".as_slice() } else { b"c." };
                    let sql = [alias, &quoted(&name)].concat();
                    return Ok(Column { sql, name, table: table.oid, is_of_texts });
                }
                _ => return Err(PipelineError::SeveralWords { table: table.name() }.into()),
            }
        }
        let table = vectors.unwrap_or(texts).name();
        Err(match name {
            Some(name) => PipelineError::NoWordsOfThatName { column: quotable(name), table },
            None => PipelineError::NoWords { table, has_content: vectors.is_some() },
        }
        .into())
    }
}

/// Lexemes of a search text.
pub struct Words {
    /// A query for each, and what it weighs: the rarer it is, the more.
    pub queries: Vec<CString>,
    pub weights: Vec<f64>,
    /// What a row must have to be ranked; `None` for a text without a word.
    pub choice: Option<CString>,
}

/// Rows to rank, as far as the planner's statistics tell: the rarest word chooses rows, and others as long as there are no more rows
/// than this. Words that are left out count in the ranks of the others' rows. Measured on Cranfield, CISI and NPL: nDCG@10 is the
/// same with 1,000 as with 10,000, and .36 for .41 with 300 on NPL.
const MOST_RANKED: i32 = 2000;

/// Frequencies are those that ANALYZE has seen; a word that it has not kept has half of the least of them. Without statistics all weigh
/// the same, and all choose rows. Weights are ln(1 + 1 / frequency), as in BM25.
const LEXEMES: &str = "
    WITH kept AS (
        SELECT s.most_common_elems::text::text[] AS lexemes, s.most_common_elem_freqs AS frequencies
        FROM pg_stats AS s, pg_class AS c, pg_namespace AS n
        WHERE c.oid = $3 AND n.oid = c.relnamespace
            AND s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = $4
        ORDER BY s.inherited DESC LIMIT 1),
    asked AS (
        SELECT '''' || replace(replace(l.lexeme, E'\\\\', E'\\\\\\\\'), '''', '''''') || '''' AS query,
            nullif(coalesce(f.frequency, k.frequencies[cardinality(k.lexemes) + 1] / 2), 0)::float8 AS frequency
        FROM unnest(tsvector_to_array(to_tsvector($2, $1))) AS l (lexeme)
            LEFT JOIN kept AS k ON true
            LEFT JOIN LATERAL unnest(k.lexemes, k.frequencies) AS f (lexeme, frequency) ON f.lexeme = l.lexeme),
    chosen AS (
        SELECT a.query, ln(1 + 1 / coalesce(a.frequency, 0.5::float8)) AS weight,
            row_number() OVER rarest = 1 OR sum(coalesce(a.frequency, 0) * greatest(c.reltuples, 0)) OVER rarest <= $5 AS chooses
        FROM asked AS a, pg_class AS c WHERE c.oid = $3
        WINDOW rarest AS (ORDER BY a.frequency NULLS FIRST, a.query))
    SELECT array_agg(query), array_agg(weight),
        string_agg(query, ' | ') FILTER (WHERE chooses)
    FROM chosen";

impl Words {
    /// `config`: that of the session if none is given.
    pub fn of(
        home: &Home,
        connection: &Connection,
        text: &CStr,
        config: Option<pg_sys::Oid>,
        column: &Column,
    ) -> Words {
        // SAFETY: looks the setting up under the session's search_path, or raises an ERROR.
        let config = config.unwrap_or_else(|| unsafe { pg_sys::getTSCurrentConfig(true) });
        let arguments = [
            Value::text(text),
            Value::config(config),
            Value::oid(column.table),
            Value::text(&column.name),
            Value::int(MOST_RANKED),
        ];
        // With the extension's rights: statistics of a table with policies are hidden from who has to obey them. Of what they tell
        // only the weights of the text's own words are used.
        let rows = home.look(connection, LEXEMES, &arguments);
        // SAFETY: arrays of text and of float8 without NULLs, as the statement makes them.
        let (queries, weights) = unsafe {
            let list = |column| rows.first(column);
            (
                list(1).map(|queries| owned_list(queries)).unwrap_or_default(),
                list(2).map(|weights| floats(weights)).unwrap_or_default(),
            )
        };
        Words { queries, weights, choice: rows.text(0, 3) }
    }
}

/// The elements of a `float8[]`.
///
/// # Safety
/// Such an array, without NULLs.
unsafe fn floats(array: pg_sys::Datum) -> Vec<f64> {
    // SAFETY: the caller's promise.
    unsafe { pgrx::FromDatum::from_datum(array, false) }.unwrap_or_default()
}
