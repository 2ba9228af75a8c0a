//! `hybrid_search`: the chunks, or the rows, of a vectorizer that are nearest to a search text, and those that have its words, as one list
//! by reciprocal rank fusion. With the rights of who calls.

mod filter;
mod words;

use std::ffi::{CStr, CString};

use pgrx::fcinfo::pg_getarg_datum;
use pgrx::{pg_extern, pg_sys};

use self::filter::Filter;
use self::words::{Column, Words};
use super::catalog::{Place, Vectorizer};
use super::home::Home;
use super::query;
use super::source::KeyColumn;
use super::table::{Table, owned};
use crate::embed::text;
use crate::error::{Error, OrRaise, PipelineError, quotable};
use crate::spi::{Connection, SAFE_PATH, Value, joined, operator, quoted, statement, under};

/// `hybrid_search(vectorizer, query, k, filter, config, words, word_weight, candidates, rrf_k)`
#[pg_extern(sql = false)]
fn hybrid_search(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: Postgres passes a valid call of the function that sql/analysis.sql declares.
    unsafe {
        let search = Search::of_call(fcinfo).or_raise();
        pg_sys::InitMaterializedSRF(fcinfo, 0);
        if let Some(search) = search {
            search.run(fcinfo).or_raise();
        }
    }
}

/// The table of the vectors is `c` in it; `s` that of the texts, if it is another one and needed. What is told of a row is made of its
/// columns behind the limits: before them it would be made of every row. The words of a row are read once, not for each word of
/// the query, as they may be stored elsewhere: to add nothing to them makes a copy.
///
/// Functions, types and operators have their schemas: what the table's policies and columns call is to see the session's own
/// search_path. Columns are cast, as whoever the table belongs to may have changed their types.
const SEARCH: &str = "
    WITH vectors AS (
        SELECT {told}, r.distance, pg_catalog.row_number() OVER (ORDER BY r.distance) AS rank FROM (
            SELECT {row}, CAST(c.{embedding} {cosine} $1 AS pg_catalog.float8) AS distance
            FROM {tables} WHERE c.{embedding} IS NOT NULL{filter}
            ORDER BY c.{embedding} {cosine} $1 LIMIT $2) AS r),
    words AS (
        SELECT {told}, CAST(r.embedding {cosine} $1 AS pg_catalog.float8) AS distance,
            pg_catalog.row_number() OVER (ORDER BY r.weight DESC, r.embedding {cosine} $1) AS rank FROM (
            SELECT {row}, c.{embedding} AS embedding, (
                SELECT pg_catalog.sum(w.weight OPERATOR(pg_catalog.*) pg_catalog.ts_rank(d.words, w.query, 1))
                FROM (SELECT {words} OPERATOR(pg_catalog.||) CAST('' AS pg_catalog.tsvector) AS words OFFSET 0) AS d,
                    ROWS FROM (pg_catalog.unnest(CAST($3 AS pg_catalog.tsquery[])), pg_catalog.unnest($4)) AS w (query, weight)) AS weight
            FROM {tables} WHERE {words} OPERATOR(pg_catalog.@@) CAST($5 AS pg_catalog.tsquery)
                AND c.{embedding} IS NOT NULL{filter}
            ORDER BY weight DESC LIMIT $2) AS r),
    scored AS (
        SELECT coalesce(v.key, w.key) AS key, coalesce(v.ordinal, w.ordinal) AS ordinal, coalesce(v.content, w.content) AS content,
            coalesce(1.0 OPERATOR(pg_catalog./) ($6 OPERATOR(pg_catalog.+) v.rank), 0.0)
                OPERATOR(pg_catalog.+) ($7 OPERATOR(pg_catalog.*)
                coalesce(1.0 OPERATOR(pg_catalog./) ($6 OPERATOR(pg_catalog.+) w.rank), 0.0)) AS score,
            v.rank AS vector_rank, w.rank AS word_rank, coalesce(v.distance, w.distance) AS distance
        FROM vectors AS v FULL JOIN words AS w
            ON w.address OPERATOR(pg_catalog.=) v.address AND w.of OPERATOR(pg_catalog.=) v.of)
    SELECT * FROM scored AS s ORDER BY s.score DESC, s.distance LIMIT $8";

/// Rows that are asked for, or put together, at most: they are in memory at once.
const MAX_ROWS: i32 = 10_000;

/// The arguments of [`SEARCH`] before those of the filter.
const ARGUMENTS: usize = 8;

struct Search {
    home: Home,
    vectorizer: CString,
    query: CString,
    filter: Option<pg_sys::Datum>,
    config: Option<pg_sys::Oid>,
    words: Option<CString>,
    limit: i64,
    candidates: i64,
    word_weight: f64,
    rrf_k: f64,
}

impl Search {
    /// `None`: there is nothing to search for.
    ///
    /// # Safety
    /// `fcinfo` is that of the running function.
    unsafe fn of_call(fcinfo: pg_sys::FunctionCallInfo) -> Result<Option<Search>, Error> {
        let missing = |name| Error::from(PipelineError::NullArgument { name });
        // SAFETY: the caller's promise; the arguments are of the declared types.
        unsafe {
            let argument = |number| pg_getarg_datum(fcinfo, number);
            let number = |at, name| argument(at).map(|n| n.value() as i32).ok_or_else(|| missing(name));
            let vectorizer = argument(0).map(|name| owned(name)).ok_or_else(|| missing("vectorizer"))?;
            let Some(query) = argument(1).map(|query| owned(query)) else { return Ok(None) };
            let size = |at, name| match number(at, name)? {
                given @ 0..=MAX_ROWS => Ok(i64::from(given)),
                given => Err(Error::from(PipelineError::SearchSize { name, given, most: MAX_ROWS })),
            };
            let limit = size(2, "k")?;
            let weight = argument(6).ok_or_else(|| missing("word_weight"))?;
            let factor = |name, given: f64| match given.is_finite() && given >= 0.0 {
                true => Ok(given),
                false => Err(Error::from(PipelineError::SearchFactor { name, given })),
            };
            Ok(Some(Search {
                home: Home::of_call(fcinfo),
                vectorizer,
                query,
                filter: argument(3),
                config: argument(4).map(|config| pg_sys::Oid::from(config.value() as u32)),
                words: argument(5).map(|name| owned(name)),
                limit,
                candidates: limit.max(size(7, "candidates")?),
                word_weight: factor("word_weight", f64::from_bits(weight.value() as u64))?,
                rrf_k: factor("rrf_k", number(8, "rrf_k")?.into())?,
            }))
        }
    }

    /// Puts the rows found into the function's result.
    ///
    /// # Safety
    /// `fcinfo` is that of the running function, which has a result to fill.
    unsafe fn run(&self, fcinfo: pg_sys::FunctionCallInfo) -> Result<(), Error> {
        let connection = Connection::open();
        let vectorizer = Vectorizer::seen_by_name(&self.home, &connection, &self.vectorizer)?;
        if let Place::Beside(_) = vectorizer.place {
            // Not there for users until it takes the place of the one that they know.
            return Err(PipelineError::NoVectorizer { name: quotable(&self.vectorizer) }.into());
        }
        let texts = Table::open(vectorizer.relation)?;
        let vectors = vectorizer.place.table().map(Table::open).transpose()?;
        let vector_type = crate::embed::vector_type(self.home.function);
        vectorizer.open_model()?;
        let text = text::utf8(self.query.to_bytes());
        let vector = query::embed(vectorizer.model.clone(), &vectorizer.model_hash, &text)?;
        let Some(vector) = vector else { return Ok(()) };
        let key = KeyColumn::all_of(&texts)?;
        let filter = Filter::read(&connection, self.filter, vectors.as_ref(), &texts, ARGUMENTS)?;
        let column = Column::find(&connection, self.words.as_deref(), vectors.as_ref(), &texts)?;
        let words = Words::of(&self.home, &connection, &self.query, self.config, &column);

        let needs_texts = filter.needs_texts || column.is_of_texts;
        let tables = match &vectors {
            None => [texts.sql.as_slice(), b" AS c"].concat(),
            Some(vectors) if !needs_texts => [vectors.sql.as_slice(), b" AS c"].concat(),
            Some(vectors) => {
                let on = joined(" AND ", &key, |column| column.equal_columns("s", "c"));
                [vectors.sql.as_slice(), b" AS c JOIN ", &texts.sql, b" AS s ON ", &on].concat()
            }
        };
        let [row, told] = row(&vectorizer, &key);
        let sql = statement(
            SEARCH,
            &[
                ("cosine", cosine(&connection, vector_type).as_slice()),
                ("row", &row),
                ("told", &told),
                ("embedding", &quoted(vectorizer.place.column())),
                ("words", &column.sql),
                ("tables", &tables),
                ("filter", &filter.sql),
            ],
        );
        let mut arguments = vec![
            Value::of_type(vector_type, vector.into_datum()),
            Value::bigint(self.candidates),
            Value::texts(&words.queries),
            Value::floats(words.weights),
            Value::optional_text(words.choice.as_deref()),
            Value::float(self.rrf_k),
            Value::float(self.word_weight),
            Value::bigint(self.limit),
        ];
        arguments.extend(filter.arguments());
        let found = connection.look(&sql, &arguments);
        // SAFETY: the caller's promise; the statement's columns are of the declared types.
        unsafe { found.into_result(fcinfo) };
        Ok(())
    }
}

/// The operator of the type's own schema, as SQL has it: pgvector's may be another one than the extension's.
fn cosine(connection: &Connection, vector_type: pg_sys::Oid) -> Vec<u8> {
    let find = c"SELECT o.oid FROM pg_operator AS o, pg_type AS t
        WHERE t.oid = $1 AND o.oprname = '<=>' AND o.oprleft = t.oid AND o.oprright = t.oid AND o.oprnamespace = t.typnamespace";
    let found = under(&[SAFE_PATH], || connection.look(find, &[Value::oid(vector_type)]).first(1));
    // SAFETY: an operator that was just found. Both extensions' types have it; without it, the statement tells.
    found.map(|oid| unsafe { operator(pg_sys::Oid::from(oid.value() as u32)) }).unwrap_or(b"<=>".to_vec())
}

/// Where a row is, with the columns that it is told by; and what is told, of such a row `r`: its key, ordinal and content.
fn row(vectorizer: &Vectorizer, key: &[KeyColumn]) -> [Vec<u8>; 2] {
    let key: Vec<&CStr> = key.iter().map(|column| column.name.as_c_str()).collect();
    let sources: Vec<&CStr> = match &vectorizer.place {
        Place::Chunks { .. } => vec![c"ordinal", c"content"],
        Place::Column(_) | Place::Beside(_) => vectorizer.sources.iter().map(CString::as_c_str).collect(),
    };
    let numbered = |columns: &[&CStr], alias: &str| -> Vec<u8> {
        let columns: Vec<(usize, &CStr)> = (1..).zip(columns.iter().copied()).collect();
        let column = |(i, column): &(usize, &CStr)| {
            [b"c.".as_slice(), &quoted(column), format!(" AS {alias}{i}").as_bytes()].concat()
        };
        joined(", ", &columns, column)
    };
    let list = |columns: usize, format: fn(usize) -> String| -> Vec<u8> {
        (1..=columns).map(format).collect::<Vec<_>>().join(", ").into_bytes()
    };
    let from =
        [b"c.tableoid AS of, c.ctid AS address".as_slice(), &numbered(&key, "k"), &numbered(&sources, "s")]
            .join(b", ".as_slice());
    let of_text = match &vectorizer.place {
        Place::Chunks { .. } => {
            b"CAST(r.s1 AS pg_catalog.int4) AS ordinal, CAST(r.s2 AS pg_catalog.text) AS content".to_vec()
        }
        Place::Column(_) | Place::Beside(_) => {
            let sources = list(sources.len(), |i| format!("r.s{i}"));
            [b"1 AS ordinal, pg_catalog.concat_ws(E'\\n', ".as_slice(), &sources, b") AS content"].concat()
        }
    };
    let keys = list(key.len(), |i| format!("CAST(r.k{i} AS pg_catalog.text)"));
    let told = [b"r.of, r.address, ARRAY[".as_slice(), &keys, b"] AS key, ", &of_text].concat();
    [from, told]
}
