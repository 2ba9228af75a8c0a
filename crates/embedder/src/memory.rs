//! Asks for memory before it is needed. Rust ends the process where an allocation fails, and Postgres then restarts the
//! whole cluster; ONNX Runtime and Postgres report an error.

use memmap2::MmapMut;

use crate::Error;

/// What a step takes beside what grows with its input, in bytes: a piece of a text that is tokenised, a batch's tensors.
const SPARE: usize = 4 << 20;

/// Errors: [`Error::OutOfMemory`] unless the system would let this process have `bytes` more.
pub fn ensure(bytes: usize) -> Result<(), Error> {
    let wanted = bytes.saturating_add(SPARE);
    // Given back at once, without having been touched. Measured: 4 µs.
    MmapMut::map_anon(wanted)
        .map(drop)
        .map_err(|_| Error::OutOfMemory { reason: format!("The system has refused {wanted} bytes.") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_cannot_give_is_an_error() {
        ensure(0).unwrap();
        ensure(1 << 20).unwrap();
        for impossible in [usize::MAX / 2, usize::MAX] {
            assert!(matches!(ensure(impossible), Err(Error::OutOfMemory { .. })));
        }
    }
}
