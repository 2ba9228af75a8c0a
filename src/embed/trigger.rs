//! `embed_trigger('target', 'model', 'source', ...)`: keeps a vector column in step with text columns.

use std::borrow::Cow;
use std::ffi::CStr;

use embedder::Kind;
use pgrx::prelude::*;
use pgrx::trigger_support::{
    called_as_trigger, trigger_fired_before, trigger_fired_by_insert, trigger_fired_by_update,
    trigger_fired_for_row,
};

use super::{models, text};
use crate::error::{Error, OrRaise, TriggerError};
use crate::vector::VectorBuf;

/// Returns the address of the tuple to store, as the trigger protocol wants.
#[pg_extern(sql = false)]
fn embed_trigger(fcinfo: pg_sys::FunctionCallInfo) -> i64 {
    // SAFETY: Postgres passes a valid call; called_as_trigger has seen that its context is a TriggerData.
    let tuple = unsafe {
        if called_as_trigger(fcinfo) {
            run(&*(*fcinfo).context.cast::<pg_sys::TriggerData>(), (*(*fcinfo).flinfo).fn_oid)
        } else {
            Err(TriggerError::NotATrigger.into())
        }
    };
    tuple.or_raise() as i64
}

/// # Safety
/// `data` is what Postgres passed to the trigger function `function`.
unsafe fn run(data: &pg_sys::TriggerData, function: pg_sys::Oid) -> Result<pg_sys::HeapTuple, Error> {
    let event = data.tg_event;
    let update = trigger_fired_by_update(event);
    if !trigger_fired_for_row(event)
        || !trigger_fired_before(event)
        || !(update || trigger_fired_by_insert(event))
    {
        return Err(TriggerError::WrongEvent.into());
    }
    // SAFETY: the caller's promise; a trigger has a name, `tgnargs` arguments and a relation with a tuple descriptor.
    let (arguments, row) = unsafe {
        let trigger = &*data.tg_trigger;
        let arguments: Vec<&CStr> =
            (0..trigger.tgnargs as usize).map(|i| CStr::from_ptr(*trigger.tgargs.add(i))).collect();
        let relation = data.tg_relation;
        (arguments, Row { relation: (*relation).rd_id, descriptor: (*relation).rd_att })
    };
    let [target, model, _, ..] = arguments.as_slice() else {
        return Err(TriggerError::TooFewArguments.into());
    };
    let target = row.vector_column(target, function)?;
    let sources: Vec<Column> =
        arguments[2..].iter().map(|name| row.text_column(name)).collect::<Result<_, _>>()?;

    let new = if update { data.tg_newtuple } else { data.tg_trigtuple };
    let new_texts: Vec<Option<Cow<str>>> = sources.iter().map(|source| row.text(new, source)).collect();
    // `SET embedding = NULL` asks for a new vector, and `SET body = body` for that of a row that is older than the trigger; a
    // statement about other columns does not.
    let names = |column: &Column| names(data, column);
    let wants_vector = row.value(new, &target).is_none() && (names(&target) || sources.iter().any(names));
    if update
        && !wants_vector
        && sources.iter().zip(&new_texts).all(|(source, text)| row.text(data.tg_trigtuple, source) == *text)
    {
        return Ok(new);
    }
    let present: Vec<&str> = new_texts.iter().flatten().map(|text| &**text).collect();
    let model = match model.to_bytes() {
        b"default" => None,
        name => Some(text::utf8(name)),
    };
    let embedded = models::embed(model.as_deref(), Kind::Document, &present.join("\n"), |vector| {
        vector.map(VectorBuf::from_slice)
    })?;
    let vector = embedded.transpose()?;
    if let (Some(vector), Some(expected)) = (&vector, target.dimensions)
        && vector.len() != expected
    {
        return Err(TriggerError::WrongDimensions { expected, found: vector.len() }.into());
    }
    Ok(row.with(new, &target, vector.map(VectorBuf::into_datum)))
}

/// Whether the UPDATE sets a column.
fn names(data: &pg_sys::TriggerData, column: &Column) -> bool {
    let member = column.number - pg_sys::FirstLowInvalidHeapAttributeNumber;
    // SAFETY: the set of the statement's columns, of numbers that begin with those of system columns.
    unsafe { pg_sys::bms_is_member(member, data.tg_updatedcols) }
}

/// A column, by its attribute number and type.
struct Column {
    number: i32,
    type_oid: pg_sys::Oid,
    /// The n of `vector(n)`.
    dimensions: Option<usize>,
}

/// The shape of the table's rows. Its tuples come from the same trigger call.
struct Row {
    relation: pg_sys::Oid,
    descriptor: pg_sys::TupleDesc,
}

impl Row {
    fn column(&self, name: &CStr) -> Result<Column, Error> {
        // SAFETY: a valid relation and a C string; SPI_fnumber gives a column's number, or something below 1 for
        // system columns and names unknown.
        unsafe {
            let number = pg_sys::SPI_fnumber(self.descriptor, name.as_ptr());
            if number < 1 {
                return Err(TriggerError::NoColumn(owned(name)).into());
            }
            let attribute = number as pg_sys::AttrNumber;
            if pg_sys::get_attgenerated(self.relation, attribute) != 0 {
                return Err(TriggerError::Generated(owned(name)).into());
            }
            let (mut declared, mut typmod, mut collation) = Default::default();
            pg_sys::get_atttypetypmodcoll(
                self.relation,
                attribute,
                &mut declared,
                &mut typmod,
                &mut collation,
            );
            let type_oid = pg_sys::getBaseTypeAndTypmod(declared, &mut typmod);
            Ok(Column { number, type_oid, dimensions: usize::try_from(typmod).ok() })
        }
    }

    /// A column of the type that this extension makes vectors of, not one that only has its name.
    fn vector_column(&self, name: &CStr, function: pg_sys::Oid) -> Result<Column, Error> {
        let column = self.column(name)?;
        if column.type_oid == vector_type(function) {
            Ok(column)
        } else {
            Err(TriggerError::NotAVector(owned(name)).into())
        }
    }

    fn text_column(&self, name: &CStr) -> Result<Column, Error> {
        let column = self.column(name)?;
        let mut category = 0;
        let mut preferred = false;
        // SAFETY: the type of a column exists.
        unsafe { pg_sys::get_type_category_preferred(column.type_oid, &mut category, &mut preferred) };
        if category as u8 == pg_sys::TYPCATEGORY_STRING {
            Ok(column)
        } else {
            Err(TriggerError::NotText(owned(name)).into())
        }
    }

    /// What a row has in a column; `None` for NULL.
    fn value(&self, tuple: pg_sys::HeapTuple, column: &Column) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the column's number came from this descriptor, and the tuple is one of its rows.
        let datum = unsafe { pg_sys::heap_getattr(tuple, column.number, self.descriptor, &mut is_null) };
        (!is_null).then_some(datum)
    }

    /// The text of a column; `None` for NULL.
    fn text(&self, tuple: pg_sys::HeapTuple, column: &Column) -> Option<Cow<'static, str>> {
        let datum = self.value(tuple, column)?;
        // SAFETY: a value of the column's type. The output function's result lives in the trigger's per-row memory
        // context.
        unsafe {
            let mut output = pg_sys::InvalidOid;
            let mut is_varlena = false;
            pg_sys::getTypeOutputInfo(column.type_oid, &mut output, &mut is_varlena);
            Some(text::utf8(CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, datum)).to_bytes()))
        }
    }

    /// A copy of `tuple` with another value in `column`.
    fn with(
        &self,
        tuple: pg_sys::HeapTuple,
        column: &Column,
        value: Option<pg_sys::Datum>,
    ) -> pg_sys::HeapTuple {
        let mut number = column.number;
        let mut is_null = value.is_none();
        let mut datum = value.unwrap_or(pg_sys::Datum::null());
        // SAFETY: one column, whose number came from this descriptor, with a datum of its type.
        unsafe {
            pg_sys::heap_modify_tuple_by_cols(
                tuple,
                self.descriptor,
                1,
                &mut number,
                &mut datum,
                &mut is_null,
            )
        }
    }
}

/// What `embed(text)` returns that is in the schema of `function`: the extension's own `vector`, or pgvector's, which may
/// be in another schema.
pub fn vector_type(function: pg_sys::Oid) -> pg_sys::Oid {
    let text = pg_sys::TEXTOID;
    // SAFETY: looks up catalog rows; buildoidvector copies the one argument type.
    unsafe {
        let embed = pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            pg_sys::Anum_pg_proc_oid as pg_sys::AttrNumber,
            c"embed".as_ptr().into(),
            pg_sys::buildoidvector(&text, 1).into(),
            pg_sys::get_func_namespace(function).into(),
            pg_sys::Datum::null(),
        );
        if embed == pg_sys::InvalidOid { embed } else { pg_sys::get_func_rettype(embed) }
    }
}

fn owned(name: &CStr) -> String {
    text::utf8(name.to_bytes()).into_owned()
}
