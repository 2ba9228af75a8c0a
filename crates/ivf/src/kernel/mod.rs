//! Exact distance kernels: `simsimd` picks the instruction set at run time; [`naive`] is the scalar twin of each.

pub mod naive;
