//! Text and binary input and output.

use super::datum::{MAX_DIMENSIONS, Palloced, Vector, VectorBuf, check_dimensions, check_typmod};
use crate::error::{Error, OrRaise, quotable};
use ivf::vector::check_finite;
use pgrx::{Internal, prelude::*};
use std::ffi::{CStr, c_char, c_int};

#[pg_extern(sql = false)]
fn vector_in(input: &CStr, _element: pg_sys::Oid, typmod: i32) -> VectorBuf {
    let vector = parse(input).or_raise();
    check_typmod(typmod, vector.len()).or_raise();
    vector
}

/// `[x, y, ...]` with white space anywhere but inside a number.
fn parse(input: &CStr) -> Result<VectorBuf, Error> {
    let syntax = |detail| Error::Syntax { input: quotable(input), detail };
    let mut text = Cursor { rest: input.to_bytes_with_nul() };
    if text.after_space() != b'[' {
        return Err(syntax(Some("Vector contents must start with \"[\".")));
    }
    text.advance(1);
    if text.after_space() == b']' {
        return Err(Error::NoDimensions);
    }
    // If this is a vector at all, each comma is between two elements.
    let mut vector = VectorBuf::zeroed((text.commas() + 1).min(MAX_DIMENSIONS))?;
    let mut dim = 0;
    loop {
        let element = vector.get_mut(dim).ok_or(Error::TooManyDimensions)?;
        if text.after_space() == 0 {
            return Err(syntax(None));
        }
        *element = text.number()?.ok_or_else(|| syntax(None))?;
        dim += 1;
        let separator = text.after_space();
        match separator {
            b',' => text.advance(1),
            b']' => break,
            _ => return Err(syntax(None)),
        }
    }
    text.advance(1);
    if text.after_space() != 0 {
        return Err(syntax(Some("Junk after closing right brace.")));
    }
    Ok(vector)
}

/// What is left to read; ends with the input's terminating zero byte.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    /// Goes past `n` bytes, none of them the terminating zero.
    fn advance(&mut self, n: usize) {
        self.rest = &self.rest[n..];
    }

    /// Goes past white space and looks at the byte after it; 0 is the end.
    fn after_space(&mut self) -> u8 {
        while let b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c = self.rest[0] {
            self.advance(1);
        }
        self.rest[0]
    }

    fn commas(&self) -> usize {
        // Sums of up to 255 fit a byte, which makes this fast SIMD.
        let commas = |chunk: &[u8]| chunk.iter().map(|&byte| u8::from(byte == b',')).sum::<u8>();
        self.rest.chunks(255).map(|chunk| usize::from(commas(chunk))).sum()
    }

    /// Reads a finite number as `strtof` would; `None` when there is none. Underflow gives 0.
    fn number(&mut self) -> Result<Option<f32>, Error> {
        // A decimal number, and nothing that only strtof understands (hexadecimal, say) after it.
        if let Ok((x, len)) = fast_float2::parse_partial::<f32, _>(self.rest)
            && x.is_finite()
            && let b',' | b']' | b' ' = self.rest[len]
        {
            self.advance(len);
            return Ok(Some(x));
        }
        let start = self.rest.as_ptr().cast::<c_char>();
        let mut end = std::ptr::null_mut();
        // SAFETY: `rest` ends with a zero byte, which strtof does not go past. Postgres keeps LC_NUMERIC at C.
        let (x, len) = unsafe {
            let x = libc::strtof(start, &mut end);
            (x, end.cast_const().offset_from(start) as usize)
        };
        let number = &self.rest[..len];
        if x.is_infinite() && !number.contains(&b'i') && !number.contains(&b'I') {
            return Err(Error::OutOfRange { number: String::from_utf8_lossy(number).into_owned() });
        }
        check_finite(&[x])?;
        self.advance(len);
        Ok((len > 0).then_some(x))
    }
}

unsafe extern "C" {
    /// Postgres's own shortest round-trip printer (common/shortest_dec.h): no terminating zero byte, no ERROR.
    fn float_to_shortest_decimal_bufn(x: f32, result: *mut c_char) -> c_int;
}
const FLOAT_SHORTEST_DECIMAL_LEN: usize = 16;

#[pg_extern(sql = false)]
fn vector_out(vector: Vector<'_>) -> Palloced {
    // Per element a number of at most 15 bytes and a separator; a bracket and the terminating zero.
    Palloced::bytes(vector.len() * FLOAT_SHORTEST_DECIMAL_LEN + 2, |text| {
        let mut at = 0;
        for (i, &x) in vector.iter().enumerate() {
            text[at].write(if i == 0 { b'[' } else { b',' });
            let room = &mut text[at + 1..][..FLOAT_SHORTEST_DECIMAL_LEN - 1];
            // SAFETY: the printer writes into FLOAT_SHORTEST_DECIMAL_LEN - 1 bytes, and not only those it returns.
            at += 1 + unsafe { float_to_shortest_decimal_bufn(x, room.as_mut_ptr().cast()) } as usize;
        }
        text[at].write(b']');
        text[at + 1].write(0);
    })
}

/// `int16 dim | int16 unused = 0 | dim x float4`, big endian.
#[pg_extern(sql = false)]
fn vector_recv(message: Internal, _element: pg_sys::Oid, typmod: i32) -> VectorBuf {
    // SAFETY: Postgres passes receive functions a StringInfo.
    let message = unsafe { message.get::<pg_sys::StringInfoData>() };
    let message = std::ptr::from_ref(message.expect("a receive function has a message")).cast_mut();
    // SAFETY: as above.
    let (dim, unused) = unsafe { (pg_sys::pq_getmsgint(message, 2), pg_sys::pq_getmsgint(message, 2)) };
    let dim = dim as usize;
    check_dimensions(dim).or_raise();
    check_typmod(typmod, dim).or_raise();
    if unused != 0 {
        Error::UnusedNotZero(unused).raise();
    }
    let mut vector = VectorBuf::zeroed(dim).or_raise();
    // SAFETY: `len - cursor` bytes at `data + cursor` are unread.
    let unread = unsafe {
        let cursor = (*message).cursor;
        std::slice::from_raw_parts(
            (*message).data.offset(cursor as isize).cast::<u8>(),
            ((*message).len - cursor) as usize,
        )
    };
    for (x, bytes) in vector.iter_mut().zip(unread.as_chunks().0) {
        *x = f32::from_be_bytes(*bytes);
    }
    check_finite(&vector).or_raise();
    // Goes past the elements, or raises when some are missing.
    // SAFETY: as above.
    unsafe { pg_sys::pq_getmsgbytes(message, (dim * size_of::<f32>()) as c_int) };
    vector
}

#[pg_extern(sql = false)]
fn vector_send(vector: Vector<'_>) -> Palloced {
    Palloced::varlena(2 * size_of::<u16>() + size_of_val(&*vector), |message| {
        let (head, elements) = message.split_at_mut(2 * size_of::<u16>());
        head[..2].copy_from_slice(&(vector.len() as u16).to_be_bytes());
        for (bytes, x) in elements.as_chunks_mut().0.iter_mut().zip(vector.iter()) {
            *bytes = x.to_be_bytes();
        }
    })
}
