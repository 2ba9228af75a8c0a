//! What backfills and vectorizers can refuse, and how it is said.

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::panic::ErrorReport;

use super::{presentable, report};
use crate::spi::Failure;

/// What `embed_backfill` and vectorizers can refuse.
#[derive(Debug)]
pub enum PipelineError {
    NullArgument {
        name: &'static str,
    },
    TransactionBlock {
        procedure: &'static str,
    },
    BatchSize {
        given: i32,
        most: i32,
    },
    NotATable {
        name: String,
    },
    NoSources,
    NoColumn {
        column: String,
        table: String,
    },
    NotAVector {
        column: String,
    },
    NotText {
        column: String,
    },
    Generated {
        column: String,
    },
    WrongDimensions {
        column: String,
        expected: usize,
        model: String,
        found: usize,
    },
    /// `embed_backfill`'s or a vectorizer's table has no key to tell rows by.
    NoPrimaryKey {
        table: String,
    },
    NotATrigger,
    /// The extension has been dropped meanwhile.
    NoExtension,
    Temporary {
        table: String,
    },
    /// By inheritance.
    HasChildren {
        table: String,
    },
    /// A generated column that is computed when it is read.
    Virtual {
        column: String,
    },
    /// An UPDATE has changed other rows than it was for: a trigger or a policy has kept it from them.
    NotWritten,
    /// A key was queued when the table had another primary key.
    OtherKey,
    /// Neither or both of target and destination.
    OnePlace,
    ChunksInAColumn,
    ChunkOption {
        name: String,
        value: String,
    },
    /// A column of the key has the name of one that a table of chunks has.
    ReservedColumn {
        column: String,
    },
    NameTaken,
    NoVectorizer {
        name: String,
    },
    /// A model's files are others than those that a vectorizer's vectors were made with.
    ModelChanged {
        name: String,
        model: String,
    },
    /// A vectorizer, after this transaction began, which therefore does not see it.
    ChangedSince,
    /// A change of a vectorizer's model is on its way.
    ModelChanges {
        next: String,
    },
    /// A view keeps a column from getting other dimensions.
    UsedByView {
        view: String,
        column: String,
        now: usize,
        then: usize,
    },
    /// A number of rows of a search.
    SearchSize {
        name: &'static str,
        given: i32,
        most: i32,
    },
    /// What ranks are multiplied with, or made less different by.
    SearchFactor {
        name: &'static str,
        given: f64,
    },
    /// A search by words wants a column of them.
    NoWords {
        table: String,
        /// Whether it is a table of chunks, whose column of text is known.
        has_content: bool,
    },
    NoWordsOfThatName {
        column: String,
        table: String,
    },
    SeveralWords {
        table: String,
    },
    /// A column of a type without equality.
    NoEquality {
        column: String,
    },
    /// A value of a filter that no column can have.
    FilterValue {
        column: String,
        found: &'static str,
    },
    /// A WARNING: the others have their vectors.
    SomeFailed {
        failed: u64,
        failure: Failure,
    },
}

pub fn report_of(error: PipelineError) -> ErrorReport {
    use PipelineError as E;
    match error {
        E::NullArgument { name } => {
            report(Code::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{name} must not be null"))
        }
        E::TransactionBlock { procedure } => report(
            Code::ERRCODE_ACTIVE_SQL_TRANSACTION,
            format!("{procedure} cannot run inside a transaction block"),
        )
        .set_detail("It commits after each batch of rows."),
        E::BatchSize { given, most } => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("batch_size must be between 1 and {most}, not {given}"),
        ),
        E::NotATable { name } => {
            report(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("\"{name}\" is not a table"))
        }
        E::NoSources => {
            report(Code::ERRCODE_INVALID_PARAMETER_VALUE, "sources must name at least one column of text")
        }
        E::NoColumn { column, table } => report(
            Code::ERRCODE_UNDEFINED_COLUMN,
            format!("column \"{column}\" of relation \"{table}\" does not exist"),
        ),
        E::NotAVector { column } => {
            report(Code::ERRCODE_DATATYPE_MISMATCH, format!("column \"{column}\" is not of type vector"))
        }
        E::NotText { column } => {
            report(Code::ERRCODE_DATATYPE_MISMATCH, format!("column \"{column}\" is not text"))
        }
        E::Generated { column } => {
            report(Code::ERRCODE_GENERATED_ALWAYS, format!("column \"{column}\" is a generated column"))
                .set_detail("Postgres computes its value itself.")
        }
        E::WrongDimensions { column, expected, model, found } => report(
            Code::ERRCODE_DATA_EXCEPTION,
            format!("column \"{column}\" has {expected} dimensions, model \"{model}\" has {found}"),
        ),
        E::NoPrimaryKey { table } => report(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table \"{table}\" has no primary key"),
        )
        .set_detail("A vectorizer knows rows by their primary key."),
        E::NotATrigger => report(
            Code::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "vectorizer_enqueue is for the triggers that vectorizer_create makes",
        ),
        E::NoExtension => report(Code::ERRCODE_UNDEFINED_OBJECT, "the extension is not there any more"),
        E::Temporary { table } => report(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("\"{table}\" is a temporary table, which no background worker can read"),
        ),
        E::HasChildren { table } => report(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("table \"{table}\" has children by inheritance, whose rows a vectorizer would not see"),
        )
        .set_hint("Partition the table, or make a vectorizer for each child."),
        E::Virtual { column } => report(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("column \"{column}\" is computed when it is read, so that nothing tells when it changes"),
        ),
        E::NotWritten => report(
            Code::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
            "the row was not updated: a trigger or a policy of the table kept it from being written",
        ),
        E::OtherKey => report(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the row was queued when the table had another primary key",
        ),
        E::OnePlace => {
            report(Code::ERRCODE_INVALID_PARAMETER_VALUE, "either target or destination must be given")
                .set_hint(
                    "target names a column of the same table, destination a table of chunks, which is made.",
                )
        }
        E::ChunksInAColumn => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "a column has one vector for a row, not one for each chunk",
        )
        .set_hint("Name a destination for the chunks."),
        E::ChunkOption { name, value } => {
            report(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("chunk cannot have \"{name}\": {value}"))
                .set_hint("It takes max_tokens, overlap, and format: plain or markdown.")
        }
        E::ReservedColumn { column } => report(
            Code::ERRCODE_DUPLICATE_COLUMN,
            format!("the table of chunks has a column \"{column}\" of its own"),
        )
        .set_detail("It gets the columns of the source's primary key."),
        E::NameTaken => report(Code::ERRCODE_DUPLICATE_OBJECT, "there is a vectorizer of that name already")
            .set_hint("Give it another one: name => '...'."),
        E::NoVectorizer { name } => {
            report(Code::ERRCODE_UNDEFINED_OBJECT, format!("vectorizer \"{name}\" does not exist"))
        }
        E::ModelChanged { name, model } => report(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("model \"{model}\" is not the one that has made the vectors of vectorizer \"{name}\""),
        )
        .set_detail("Its files have changed. Vectors of two models cannot be compared.")
        .set_hint("vectorizer_alter with this model, or another one, embeds all rows again."),
        E::ChangedSince => report(
            Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "could not serialize access due to concurrent change of a vectorizer",
        ),
        E::ModelChanges { next } => report(
            Code::ERRCODE_OBJECT_IN_USE,
            format!("a change of model is on its way: vectorizer \"{next}\""),
        )
        .set_hint("Wait until it is gone from vectorizer_status, or drop it to stay with the old model."),
        E::UsedByView { view, column, now, then } => report(
            Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            format!("column \"{column}\" cannot have {then} dimensions instead of {now}: view {view} depends on it"),
        )
        .set_hint("Drop the view, and make it again when the model has changed."),
        E::SearchSize { name, given, most } => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("{name} must be between 0 and {most}, not {given}"),
        ),
        E::SearchFactor { name, given } => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("{name} must be finite and not negative, not {given}"),
        ),
        E::NoWords { table, has_content } => {
            let report = report(
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("table \"{table}\" has no column of type tsvector"),
            );
            let column = if has_content { "content" } else { "..." };
            report.set_hint(presentable(format!(
                "Add one, and an index: ALTER TABLE {table} ADD words tsvector GENERATED ALWAYS AS \
                 (to_tsvector('english', {column})) STORED; CREATE INDEX ON {table} USING gin (words)."
            )))
        }
        E::NoWordsOfThatName { column, table } => report(
            Code::ERRCODE_UNDEFINED_COLUMN,
            format!("column \"{column}\" of type tsvector of relation \"{table}\" does not exist"),
        ),
        E::SeveralWords { table } => report(
            Code::ERRCODE_AMBIGUOUS_COLUMN,
            format!("table \"{table}\" has several columns of type tsvector"),
        )
        .set_hint("Name one: words => '...'."),
        E::NoEquality { column } => report(
            Code::ERRCODE_UNDEFINED_FUNCTION,
            format!("column \"{column}\" has a type without equality"),
        ),
        E::FilterValue { column, found } => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("filter of column \"{column}\" is {found}"),
        )
        .set_hint("Give a value, null, or a list of these, one of which the column must have; an array as a text, such as \"{a,b}\"."),
        E::SomeFailed { failed, failure } => {
            report(failure.sqlstate.into(), format!("could not embed {failed} of the rows"))
                .set_detail(presentable(format!("The first one: {}", failure.message)))
        }
    }
}
